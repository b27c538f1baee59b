#!/usr/bin/env python3
"""Tiny random-weight rerankers of both families, and scores of pairs from transformers, in double precision.

Deterministic. Writes the models to tests/fixtures/rerankers/<model>/ (config.json, model.safetensors, tokenizer.json) and
the scores to tests/golden/reranker_scores.json.

    pip install torch==2.15.0 transformers==5.23.0
    python tests/golden/make_reranker_scores.py MINILM_FOLDER

MINILM_FOLDER holds all-MiniLM-L6-v2. Its encoder and pooler with a head of fixed numbers are a model of real size: the
scores mean nothing, but real activations run through every layer. Only passages are cut, as `only_second` says. With two
classes the score is the difference of their logits.
"""

import json
import math
import pathlib
import shutil
import sys

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/rerankers"
POSITIONS = 64

QUERIES = [
    "What happens to a value when its owner is gone?",
    "café prices in Zürich",
    "x",
]
PASSAGES = [
    "Ownership is a set of rules that govern how a program manages memory. When the owner goes out of scope, the value "
    "will be dropped.",
    "The cat sat on the mat.",
    "",
    "Crème brûlée costs 12,50 € – naïve café, Zürich; 東京は大きい。",
    "fn main() { let v: Vec<i32> = (0..10).map(|x| x * x).collect(); println!(\"{v:?}\"); }",
    " ".join(f"Section {i}: the borrow checker compares scopes to see whether all borrows are valid." for i in range(40)),
    "a",
]
SHAPE = dict(hidden_size=64, num_attention_heads=2, num_hidden_layers=2, intermediate_size=96)


def words(normalizer, pre_tokenizer):
    """The words of all texts as a tokenizer sees them, sorted."""
    texts = (normalizer.normalize_str(text) for text in QUERIES + PASSAGES)
    return sorted({word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text)})


def word_piece():
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    known = words(normalizer, pre_tokenizer)
    letters = sorted(set("".join(known)))
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    entries += [word for word in known[::2] if len(word) > 1]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(entries[:5])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def unigram():
    normalizer, pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    known = words(normalizer, pre_tokenizer)
    entries = [(special, 0.0) for special in ("<s>", "<pad>", "</s>", "<unk>")]
    entries += [(letter, -9.0) for letter in sorted(set("".join(known)))]
    entries += [(word, -7.0 - 0.1 * len(word)) for word in known if len(word) > 1]
    entries.append(("<mask>", 0.0))
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=3))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def build(family, options, tokenizer, labels, seed):
    config = AutoConfig.for_model(family, vocab_size=tokenizer.get_vocab_size(), num_labels=labels, **SHAPE, **options)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1.0 + 0.2 * noise if "LayerNorm.weight" in name else 0.3 * noise)
            else:
                parameter.copy_(noise * (0.5 if "embeddings" in name else 1.2 / math.sqrt(parameter.shape[1])))
    return model


@torch.inference_mode()
def scores(model, tokenizer):
    model = model.double()
    rows = []
    for query in QUERIES:
        row = []
        for passage in PASSAGES:
            # Lists: alone, an empty second text would count as none.
            encoded = tokenizer([query], [passage], truncation="only_second", max_length=tokenizer.model_max_length,
                                return_tensors="pt", return_token_type_ids=True)
            if model.config.type_vocab_size == 1:
                assert not encoded["token_type_ids"].any()
            logits = model(**encoded).logits[0].tolist()
            row.append(round(logits[0] if len(logits) == 1 else logits[1] - logits[0], 7))
        rows.append(row)
    return rows


def main(minilm: pathlib.Path) -> None:
    cases = []
    families = [
        ("bert", "bert", dict(max_position_embeddings=POSITIONS, pad_token_id=0), word_piece(), 1),
        ("bert-two-classes", "bert", dict(max_position_embeddings=POSITIONS, pad_token_id=0), word_piece(), 2),
        ("xlm-roberta", "xlm-roberta", dict(
            max_position_embeddings=POSITIONS + 2, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
            layer_norm_eps=1e-5), unigram(), 1),
    ]
    for seed, (name, family, options, tokenizer, labels) in enumerate(families):
        folder = FIXTURES / name
        shutil.rmtree(folder, ignore_errors=True)
        model = build(family, options, tokenizer, labels, seed)
        model.save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=POSITIONS, model_input_names=["input_ids", "token_type_ids"]
        )
        cases.append({"model": name, "scores": scores(model, fast)})
    model = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=1).eval()
    hidden = model.config.hidden_size
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[math.sin(i + 1.0) for i in range(hidden)]]))
        model.classifier.bias.copy_(torch.tensor([0.25]))
    tokenizer = AutoTokenizer.from_pretrained(minilm, model_max_length=model.config.max_position_embeddings)
    cases.append({"model": "minilm", "scores": scores(model, tokenizer)})
    header = {
        "command": "python tests/golden/make_reranker_scores.py MINILM_FOLDER",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "queries": QUERIES,
        "passages": PASSAGES,
    }
    path = ROOT / "tests/golden/reranker_scores.json"
    path.write_text(json.dumps(header | {"cases": cases}, ensure_ascii=False, indent=1) + "\n")


main(pathlib.Path(sys.argv[1]))

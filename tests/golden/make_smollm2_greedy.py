#!/usr/bin/env python3
"""Choices of SmolLM2-135M-Instruct (Q4_1 GGUF) by llama.cpp, for 20 prompts of varied kind and length.

    pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
    python tests/golden/make_smollm2_greedy.py MODEL.gguf > tests/golden/smollm2_greedy.json

For each prompt:
- `prompt` and `tokens`: its tokens, and the 128 tokens that greedy decoding continues with, one by one. Every token is a
  choice, the end of a turn too: decoding goes on after it.
- `gaps`: at each of these steps the gap between the largest and the second largest logit: where another
  implementation chooses another token, the gap says how close the choice was.
- `batched`: the steps at which llama.cpp itself chooses another token when it is given the same tokens in batches of 512
  rather than one by one. With activations rounded to 8 bits, the last bit of a sum decides which way a value is rounded,
  so that these choices show how far two equally good evaluations lie apart.
- `exact`: choices and gaps with the same weights expanded to f32, so that nothing is rounded but keys and values, after
  the same tokens.
"""

import hashlib
import json
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

CONTINUED = 128
CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" \
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PASSAGE = (
    "The lighthouse at Skerry Point was built in 1871 after the loss of the brig Amelia. Its lamp burned colza oil until "
    "1904, when it was replaced by a paraffin vapour burner, and in 1962 by an electric lamp of 250 watts. The tower is 31 "
    "metres high and stands on a reef that is covered at high tide. Three keepers lived in it at a time, each for six "
    "weeks, and were relieved by boat when the weather allowed it. The last keeper left on 4 October 1988. "
)
PROMPTS = {
    "capital": CHAT.format("What is the capital of France?"),
    "story": CHAT.format("Write a short story about a dog who finds a map."),
    "list": CHAT.format("List five things to pack for a day of hiking."),
    "python": CHAT.format("Write a Python function that returns the n-th Fibonacci number."),
    "arithmetic": CHAT.format("A train goes 60 km in 45 minutes. How fast is it in km per hour?"),
    "translate": CHAT.format("Translate to French: The weather is fine today."),
    "haiku": CHAT.format("Write a haiku about snow."),
    "explain": CHAT.format("Explain how a refrigerator works, to a child."),
    "passage": CHAT.format("Answer from the text.\n\n" + PASSAGE + "\n\nQuestion: How high is the tower?"),
    "passages": CHAT.format(
        "Answer from the passages.\n\n" + "\n\n".join(f"[{i}] {PASSAGE}" for i in range(1, 5))
        + "\n\nQuestion: When did the last keeper leave?"),
    "summary": CHAT.format("Summarise in one sentence:\n\n" + PASSAGE * 3),
    "json": CHAT.format('Give the name and age of a person as JSON with the keys "name" and "age".'),
    "plain": "Once upon a time, in a village by the sea, there lived",
    "word": "The",
    "code": "def quicksort(items):\n    \"\"\"Sort a list.\"\"\"\n",
    "markdown": "# Installation\n\nTo install the package, run\n\n```bash\n",
    "numbers": "1, 2, 3, 5, 8, 13, 21,",
    "unicode": "Grüße aus Köln! 東京は日本の首都です。 🎉 Здравствуйте,",
    "repeated": "the quick brown fox jumps over the lazy dog " * 40,
    "long": CHAT.format("What do these notes have in common?\n\n" + "\n".join(
        f"{i}. On day {i} the barometer stood at {990 + i * 7 % 41} hPa and the wind blew from the "
        f"{['north', 'east', 'south', 'west'][i % 4]} at {3 + i * 5 % 17} knots." for i in range(1, 41))),
}


def load(path, **options):
    # One thread: the result does not depend on it, and two that share a core with others wait for each other.
    return llama_cpp.Llama(path, n_ctx=2048, n_batch=512, n_threads=1, n_threads_batch=1, verbose=False, **options)


def greedy(model, prompt):
    model.reset()
    model.eval(prompt)
    tokens, gaps = [], []
    for _ in range(CONTINUED):
        logits = np.array(model._ctx.get_logits_ith(-1)[: model.n_vocab()])
        first, second = np.sort(np.partition(logits, -2)[-2:])[::-1]
        tokens.append(int(logits.argmax()))
        gaps.append(float(f"{first - second:.5g}"))
        model.eval([tokens[-1]])
    return tokens, gaps


def choices(model, prompt, tokens):
    """The choice, and its gap, after the prompt and after each token but the last."""
    model.reset()
    model.eval(prompt + tokens[:-1])
    logits = model.scores[len(prompt) - 1 : len(prompt) + len(tokens) - 1]
    top = np.sort(np.partition(logits, -2, axis=1)[:, -2:], axis=1)
    return logits.argmax(1).tolist(), [float(f"{gap:.5g}") for gap in top[:, 1] - top[:, 0]]


def write_expanded(source, path):
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in (
            "general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(path):
    model = load(path)
    cases = []
    for name, text in PROMPTS.items():
        prompt = model.tokenize(text.encode(), add_bos=False, special=True)
        tokens, gaps = greedy(model, prompt)
        cases.append(dict(name=name, prompt=prompt, tokens=tokens, gaps=gaps))
    model = load(path, logits_all=True)
    for case in cases:
        chosen, _ = choices(model, case["prompt"], case["tokens"])
        case["batched"] = [i for i, token in enumerate(case["tokens"]) if chosen[i] != token]
    with tempfile.NamedTemporaryFile(suffix=".gguf") as expanded:
        write_expanded(path, expanded.name)
        model = load(expanded.name, logits_all=True)
        for case in cases:
            chosen, gaps = choices(model, case["prompt"], case["tokens"])
            case["exact"] = dict(choices=chosen, gaps=gaps)
    golden = dict(
        made_by="python tests/golden/make_smollm2_greedy.py", llama_cpp_python=llama_cpp.__version__,
        model_sha256=hashlib.sha256(open(path, "rb").read()).hexdigest(), cases=cases,
    )
    print(json.dumps(golden).replace('{"name"', '\n{"name"'))


main(sys.argv[1])

#!/usr/bin/env python3
"""Greedy continuations of SmolLM2-135M-Instruct (Q4_1 GGUF) by llama.cpp, for 20 prompts of varied kind and length.

    pip install llama-cpp-python==0.3.36 numpy==2.4.6
    python tests/golden/make_smollm2_greedy.py MODEL.gguf > tests/golden/smollm2_greedy.json

For each prompt its tokens, the 128 tokens llama.cpp continues with, and at each step the gap between its largest and
second largest logit: where another implementation of the same arithmetic chooses another token, the gap says how close
the choice was. Every token is a choice, the end of a turn too: decoding goes on after it.
"""

import hashlib
import json
import sys

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


def main(path):
    model = llama_cpp.Llama(path, n_ctx=2048, n_batch=512, n_threads=1, n_threads_batch=1, logits_all=False, verbose=False, seed=0)
    cases = []
    for name, text in PROMPTS.items():
        prompt = model.tokenize(text.encode(), add_bos=False, special=True)
        model.reset()
        model.eval(prompt)
        tokens, gaps = [], []
        for _ in range(CONTINUED):
            logits = np.array(model._ctx.get_logits_ith(-1)[: model.n_vocab()])
            first, second = np.sort(np.partition(logits, -2)[-2:])[::-1]
            tokens.append(int(logits.argmax()))
            gaps.append(float(f"{first - second:.5g}"))
            model.eval([tokens[-1]])
        cases.append(dict(name=name, prompt=prompt, tokens=tokens, gaps=gaps))
        print(name, len(prompt), min(gaps), file=sys.stderr)
    golden = dict(
        made_by="python tests/golden/make_smollm2_greedy.py", llama_cpp_python=llama_cpp.__version__,
        model_sha256=hashlib.sha256(open(path, "rb").read()).hexdigest(), cases=cases,
    )
    print(json.dumps(golden).replace('{"name"', '\n{"name"'))


main(sys.argv[1])

"""Rates of transformers with SDPA for a shape of model with random weights, and its logits beside Edgewise's.

    cuda_peer.py rates SHAPE.json [--prefill N,...] [--decode BxN,...]     JSON lines, as `edgewise bench engine` prints
    cuda_peer.py parity PROGRAM [--smollm2 FILE.gguf]                      tiny models of each family, and SmolLM2

PROGRAM is the example `cuda_logits` of edgewise-engine. Needs a GPU, torch and transformers; SmolLM2 also needs gguf.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()
DEVICE = "cuda"


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def shape_config(path):
    values = json.loads(pathlib.Path(path).read_text())
    return AutoConfig.for_model(values.pop("model_type"), **values)


def empty_model(config):
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    torch.set_default_dtype(torch.float32)
    return model


def timed(run, count):
    times = []
    for i in range(count + 1):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i > 0:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


@torch.inference_mode()
def rates(arguments):
    config = shape_config(arguments.shape)
    model = empty_model(config)
    ids = lambda batch, n: torch.randint(0, config.vocab_size, (batch, n), device=DEVICE)
    for length in numbers(arguments.prefill):
        # New ids each time, and no cache to go on from.
        seconds = timed(lambda: model(ids(1, length), use_cache=True, logits_to_keep=1).logits.float().cpu(),
                        2 if length > 60000 else 3)
        print(json.dumps({"peer": "transformers sdpa", "prefill": length, "seconds": round(seconds, 4),
                          "tokens_per_s": round(length / seconds)}), flush=True)
        torch.cuda.empty_cache()
    for pair in arguments.decode.split(",") if arguments.decode else []:
        batch, length = map(int, pair.split("x"))
        cache = transformers.DynamicCache(config=config)
        for _ in range(1):
            model(ids(batch, length), past_key_values=cache, use_cache=True, logits_to_keep=1)
        seconds = timed(lambda: model(ids(batch, 1), past_key_values=cache, use_cache=True).logits.float().cpu(), 16)
        print(json.dumps({"peer": "transformers sdpa", "decode": batch, "context": length,
                          "step_ms": round(seconds * 1e3, 3), "tokens_per_s": round(batch / seconds, 1)}), flush=True)
        del cache
        torch.cuda.empty_cache()


FAMILIES = {
    "llama": dict(model_type="llama", num_key_value_heads=2),
    "llama, llama3 scaling": dict(model_type="llama", num_key_value_heads=2, head_dim=128, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512}),
    "llama, tied": dict(model_type="llama", num_key_value_heads=4, tie_word_embeddings=True),
    "mistral": dict(model_type="mistral", num_key_value_heads=2, head_dim=128, sliding_window=100),
    "qwen2": dict(model_type="qwen2", num_key_value_heads=2),
    "qwen3": dict(model_type="qwen3", num_key_value_heads=2, head_dim=128),
}


def tiny(values):
    shape = dict(vocab_size=1024, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
                 head_dim=64, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0,
                 tie_word_embeddings=False)
    shape.update(values)
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        else:
            torch.nn.init.uniform_(parameter, 0.9, 1.1)
    return model


def ours(program, model, ids, prompt):
    """Logits behind each token, the first `prompt` tokens as a prompt and the others as if they had been generated."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits")
        subprocess.run([program, str(model), ",".join(map(str, ids)), str(prompt), out], check=True)
        values = torch.frombuffer(bytearray(pathlib.Path(out).read_bytes()), dtype=torch.float32)
    return values.view(len(ids) - prompt + 1, -1)


def relative(a, b):
    return ((a - b).norm(dim=-1) / b.norm(dim=-1)).max().item()


@torch.inference_mode()
def compare(name, program, path, exact, rounded, ids, prompt):
    """`exact` and `rounded` are transformers' model in f32 and in bf16; the same positions from all three."""
    batch = torch.tensor([ids], device=DEVICE)
    reference = exact(batch).logits[0, prompt - 1:].float().cpu()
    theirs = rounded(batch).logits[0, prompt - 1:].float().cpu()
    own = ours(program, path, ids, prompt)
    error, peer = relative(own, reference), relative(theirs, reference)
    agree = (own.argmax(-1) == reference.argmax(-1)).float().mean().item()
    print(json.dumps({"parity": name, "positions": len(own), "error": float(f"{error:.3e}"),
                      "transformers_bf16_error": float(f"{peer:.3e}"), "same_best_token": round(agree, 4)}), flush=True)
    return error <= max(1.5 * peer, 1e-2)


def parity(arguments):
    torch.manual_seed(3)
    torch.backends.cuda.matmul.allow_tf32 = False
    passed = True
    for name, values in FAMILIES.items():
        model = tiny(values)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size="3MB")
            shards = len(list(pathlib.Path(folder).glob("*.safetensors")))
            load = lambda dtype: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()
            exact, rounded = load(torch.float32), load(torch.bfloat16)
            ids = torch.randint(0, 1024, (700,)).tolist()
            passed &= compare(f"{name} ({shards} files)", arguments.program, folder, exact, rounded, ids, 660)
    if arguments.smollm2:
        file = pathlib.Path(arguments.smollm2)
        load = lambda dtype: AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype).to(DEVICE).eval()
        exact, rounded = load(torch.float32), load(torch.bfloat16)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        for text in ("The capital of France is Paris. The capital of Italy is Rome, and the river that runs through it "
                     "is the Tiber. In the heart of the city stands",
                     "Explain in two sentences why the sky is blue. The sky is blue because of a process called Rayleigh "
                     "scattering, where light encounters tiny molecules of air and is deflected by them."):
            ids = tokenizer(text)["input_ids"]
            passed &= compare(f"SmolLM2, {len(ids)} tokens", arguments.program, file, exact, rounded, ids,
                              len(ids) - 12)
    print("parity holds" if passed else "PARITY FAILED", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("rates")
    command.add_argument("shape")
    command.add_argument("--prefill", default="2048,8192,32768,131072")
    command.add_argument("--decode", default="1x4096,8x4096,32x4096")
    command = commands.add_parser("parity")
    command.add_argument("program")
    command.add_argument("--smollm2")
    arguments = parser.parse_args()
    if arguments.command == "rates":
        rates(arguments)
    elif not parity(arguments):
        sys.exit(1)


main()

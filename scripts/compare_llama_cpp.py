"""Times llama.cpp and Edgewise in turn; see compare-llama-cpp."""

import argparse
import ctypes
import json
import os
import random
import statistics
import subprocess
import time

import llama_cpp


class LlamaCpp:
    """llama.cpp through its C interface, so that no Python is timed but the call."""

    def __init__(self, path, threads, window, flash_attention):
        self.silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p())
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = window, 512, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[flash_attention]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def decode(self, tokens, position):
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i], self.batch.pos[i] = token, position + i
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
            self.batch.logits[i] = i + 1 == len(tokens)
        start = time.perf_counter()
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp could not decode a batch")
        llama_cpp.llama_get_logits_ith(self.context, -1)
        return time.perf_counter() - start

    def run(self, prompt, decoded):
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, True)
        assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == -1, "the cache was not emptied"
        prefill = sum(self.decode(prompt[i : i + 512], i) for i in range(0, len(prompt), 512))
        decode = [self.decode([prompt[i % len(prompt)]], len(prompt) + i) for i in range(decoded)]
        return {"cached_tokens": 0, "prefill": prefill, "decode": decode}


class Edgewise:
    """The example `decoder_rates` as a child process."""

    def __init__(self, binary, path, threads):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        self.child = subprocess.Popen([binary, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run(self, prompt, decoded):
        self.child.stdin.write(" ".join(map(str, [decoded, *prompt])) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--edgewise", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="512,2048,8192")
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--flash-attention", default="auto", choices=["auto", "off", "on"], help="llama.cpp's")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    window = max(depths) + arguments.decode
    llama = LlamaCpp(arguments.model, arguments.threads, window, arguments.flash_attention)
    engines = {"llama.cpp": llama, "edgewise": Edgewise(arguments.edgewise, arguments.model, arguments.threads)}
    numbers = random.Random(arguments.seed)
    print(f"{llama_cpp.llama_print_system_info().decode()}, llama-cpp-python {llama_cpp.__version__}")
    print(f"{arguments.threads} threads, {arguments.repetitions} repetitions in turn, cached_tokens = 0; medians; "
          f"llama.cpp's flash attention {arguments.flash_attention}")
    print(f"{'depth':>6} {'':>10} {'llama.cpp':>12} {'edgewise':>12} {'ratio':>7} {'lowest':>7} {'highest':>8}")
    for depth in depths:
        rates = {name: {"prefill": [], "decode": []} for name in engines}
        for repetition in range(arguments.repetitions):
            prompt = [numbers.randrange(llama.vocabulary) for _ in range(depth - arguments.decode)]
            # Who goes first changes from one repetition to the next.
            for name in sorted(engines, reverse=repetition % 2 == 1):
                time.sleep(0.3)
                result = engines[name].run(prompt, arguments.decode)
                assert result["cached_tokens"] == 0
                rates[name]["prefill"].append(len(prompt) / result["prefill"])
                rates[name]["decode"].append(1 / statistics.median(result["decode"]))
        for what in ("prefill", "decode"):
            theirs, ours = rates["llama.cpp"][what], rates["edgewise"][what]
            ratios = [a / b for a, b in zip(ours, theirs)]
            print(
                f"{depth:>6} {what:>10} {statistics.median(theirs):>8.1f} t/s {statistics.median(ours):>8.1f} t/s"
                f" {statistics.median(ratios):>7.2f} {min(ratios):>7.2f} {max(ratios):>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Checks and times the CUDA kernels beside torch: check.py [options] [rows] [decode] [prefill] [products] [fp8], all by default.

--small: sizes for compute-sanitizer; --no-check; --no-time; --no-peers: without torch's backends; --plant: only a
write behind a pool, which compute-sanitizer must find. Exit code 1 when a check failed.
"""

import json
import os
import sys

import torch

import attention
import fp8
import products
import rows
from common import DEVICE, failures, rows as table, time_calls


def ceilings():
    a, b = [torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2)]
    matmul = 2 * 8192**3 / time_calls(lambda: a @ b, 15) / 1e6
    source = torch.randint(0, 255, (1 << 31,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / time_calls(lambda: target.copy_(source)) / 1e3
    print(f"# {torch.cuda.get_device_name()}: matmul {matmul:.0f} TFLOP/s, copy {copy:.0f} GB/s", flush=True)
    return matmul, copy


def main():
    options = {a for a in sys.argv[1:] if a.startswith("--")}
    if "--plant" in options:
        rows.plant()
        return
    parts = [a for a in sys.argv[1:] if not a.startswith("--")] or ["decode", "rows", "prefill", "products", "fp8"]
    small = "--small" in options
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    if "--no-check" not in options:
        if "rows" in parts:
            for run in (rows.check_rms_norm, rows.check_rope, rows.check_top_k, rows.check_page_copy,
                        rows.check_gather_rows):
                run(small)
        if "decode" in parts:
            attention.check_decode(small)
        if "prefill" in parts:
            attention.check_prefill(small)
        if "products" in parts:
            products.check_products(small)
            products.check_gate_extremes(small)
            products.check_early_start(small)
        if "fp8" in parts:
            fp8.check_rope()
            fp8.check_decode(small)
            fp8.check_prefill(small)
    if "--no-time" not in options and not small:
        matmul, copy = ceilings()
        peers = "--no-peers" not in options
        if "rows" in parts:
            rows.time_rows(copy)
        if "decode" in parts:
            attention.time_decode(copy, [(32, 8192, 32, 8, 128, 32), (32, 8192, 32, 8, 128, 64),
                                         (32, 8192, 32, 8, 128, 128), (128, 2048, 32, 8, 128, 64),
                                         (8, 32768, 32, 8, 128, 64), (1, 131072, 32, 8, 128, 64),
                                         (1, 32768, 32, 8, 128, 64), (1, 8192, 32, 8, 128, 64),
                                         (1, 4096, 32, 8, 128, 64), (32, 8192, 32, 8, 64, 64),
                                         (32, 8192, 28, 4, 128, 64), (8, 8192, 32, 32, 128, 64)], peers)
        if "prefill" in parts:
            settings = [(n, 0, 1, 32, 8, d, 64) for d in (128, 64) for n in (2048, 8192, 32768, 131072)]
            settings += [(32768, 0, 1, 32, 8, 128, 32), (32768, 0, 1, 32, 8, 128, 128), (32768, 0, 1, 32, 32, 128, 64),
                         (4096, 0, 8, 32, 8, 128, 64), (2048, 30720, 1, 32, 8, 128, 64),
                         (512, 32256, 1, 32, 8, 128, 64)]
            attention.time_prefill(settings, peers, matmul)
            attention.time_tiles([(n, 32768, 32, 8, 128, 64) for n in (16, 64, 128, 256, 512, 1024)]
                                 + [(64, 32768, 32, 8, 64, 64), (2048, 0, 32, 8, 128, 64)], matmul)
        if "products" in parts:
            products.time_few_rows(copy)
            products.time_early_start(copy)
            products.time_products(matmul)
            products.time_sustained()
            products.time_products(matmul, (16, 64, 256, 512), (0, 1, 2, 3, 4))
        if "fp8" in parts:
            fp8.time_fp8(copy)
    out = os.environ.get("OUT")
    if out and table:
        with open(os.path.join(out, "-".join(parts) + ".json"), "w") as file:
            json.dump(table, file, indent=1)
    print(f"# {len(failures)} failed: {failures}" if failures else "# all checks passed", flush=True)
    sys.exit(1 if failures else 0)


main()

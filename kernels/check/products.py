"""Checks and timings of the products of prompts' rows."""

import ctypes
import statistics
import time

import torch

from common import DEVICE, HALF, call, check, check_error, entry, poisoned, random, report, time_beside, time_graph

STORE, STORE_FLOAT, ADD, GATE = range(4)
ROUNDING = 4e-3  # one rounding to bf16
SUM = 1e-5  # fp32 sums of exact products


def fused_matmul(x, weights, biases, outs, mode, tile=0):
    pointers = lambda tensors: (ctypes.c_void_p * 3)(*[None if t is None else t.data_ptr() for t in tensors])
    outputs = (ctypes.c_int * 3)(*[w.shape[0] for w in weights])
    status = entry("fused_matmul", "edgewise_fused_matmul")(
        ctypes.c_void_p(x.data_ptr()), pointers(weights), pointers(biases), pointers(outs), outputs, len(weights), mode,
        x.shape[0], x.shape[1], tile, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
    if status != 0:
        raise RuntimeError(f"fused_matmul failed with CUDA error {status}")


def run(x, weights, biases, mode, tile=0, residual=None):
    """The outputs: of mode ADD one for each matrix, on copies of `residual`; of mode GATE one."""
    if mode == ADD:
        outs = [residual[:, : w.shape[0]].clone(memory_format=torch.contiguous_format) for w in weights]
    else:
        dtype = torch.float32 if mode == STORE_FLOAT else HALF
        outs = [poisoned(x.shape[0], w.shape[0], dtype=dtype) for w in (weights[:1] if mode == GATE else weights)]
    fused_matmul(x, weights, biases, outs, mode, tile)
    return outs


def expected(x, weights, biases, mode, residual=None):
    product = lambda w, b: x.double() @ w.double().T + (0 if b is None else b.double())
    parts = [product(w, b) for w, b in zip(weights, biases)]
    if mode == GATE:
        return [torch.nn.functional.silu(parts[0]) * parts[1]]
    return [p + residual[:, : p.shape[1]].double() for p in parts] if mode == ADD else parts


def check_products(small):
    shapes = [(72, (24, 16), 150), (576, (576, 192, 192), 77)]
    if not small:
        shapes += [(8, (5,), 3), (136, (33, 100), 129), (1536, (576,), 1000), (4096, (4096, 1024, 1024), 2049),
                   (4104, (2056, 2056), 515)]
    for columns, outputs, rows in shapes:
        weights = [random(n, columns, scale=columns**-0.5) for n in outputs]
        for mode in (STORE, STORE_FLOAT, ADD, GATE):
            name = f"fused_matmul {rows}x{columns}x{outputs} mode {mode}"
            used = weights
            if mode == GATE:
                used = [weights[0], random(*weights[0].shape, scale=columns**-0.5)]
            biases = [random(len(w)) if i != 1 or mode == GATE else None for i, w in enumerate(used)]
            x, residual = random(rows, columns), random(rows, max(outputs), dtype=torch.float32)
            limit = SUM if mode in (STORE_FLOAT, ADD) else ROUNDING
            wholes = [run(x, used, biases, mode, tile, residual) for tile in (1, 2, 3, 4, 0)]
            for got, want in zip(wholes[0], expected(x, used, biases, mode, residual)):
                check_error(name, got, want, limit)
            same = all(torch.equal(a, b) for other in wholes[1:] for a, b in zip(wholes[0], other))
            check(name + ": tiles bit for bit", same)
            bare = run(x, used, [None] * len(used), mode, 0, residual)
            check_error(name + " without bias", bare[0], expected(x, used, [None] * len(used), mode, residual)[0], limit)
            # A row alone, and the first ones, are as among all.
            for first, last in ((0, 1), (rows // 2, rows // 2 + 1), (0, min(rows, 65)), (1, rows)):
                for tile in (0, 4):
                    part = run(x[first:last].clone(), used, biases, mode, tile, residual[first:last])
                    same = all(torch.equal(a[first:last], b) for a, b in zip(wholes[0], part))
                    if not same:
                        check(f"{name}: rows {first} to {last} as among all, tile {tile}", False)
            check(name + ": rows as among all", True)


def check_gate_extremes(small):
    """A gate far from zero neither overflows nor becomes no number."""
    values = torch.tensor([-3e4, -1e4, -200, -100, -88, -20, 0, 20, 88, 100, 200, 1e4, 3e4, 1, -1, 2], device=DEVICE).to(HALF)
    gate, up = torch.zeros(16, 8, dtype=HALF, device=DEVICE), torch.zeros(16, 8, dtype=HALF, device=DEVICE)
    gate[:, 0], up[:, 0], x = values, 1, torch.zeros(1, 8, dtype=HALF, device=DEVICE)
    x[0, 0] = 1
    out = run(x, [gate, up], [None, None], GATE)[0]
    check_error("gate extremes", out, torch.nn.functional.silu(values.double())[None], ROUNDING)


def layers(residual, weights, buffers, after=lambda: None):
    """What a decoder does between attentions, layer after layer; kernels start while the one before runs."""
    gate, normed = buffers
    none = [None, None]
    for norm, gate_weight, up_weight, down_weight in weights:
        call("rms_norm", "edgewise_rms_norm", None, residual, norm, normed, *normed.shape, 1e-5)
        after()
        fused_matmul(normed, [gate_weight, up_weight], none, [gate, None], GATE)
        after()
        fused_matmul(gate, [down_weight], none, [residual], ADD)
        after()


def layer_weights(count, hidden, width):
    return [(random(hidden), *[random(width, hidden, scale=hidden**-0.5) for _ in range(2)],
             random(hidden, width, scale=width**-0.5)) for _ in range(count)]


def check_early_start(small):
    """The same, bit for bit, whether or not each kernel is waited for before the next is launched."""
    hidden, width = (512, 1024) if small else (4096, 14336)
    weights = layer_weights(3, hidden, width)
    repetitions = 2 if small else 20
    for rows in (1, 64, 130) if small else (1, 64, 130, 700):
        start, results = random(rows, hidden, dtype=torch.float32), []
        for wait in (torch.cuda.synchronize, lambda: None):
            for _ in range(1 if wait is torch.cuda.synchronize else repetitions):
                residual, buffers = start.clone(), (poisoned(rows, width), poisoned(rows, hidden))
                torch.cuda.synchronize()
                layers(residual, weights, buffers, wait)
                torch.cuda.synchronize()
                results.append(residual.clone())
        same = all(torch.equal(result, results[0]) for result in results)
        check(f"fused_matmul: {rows} rows through {len(weights)} layers: as if every kernel was waited for", same)


def time_early_start(copy_rate):
    hidden, width, count = 4096, 14336, 6
    weights = layer_weights(count, hidden, width)
    for rows in (1, 8, 32, 64):
        residual = random(rows, hidden, dtype=torch.float32)
        buffers = (poisoned(rows, width), poisoned(rows, hidden))
        micros = time_graph([lambda: layers(residual, weights, buffers)]) / count
        report("feed-forward", f"{rows} x {hidden} x {width}, a layer", micros, 6 * hidden * width / micros / 1e3,
               copy_rate, "GB/s", "fused_matmul")


SHAPES = (  # name, columns, outputs, mode
    ("q, k, v", 4096, (4096, 1024, 1024), STORE),
    ("output, added", 4096, (4096,), ADD),
    ("gate and up", 4096, (14336, 14336), GATE),
    ("down, added", 14336, (4096,), ADD),
)


def time_products(limit, rows_=(2048, 8192), tiles=(0,)):
    for rows in rows_:
        for name, columns, outputs, mode in SHAPES:
            x, weights = random(rows, columns), [random(n, columns, scale=columns**-0.5) for n in outputs]
            outs = [poisoned(rows, n, dtype=torch.float32 if mode == ADD else HALF) for n in outputs]
            if mode == ADD:
                outs[0].zero_()
            halves = [torch.empty(rows, n, dtype=HALF, device=DEVICE) for n in outputs]
            calls = {tile: lambda tile=tile: fused_matmul(x, weights, [None] * len(weights), outs, mode, tile)
                     for tile in tiles}
            calls["torch, bare"] = lambda: [torch.matmul(x, w.T, out=o) for w, o in zip(weights, halves)]
            flops = 2 * rows * columns * sum(outputs)
            times = time_beside(calls, 10)
            others = "  ".join(f"{'tile ' if isinstance(k, int) else ''}{k} {v:.0f} us, {flops / v / 1e6:.0f}"
                               for k, v in times.items() if k != tiles[0])
            report("fused_matmul", f"{rows} rows, {name}", times[tiles[0]], flops / times[tiles[0]] / 1e6, limit,
                   "TFLOP/s", others)
            del x, weights, outs, halves


def _burst(launch, count):
    """Microseconds of one of so many launches in a row."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        launch()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / count


def time_sustained(rows=8192, rounds=4, seconds=0.06):
    """What the card's power leaves: cuBLAS's 8192^3 in ten launches, 0.2 s and 1 s after a pause each, and the products of a
    layer for 60 ms each in turn with cuBLAS's."""
    a, b = [torch.randn(8192, 8192, device=DEVICE).to(HALF) for _ in range(2)]
    out, flops = torch.empty_like(a), 2 * 8192**3
    square = lambda: torch.matmul(a, b.T, out=out)
    square()
    for long in (0.2, 1.0):
        torch.cuda.synchronize()
        time.sleep(0.5)
        short = _burst(square, 10)
        sustained = _burst(square, int(long * 1e6 / short))
        print(f"# cuBLAS 8192^3: {flops / short / 1e6:.0f} TFLOP/s in ten launches, {flops / sustained / 1e6:.0f} over {long} s")
    for name, columns, outputs, mode in SHAPES:
        x, weights = random(rows, columns), [random(n, columns, scale=columns**-0.5) for n in outputs]
        outs = [torch.zeros(rows, n, dtype=torch.float32 if mode == ADD else HALF, device=DEVICE) for n in outputs]
        halves = [torch.empty(rows, n, dtype=HALF, device=DEVICE) for n in outputs]
        calls = {"own": lambda: fused_matmul(x, weights, [None] * len(weights), outs, mode),
                 "torch, bare": lambda: [torch.matmul(x, w.T, out=o) for w, o in zip(weights, halves)]}
        count = max(4, int(seconds * 7e14 / (2 * rows * columns * sum(outputs))))
        times = {call: [] for call in calls}
        for _ in range(rounds):
            for call, launch in calls.items():
                launch()
                times[call].append(_burst(launch, count))
        print(f"# {rows} rows, {name}, sustained: "
              + ", ".join(f"{call} {statistics.median(found):.0f} us" for call, found in times.items()), flush=True)
        del x, weights, outs, halves


def time_few_rows(copy_rate):
    for name, columns, outputs, mode in SHAPES + (("logits", 4096, (128256,), STORE_FLOAT),):
        weights = [[random(n, columns) for n in outputs] for _ in range(1 if outputs[0] > 100000 else 3)]
        for rows in (1, 16, 64):
            x = random(rows, columns)
            outs = [poisoned(rows, n, dtype=HALF if mode in (STORE, GATE) else torch.float32) for n in outputs]
            micros = time_graph([lambda w=w: fused_matmul(x, w, [None] * len(w), outs, mode) for w in weights])
            report("fused_matmul", f"{rows} rows, {name}", micros, 2 * columns * sum(outputs) / micros / 1e3, copy_rate,
                   "GB/s")

"""Checks and timings of the paged attention kernels."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import (DEVICE, attention_reference, call, check, check_error, paged, paged_like, poisoned, random, refused,
                    relative_error, report, size, time_beside, time_graph)

DECODE = "paged_attention_decode"
PREFILL = "paged_attention_prefill"
LIMIT = 6e-3  # bf16 operands and probabilities, fp32 sums


def decode(q, pool_k, pool_v, table, context, q_len, splits=None, min_split=256, window=0, out=None, workspace=None):
    _, heads, d = q.shape
    pages, page_tokens, kv_heads, _ = pool_k.shape
    batch = len(context)
    splits = splits or max(1, min(64, 128 // kv_heads))
    if workspace is None:
        workspace = decode_workspace(batch, q_len, heads, kv_heads, d, splits)
    out = poisoned(*q.shape) if out is None else out
    call(DECODE, "edgewise_attention_decode", q, out, pool_k, pool_v, table, context, workspace, batch, q_len, heads,
         kv_heads, d, pages, page_tokens, table.shape[1], splits, min_split, window, 1 / math.sqrt(d))
    return out


def decode_workspace(batch, q_len, heads, kv_heads, d, splits):
    needed = size(DECODE, "edgewise_attention_decode_workspace", batch, q_len, heads, kv_heads, d, splits)
    return torch.full((needed,), 0xFF, dtype=torch.uint8, device=DEVICE)  # NaN wherever it is read unwritten


def prefill(q, pool_k, pool_v, table, starts, context, window=0, out=None, groups=0):
    total, heads, d = q.shape
    pages, page_tokens, kv_heads, _ = pool_k.shape
    out = poisoned(*q.shape) if out is None else out
    call(PREFILL, "edgewise_attention_prefill", q, out, pool_k, pool_v, table, starts, context,
         len(context), total, heads, kv_heads, d, pages, page_tokens, table.shape[1], window, groups,
         1 / math.sqrt(d))
    return out


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def sequences(contexts, kv_heads, d, page_tokens):
    keys = [random(n, kv_heads, d) for n in contexts]
    values = [random(n, kv_heads, d) for n in contexts]
    pool_k, table = paged(keys, page_tokens)
    return keys, values, pool_k, paged_like(values, page_tokens, table, pool_k), table


def check_decode(small):
    contexts = [1, 31, 64, 65, 129, 300] if small else [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 2049, 5000]
    shapes = itertools.product((64, 128), (32, 64, 128), (1, 3, 4, 8), (1, 3))
    for d, page_tokens, group, q_len in shapes:
        if small and (page_tokens, group) not in ((32, 3), (64, 4), (128, 8)):
            continue
        kv_heads = 2
        heads = kv_heads * group
        lengths = [n for n in contexts if n >= q_len]
        keys, values, pool_k, pool_v, table = sequences(lengths, kv_heads, d, page_tokens)
        q = random(len(lengths) * q_len, heads, d, scale=2.0)
        window = 100 if group == 3 else 0
        run = lambda: decode(q, pool_k, pool_v, table, ints(lengths), q_len, window=window)
        out = run()
        reference = torch.cat([attention_reference(q[i * q_len : (i + 1) * q_len], keys[i], values[i],
                                                   1 / math.sqrt(d), n - q_len, window)
                               for i, n in enumerate(lengths)])
        name = f"decode d{d} page {page_tokens} group {group} q_len {q_len} window {window}"
        check_error(name, out, reference, LIMIT)
        worst = max(relative_error(out[i * q_len : (i + 1) * q_len], reference[i * q_len : (i + 1) * q_len])
                    for i in range(len(lengths)))
        check(name + ": worst sequence", worst < 2 * LIMIT, f"{worst:.2e}")
        check(name + ": repeats bit for bit", torch.equal(out, run()))
        last = len(lengths) - 1
        alone = decode(q[last * q_len :], pool_k, pool_v, table[last:], ints(lengths[last:]), q_len, window=window)
        check(name + ": alone as in the batch, bit for bit", torch.equal(alone, out[last * q_len :]))
    # An idle slot of a bucket writes nothing and disturbs nobody.
    keys, values, pool_k, pool_v, table = sequences([200, 70], 2, 64, 32)
    q = random(2, 6, 64)
    out = decode(q, pool_k, pool_v, table, ints([0, 70]), 1)
    full = decode(q, pool_k, pool_v, table, ints([200, 70]), 1)
    check("decode idle slot", bool(out[0].isnan().all()) and torch.equal(out[1], full[1]))
    # Many rows (tiles of 32), one workspace for several launches.
    keys, values, pool_k, pool_v, table = sequences([700], 2, 128, 64)
    q = random(13, 8, 128)
    space = decode_workspace(1, 13, 8, 2, 128, 64)
    for _ in range(3):
        out = decode(q, pool_k, pool_v, table, ints([700]), 13, splits=64, min_split=64, workspace=space)
    check_error("decode 52 rows, workspace reused", out,
                attention_reference(q, keys[0], values[0], 1 / math.sqrt(128), 687), LIMIT)
    arguments = [q, out, pool_k, pool_v, table, ints([700]), space, 1, 13, 8, 2, 96, 11, 64, 12, 64, 64, 0, 1.0]
    check("decode refuses head_dim 96", refused(DECODE, "edgewise_attention_decode", *arguments))


def check_prefill(small):
    cases = [  # (positions, rows) per sequence
        [(0, 1)], [(0, 77)], [(0, 128)], [(0, 300)], [(131, 5)], [(95, 161)],
        [(0, 33), (200, 65), (0, 1), (64, 64), (500, 129)],
    ]
    if not small:
        cases += [[(0, 1111)], [(1000, 1049)], [(3001, 777), (0, 2048)]]
    for d, page_tokens, group in itertools.product((64, 128), (32, 64, 128), (1, 3, 4, 8)):
        if small and (page_tokens, group) not in ((32, 3), (64, 4), (128, 8)):
            continue
        worst, name = 0.0, f"prefill d{d} page {page_tokens} group {group}"
        for case, window in [(c, 0) for c in cases] + [(cases[-1], 100)]:
            kv_heads = 2
            heads = kv_heads * group
            context = [p + n for p, n in case]
            keys, values, pool_k, pool_v, table = sequences(context, kv_heads, d, page_tokens)
            q = random(sum(n for _, n in case), heads, d, scale=2.0)
            starts = [0]
            for _, n in case:
                starts.append(starts[-1] + n)
            out = prefill(q, pool_k, pool_v, table, ints(starts), ints(context), window)
            for i, (position, n) in enumerate(case):
                rows = slice(starts[i], starts[i + 1])
                reference = attention_reference(q[rows], keys[i], values[i], 1 / math.sqrt(d), position, window)
                error = relative_error(out[rows], reference)
                if not error < LIMIT:
                    check(f"{name} position {position} rows {n} window {window}", False, f"{error:.2e}")
                worst = max(worst, error)
        check(name + ": worst of all", worst < LIMIT, f"{worst:.2e}")
    # Chunks, batches and pages change no bit.
    total = 333 if small else 1500
    for d, group, window in itertools.product((64, 128), (3, 4), (0, 200)):
        heads = 2 * group
        keys, values = [random(total, 2, d)], [random(total, 2, d)]
        q = random(total, heads, d, scale=2.0)
        wholes = []
        for page_tokens in (32, 64, 128):
            pool_k, table = paged(keys, page_tokens)
            pool_v = paged_like(values, page_tokens, table, pool_k)
            wholes.append(prefill(q, pool_k, pool_v, table, ints([0, total]), ints([total]), window))
        same = all(torch.equal(wholes[0], other) for other in wholes[1:])
        cuts = [0, 100, 101, 256, total]
        parts = [prefill(q[a:b], pool_k, pool_v, table, ints([0, b - a]), ints([b]), window)
                 for a, b in zip(cuts, cuts[1:])]
        name = f"prefill d{d} group {group} window {window}"
        check(name + ": page sizes bit for bit", same)
        check(name + ": chunks bit for bit", torch.equal(torch.cat(parts), wholes[2]))
        tiles = [prefill(q, pool_k, pool_v, table, ints([0, total]), ints([total]), window, groups=g) for g in (1, 2, 3)]
        check(name + ": tiles bit for bit", all(torch.equal(wholes[2], other) for other in tiles))


def backends(q, k, v, causal):
    """SDPA on contiguous data, by backend."""
    def run(backend):
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return {"FA2": lambda: run(SDPBackend.FLASH_ATTENTION), "cuDNN": lambda: run(SDPBackend.CUDNN_ATTENTION)}


def time_prefill(settings, peers=True, limit=None):
    """settings: (tokens, position, batch, heads, kv_heads, d, page_tokens), a chunk of `tokens` from `position` on."""
    for n, position, batch, heads, kv_heads, d, page_tokens in settings:
        held = position + n
        k, v, q = random(batch, held, kv_heads, d), random(batch, held, kv_heads, d), random(batch * n, heads, d)
        flops = 4 * heads * d * batch * (n * position + n * (n + 1) / 2)
        pages = batch * held // page_tokens
        order = torch.randperm(pages, device=DEVICE)
        pool_k = torch.empty_like(k).view(pages, page_tokens, kv_heads, d)
        pool_v = torch.empty_like(pool_k)
        pool_k[order], pool_v[order] = k.view_as(pool_k), v.view_as(pool_v)
        table = order.to(torch.int32).view(batch, -1).contiguous()
        starts, context = ints(range(0, batch * n + 1, n)), ints([held] * batch)
        out = poisoned(*q.shape)
        calls = {"own": lambda: prefill(q, pool_k, pool_v, table, starts, context, out=out)}
        if peers and position == 0:
            calls |= backends(q.view(batch, n, heads, d).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), True)
        times = time_beside(calls, max(2, min(20, int(2e14 // flops))))
        picked = [0, 1, n // 3, n - 2, n - 1]
        reference = torch.cat([attention_reference(q[i : i + 1], k[0], v[0], 1 / math.sqrt(d), position + i)
                               for i in picked])
        check_error(f"prefill rows of {n} at {position} d{d}", out[picked], reference, LIMIT)
        text = "  ".join(f"{name} {flops / time / 1e6:.0f}" for name, time in times.items() if name != "own")
        at = f" at {position}" if position else ""
        report("prefill", f"{batch} x {n}{at}, {heads}/{kv_heads}, d {d}, page {page_tokens}", times["own"],
               flops / times["own"] / 1e6, limit, "TFLOP/s", text)
        del k, v, q, pool_k, pool_v, out, reference


def time_tiles(settings, limit):
    """As time_prefill, of a chunk with tiles of one, two and three warpgroups, and with what is chosen."""
    for n, position, heads, kv_heads, d, page_tokens in settings:
        held = -(-(position + n) // page_tokens) * page_tokens
        pool_k, pool_v = [random(held // page_tokens, page_tokens, kv_heads, d) for _ in range(2)]
        table = torch.randperm(held // page_tokens, device=DEVICE).to(torch.int32)[None]
        q, out, starts, context = random(n, heads, d), poisoned(n, heads, d), ints([0, n]), ints([position + n])
        flops = 4 * heads * d * (n * position + n * (n + 1) / 2)
        times = time_beside({g: lambda g=g: prefill(q, pool_k, pool_v, table, starts, context, out=out, groups=g)
                             for g in (0, 1, 2, 3)}, 10)
        report("prefill", f"{n} at {position}, {heads}/{kv_heads}, d {d}, page {page_tokens}", times[0],
               flops / times[0] / 1e6, limit, "TFLOP/s", "of 1, 2, 3 warpgroups: "
               + " / ".join(f"{times[g]:.0f} us" for g in (1, 2, 3)))


def time_decode(copy_rate, settings, peers=True, variants=((256, None),)):
    """settings: (batch, context, heads, kv_heads, d, page_tokens). Rotates tables over enough pages to keep L2 cold."""
    for batch, n, heads, kv_heads, d, page_tokens in settings:
        once = 4 * kv_heads * d * n * batch
        sets = max(1, min(16, int(1e9 // once)))
        per = n // page_tokens
        pages = sets * batch * per
        pool_k, pool_v = random(pages, page_tokens, kv_heads, d), random(pages, page_tokens, kv_heads, d)
        order = torch.randperm(pages, device=DEVICE).to(torch.int32).view(sets, batch, per)
        q = random(batch, heads, d)
        context = ints([n] * batch)
        out = torch.empty_like(q)
        text = ""
        if peers:
            k, v = [random(batch, kv_heads, n, d) for _ in range(2)]
            for name, other in time_beside(backends(q[:, :, None], k, v, False), 10).items():
                text += f"{name} {once / other / 1e3:.0f}  "
            del k, v
        for min_split, splits in variants:
            parts = splits or max(1, min(64, 128 // kv_heads))
            space = decode_workspace(batch, 1, heads, kv_heads, d, parts)
            launches = [lambda s=s: decode(q, pool_k, pool_v, order[s], context, 1, parts, min_split, out=out,
                                           workspace=space) for s in range(sets)]
            micros = time_graph(launches * (16 // sets if once < 1e8 else 1))
            report("decode", f"{batch} x {n}, {heads}/{kv_heads}, d {d}, page {page_tokens} ({min_split}/{parts})",
                   micros, once / micros / 1e3, copy_rate, "GB/s", text)

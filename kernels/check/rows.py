"""Checks and timings of normalisation, rotary positions with page write, top-k and page copies."""

import itertools

import torch

from common import DEVICE, call, check, check_error, poisoned, random, refused, report, size, time_graph

ROUNDING = 4e-3  # one rounding to bf16


def rms_norm(x, residual, weight, out, eps=1e-5):
    call("rms_norm", "edgewise_rms_norm", x, residual, weight, out, x.shape[0], x.shape[1], eps)


def check_rms_norm(small):
    for rows, hidden in ((1, 8), (3, 576), (5, 2048), (7, 4096), (2, 8192), (3, 16384), (4, 2056)):
        x, weight, residual = random(rows, hidden), random(hidden), random(rows, hidden, dtype=torch.float32)
        out, before = poisoned(rows, hidden), residual.clone()
        rms_norm(x, residual, weight, out)
        total = x.float() + before
        norm = lambda s: s.double() * torch.rsqrt(s.double().square().mean(-1, True) + 1e-5) * weight.double()
        check(f"rms_norm {rows}x{hidden}: residual bit for bit", torch.equal(residual, total))
        check_error(f"rms_norm {rows}x{hidden} with residual", out, norm(total), ROUNDING)
        out = poisoned(rows, hidden)
        rms_norm(x, None, weight, out)
        check_error(f"rms_norm {rows}x{hidden}", out, norm(x), ROUNDING)
        out = poisoned(rows, hidden)
        call("rms_norm", "edgewise_rms_norm", None, residual, weight, out, rows, hidden, 1e-5)
        check_error(f"rms_norm {rows}x{hidden} of the residual", out, norm(total), ROUNDING)
        check(f"rms_norm {rows}x{hidden}: residual untouched", torch.equal(residual, total))
    check("rms_norm refuses hidden 12", refused("rms_norm", "edgewise_rms_norm", x, None, weight, out, 1, 12, 1e-5))


def check_gather_rows(small):
    table, ids = random(50, 264), torch.tensor([0, 49, 7, 7, 3], dtype=torch.int32, device=DEVICE)
    out = poisoned(5, 264)
    call("gather_rows", "edgewise_gather_rows", table, ids, out, 5, 264, 0)
    check("gather_rows", torch.equal(out, table[ids.long()]))
    out = poisoned(5, 264, dtype=torch.float32)
    call("gather_rows", "edgewise_gather_rows", table, ids, out, 5, 264, 1)
    check("gather_rows to fp32", torch.equal(out, table[ids.long()].float()))


def rope_reference(x, cosine, sine, rotary, adjacent):
    y, half = x.double().clone(), rotary // 2
    c, s = cosine.double()[:, None], sine.double()[:, None]
    a, b = (slice(0, rotary, 2), slice(1, rotary, 2)) if adjacent else (slice(0, half), slice(half, rotary))
    y[..., a] = x.double()[..., a] * c - x.double()[..., b] * s
    y[..., b] = x.double()[..., b] * c + x.double()[..., a] * s
    return y


def check_rope(small):
    for d, rotary, adjacent, normed in ((64, 64, 0, 0), (64, 64, 1, 0), (128, 128, 0, 0), (128, 128, 1, 1),
                                        (128, 128, 0, 1), (128, 64, 0, 0), (64, 16, 1, 0), (128, 32, 0, 1)):
        tokens, heads, kv_heads, pages, page_tokens = 37, 6, 2, 9, 32
        qkv = random(tokens, heads + 2 * kv_heads, d)
        frequency = 1e4 ** (-torch.arange(rotary // 2, device=DEVICE) / rotary * 2)
        angle = torch.arange(200, device=DEVICE)[:, None] * frequency
        cosines, sines = angle.cos().float().contiguous(), angle.sin().float().contiguous()
        positions = torch.randint(0, 200, (tokens,), dtype=torch.int32, device=DEVICE)
        slots = torch.randperm(pages * page_tokens)[:tokens].to(torch.int32).to(DEVICE)
        slots[5] = -1
        norms = [random(d), random(d)] if normed else [None, None]
        q_out = poisoned(tokens, heads, d)
        keys, values = poisoned(pages, page_tokens, kv_heads, d), poisoned(pages, page_tokens, kv_heads, d)
        parts, stride = (qkv, qkv[:, heads:], qkv[:, heads + kv_heads:]), (heads + 2 * kv_heads) * d
        strides = (stride,) * 3
        if normed:  # three matrices instead of one
            parts = tuple(part.contiguous() for part in qkv.split([heads, kv_heads, kv_heads], 1))
            strides = (heads * d, kv_heads * d, kv_heads * d)
        # Rotated keys where they came from, as for attention that reads them from rows.
        k_out = parts[1] if normed or adjacent else None
        raw = qkv.clone()
        call("rope_pages", "edgewise_rope_pages", *parts, *strides, q_out, k_out, keys, values, cosines, sines,
             positions, slots, *norms, 1e-6, tokens, heads, kv_heads, d, rotary, adjacent)
        q, k, v = raw.split([heads, kv_heads, kv_heads], 1)
        if normed:
            scaled = lambda x, w: x.double() * torch.rsqrt(x.double().square().mean(-1, True) + 1e-6) * w.double()
            q, k = scaled(q, norms[0]), scaled(k, norms[1])
        c, s = cosines[positions.long()], sines[positions.long()]
        name = f"rope d{d} rotary {rotary} adjacent {adjacent} norm {normed}"
        check_error(name + ": queries", q_out, rope_reference(q, c, s, rotary, adjacent), ROUNDING)
        kept = slots >= 0
        place = slots[kept].long()
        flat = keys.view(-1, kv_heads, d)
        check_error(name + ": keys", flat[place], rope_reference(k, c, s, rotary, adjacent)[kept], ROUNDING)
        if k_out is not None:
            k_out = k_out[:, :kv_heads]
            check(name + ": keys in rows bit for bit", torch.equal(k_out[kept], flat[place]))
            check_error(name + ": the key of a row without a slot", k_out[5:6],
                        rope_reference(k, c, s, rotary, adjacent)[5:6], ROUNDING)
        check(name + ": values bit for bit", torch.equal(values.view(-1, kv_heads, d)[place], v[kept]))
        rest = torch.ones(pages * page_tokens, dtype=torch.bool, device=DEVICE)
        rest[place] = False
        check(name + ": no other slot touched", bool(flat[rest].isnan().all()))


def top_k_outputs(rows_, k):
    ids = torch.full((rows_, k), -7, dtype=torch.int32, device=DEVICE)
    return poisoned(rows_, k, dtype=torch.float32), ids, poisoned(rows_, dtype=torch.float32)


def top_k(logits, k, workspace=None, outputs=None):
    rows_, vocabulary = logits.shape
    if workspace is None:
        needed = size("top_k", "edgewise_top_k_workspace", rows_, vocabulary, k)
        workspace = torch.full((needed,), 0xFF, dtype=torch.uint8, device=DEVICE)
        workspace[: (rows_ * 4 + 255) // 256 * 256] = 0
    values, ids, log_sum = outputs or top_k_outputs(rows_, k)
    call("top_k", "edgewise_top_k", logits, int(logits.dtype == torch.float32), values, ids, log_sum, workspace, rows_,
         vocabulary, k)
    return values, ids, log_sum


def check_top_k(small):
    sizes = [(1, 300), (2, 5000)] if small else [(1, 300), (3, 4096), (2, 49152), (4, 128256), (1, 151936)]
    for (rows_, vocabulary), k, dtype in itertools.product(sizes, (1, 5, 64), (torch.float32, torch.bfloat16)):
        logits = random(rows_, vocabulary, dtype=dtype, scale=3.0)  # bf16: many equal logits
        name = f"top_k {rows_}x{vocabulary} k {k} {dtype}"
        _, _, log_sum = top_k(logits, k)
        expected = torch.logsumexp(logits.double(), -1)
        check(name + ": log-sum-exp", bool(((log_sum.double() - expected).abs() < 2e-5 * expected.abs() + 2e-5).all()))
        for i, bad in enumerate((float("nan"), float("-inf"), float("inf"))):
            spoilt = logits.clone()
            spoilt[0, 7 * (i + 1)] = bad
            _, _, sums = top_k(spoilt, k)
            check(f"{name}: {bad} is told", bool(sums[0].isnan()) and torch.equal(sums[1:], log_sum[1:]))
        logits[0, 7] = float("nan")
        logits[0, 8] = float("-inf")
        values, ids, _ = top_k(logits, k)
        clean = logits.float().nan_to_num(nan=float("-inf"), neginf=float("-inf"), posinf=float("inf"))
        order = torch.sort(clean, dim=-1, descending=True, stable=True)
        same = torch.equal(ids.long(), order.indices[:, :k]) and torch.equal(values, order.values[:, :k])
        check(name, same)
    for name, logits in (("all equal", torch.zeros(2, 9000, device=DEVICE)),
                         ("all in one thread", torch.arange(9000, device=DEVICE).float()[None] % 256)):
        _, ids, _ = top_k(logits, 200)
        expected = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :200]
        check(f"top_k {name}", torch.equal(ids.long(), expected))
    # One workspace for launches of any size up to the one it was made for.
    space = torch.zeros(size("top_k", "edgewise_top_k_workspace", 7, 9000, 64), dtype=torch.uint8, device=DEVICE)
    logits, same = random(7, 9000, dtype=torch.float32), True
    for rows_, k in ((7, 64), (2, 1), (7, 5), (1, 64), (7, 64)):
        found, alone = top_k(logits[:rows_], k, space), top_k(logits[:rows_], k)
        same = same and all(torch.equal(a, b) for a, b in zip(found, alone))
    check("top_k: a workspace serves smaller launches, too", same)


def pointers(pools):
    return torch.tensor([p.data_ptr() for p in pools], dtype=torch.int64, device=DEVICE)


def check_page_copy(small):
    pages, page_tokens, kv_heads, d = 12, 32, 3, 64
    pools = [random(pages, page_tokens, kv_heads, d) for _ in range(4)]
    before = [p.clone() for p in pools]
    source, target, tokens = ([3, 7], [0, 11], [32, 5])
    ints = lambda v: torch.tensor(v, dtype=torch.int32, device=DEVICE)
    call("page_copy", "edgewise_page_copy", pointers(pools), 4, ints(source), ints(target), ints(tokens), 2,
         page_tokens, kv_heads * d * 2)
    for pool, old in zip(before, before):
        for s, t, n in zip(source, target, tokens):
            pool[t, :n] = old[s, :n]
    check("page_copy", all(torch.equal(a, b) for a, b in zip(pools, before)))
    staging = poisoned(3, 4, page_tokens * kv_heads * d)
    call("page_copy", "edgewise_page_gather", pointers(pools), 4, ints([5, 1, 9]), staging, 3, page_tokens,
         kv_heads * d * 2)
    gathered = torch.stack([torch.stack([p[i].flatten() for p in pools]) for i in (5, 1, 9)])
    check("page_gather", torch.equal(staging, gathered))
    call("page_copy", "edgewise_page_scatter", pointers(pools), 4, staging, ints([2, 4, 6]), 3, page_tokens,
         kv_heads * d * 2)
    for to, i in ((2, 5), (4, 1), (6, 9)):
        for pool in before:
            pool[to] = pool[i]
    check("page_scatter", all(torch.equal(a, b) for a, b in zip(pools, before)))


def plant():
    """Writes just behind a pool: no fault of its own, but memcheck must see it."""
    pool, page = random(4, 32, 1, 64), torch.tensor([4], dtype=torch.int32, device=DEVICE)
    source = torch.zeros_like(page)
    call("page_copy", "edgewise_page_copy", pointers([pool]), 1, source, page, None, 1, 32, 128)
    torch.cuda.synchronize()


def time_rows(copy_rate):
    d, heads, kv_heads, hidden, vocabulary = 128, 32, 8, 4096, 128256
    for tokens in (32, 8192):
        sets = 8 if tokens == 32 else 3
        xs = [(random(tokens, hidden), random(tokens, hidden, dtype=torch.float32)) for _ in range(sets)]
        weight, out = random(hidden), poisoned(tokens, hidden)
        micros = time_graph([lambda x=x, r=r: rms_norm(x, r, weight, out) for x, r in xs])
        report("rms_norm", f"{tokens} x {hidden} + residual", micros, 12 * tokens * hidden / micros / 1e3, copy_rate,
               "GB/s")
        qkvs = [random(tokens, (heads + 2 * kv_heads) * d) for _ in range(sets)]
        q_out = poisoned(tokens, heads, d)
        keys, values = [poisoned(tokens // 32, 32, kv_heads, d) for _ in range(2)]
        angle = torch.arange(tokens, device=DEVICE)[:, None] * 1e4 ** (-torch.arange(d // 2, device=DEVICE) / d * 2)
        cosines, sines = angle.cos().float().contiguous(), angle.sin().float().contiguous()
        positions = torch.arange(tokens, dtype=torch.int32, device=DEVICE)
        slots = torch.randperm(tokens, device=DEVICE).to(torch.int32)
        micros = time_graph([lambda x=x: call("rope_pages", "edgewise_rope_pages", x, x[:, heads:],
                                              x[:, heads + kv_heads:], *[(heads + 2 * kv_heads) * d] * 3, q_out, None,
                                              keys, values, cosines, sines, positions, slots, None, None, 1e-6, tokens, heads,
                                              kv_heads, d, d, 0) for x in qkvs])
        moved = 4 * tokens * (heads + 2 * kv_heads) * d + 8 * tokens * d // 2
        report("rope_pages", f"{tokens} tokens, {heads}/{kv_heads} heads, d {d}", micros, moved / micros / 1e3,
               copy_rate, "GB/s")
        del xs, qkvs
    for rows_, k in ((1, 1), (1, 64), (32, 1), (32, 64), (128, 64)):
        logits = [random(rows_, vocabulary, dtype=torch.float32) for _ in range(4)]
        space = torch.zeros(size("top_k", "edgewise_top_k_workspace", rows_, vocabulary, k), dtype=torch.uint8,
                            device=DEVICE)
        outputs = top_k_outputs(rows_, k)
        micros = time_graph([lambda x=x: top_k(x, k, space, outputs) for x in logits])
        peer = time_graph([lambda x=x: torch.topk(x, k) for x in logits])
        report("top_k", f"{rows_} x {vocabulary} fp32, k {k}", micros, 4 * rows_ * vocabulary / micros / 1e3,
               copy_rate, "GB/s", f"torch.topk {peer:.1f} us")
    pages, page_tokens, layers = 64, 64, 64
    pools = [random(pages, page_tokens, kv_heads, d) for _ in range(layers)]
    halves = torch.randperm(pages, device=DEVICE).to(torch.int32)
    source, target = halves[:32].contiguous(), halves[32:].contiguous()
    table = pointers(pools)
    for copies in (1, 32):
        micros = time_graph([lambda: call("page_copy", "edgewise_page_copy", table, layers, source, target, None,
                                          copies, page_tokens, kv_heads * d * 2)] * 4)
        moved = 2 * copies * layers * page_tokens * kv_heads * d * 2
        report("page_copy", f"{copies} pages of {page_tokens} x {layers} pools", micros, moved / micros / 1e3,
               copy_rate, "GB/s")

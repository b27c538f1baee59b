"""Checks and timings of what works on FP8 pages: the page write, decode attention, dequantisation for prefill."""

import itertools
import math

import torch

import attention
from attention import LIMIT, decode_workspace, ints, prefill
from common import (DEVICE, HALF, attention_reference, call, check, check_error, poisoned, random, refused,
                    relative_error, report, time_graph)
from rows import ROUNDING, rope_reference

DECODE = "paged_attention_decode_fp8"
RELATIVE = 0.035  # of numbers rounded to e4m3: 2^-4 at most, less on average


def quantised(x):
    """Codes and scales of [tokens, kv_heads, d] as the page write makes them."""
    most = x.float().abs().amax(-1)
    largest = torch.full_like(most, 448)  # torch multiplies by a reciprocal where a number is divided by
    inverse = torch.where(most > 1e-30, largest / most, 0)
    codes = (x.float() * inverse[..., None]).to(torch.float8_e4m3fn)
    return codes, torch.where(most > 1e-30, most / largest, 0)


def dequantised(codes, scales):
    return codes.float() * scales[..., None]


def empty_pool(pages, kv_heads, page_tokens, d):
    """Every code and scale is NaN."""
    return torch.full((pages, kv_heads, page_tokens * (d + 4)), 0xFF, dtype=torch.uint8, device=DEVICE)


def parts(pool, page_tokens, d):
    """Views of a pool's codes [pages, kv_heads, page_tokens, d] and scales [pages, kv_heads, page_tokens]."""
    pages, kv_heads, _ = pool.shape
    codes = pool[..., : page_tokens * d].view(torch.float8_e4m3fn).view(pages, kv_heads, page_tokens, d)
    return codes, pool.view(torch.float32)[..., page_tokens * d // 4 :]


def fill(pool, page_tokens, table, sequences):
    """Writes each sequence's codes and scales to the pages of its row of the table."""
    _, _, d = sequences[0][0].shape
    all_codes, all_scales = parts(pool, page_tokens, d)
    for i, (codes, scales) in enumerate(sequences):
        for j in range(-(-len(codes) // page_tokens)):
            part = slice(j * page_tokens, (j + 1) * page_tokens)
            n, page = len(codes[part]), int(table[i, j])
            all_codes[page, :, :n].view(torch.uint8).copy_(codes[part].view(torch.uint8).transpose(0, 1))
            all_scales[page, :, :n] = scales[part].transpose(0, 1)


def sequences(contexts, kv_heads, d, page_tokens, size=1.0):
    """Keys and values whose heads differ in size, as numbers, and on shuffled pages among NaN."""
    counts = [-(-n // page_tokens) for n in contexts]
    order = torch.randperm(sum(counts) + 3).to(torch.int32)
    table = torch.full((len(contexts), max(counts) + 1), 1 << 24, dtype=torch.int32)
    used = 0
    for i, count in enumerate(counts):
        table[i, :count] = order[used : used + count]
        used += count
    numbers, pools = [], []
    for spread in (1, 6):
        sizes = [2 ** ((2 * torch.rand(n, kv_heads, 1, device=DEVICE) - 1) * spread) for n in contexts]
        scale = size if spread == 6 else 1.0
        made = [quantised(torch.randn(n, kv_heads, d, device=DEVICE) * s * scale) for n, s in zip(contexts, sizes)]
        pool = empty_pool(len(order), kv_heads, page_tokens, d)
        fill(pool, page_tokens, table, made)
        numbers.append([dequantised(*m) for m in made])
        pools.append(pool)
    return *numbers, *pools, table.to(DEVICE)


def decode(q, pool_k, pool_v, table, context, q_len, page_tokens, splits=None, min_split=256, window=0, out=None,
           workspace=None):
    _, heads, d = q.shape
    pages, kv_heads, _ = pool_k.shape
    batch = len(context)
    splits = splits or max(1, min(64, 128 // kv_heads))
    if workspace is None:
        workspace = decode_workspace(batch, q_len, heads, kv_heads, d, splits)
    out = poisoned(*q.shape) if out is None else out
    call(DECODE, "edgewise_attention_decode_fp8", q, out, pool_k, pool_v, table, context, workspace, batch, q_len,
         heads, kv_heads, d, pages, page_tokens, table.shape[1], splits, min_split, window, 1 / math.sqrt(d))
    return out


def check_decode(small):
    contexts = [1, 31, 64, 65, 129, 300] if small else [1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 2049, 5000]
    shapes = itertools.product((64, 128), (32, 64, 128), (1, 3, 4, 8), (1, 3))
    for d, page_tokens, group, q_len in shapes:
        if (page_tokens, group) not in ((32, 3), (64, 4), (128, 8)) and (small or page_tokens != 64):
            continue
        kv_heads = 2
        heads = kv_heads * group
        lengths = [n for n in contexts if n >= q_len]
        # Values far from 1, queries too, as far as half precision has room for the results.
        small_size, large_size = (1e-2, 1e2) if HALF == torch.float16 else (1e-6, 1e6)
        size, q_size = {1: (1.0, 2.0), 3: (small_size, 2.0), 4: (large_size, 2.0), 8: (1.0, 1e-3)}[group]
        keys, values, pool_k, pool_v, table = sequences(lengths, kv_heads, d, page_tokens, size)
        q = random(len(lengths) * q_len, heads, d, scale=q_size)
        window = 100 if group == 3 else 0
        run = lambda: decode(q, pool_k, pool_v, table, ints(lengths), q_len, page_tokens, window=window)
        out = run()
        rows = [slice(i * q_len, (i + 1) * q_len) for i in range(len(lengths))]
        reference = [attention_reference(q[r], keys[i], values[i], 1 / math.sqrt(d), n - q_len, window)
                     for i, (r, n) in enumerate(zip(rows, lengths))]
        name = f"decode fp8 d{d} page {page_tokens} group {group} q_len {q_len} window {window}"
        worst = max(relative_error(out[r], expected) for r, expected in zip(rows, reference))
        check(name + ": worst sequence", worst < LIMIT, f"{worst:.2e}")
        check(name + ": repeats bit for bit", torch.equal(out, run()))
        last = len(lengths) - 1
        alone = decode(q[last * q_len :], pool_k, pool_v, table[last:], ints(lengths[last:]), q_len, page_tokens,
                       window=window)
        check(name + ": alone as in the batch, bit for bit", torch.equal(alone, out[last * q_len :]))
    # Many rows (tiles of 32), one workspace for several launches.
    keys, values, pool_k, pool_v, table = sequences([700], 2, 128, 64)
    q = random(13, 8, 128)
    space = decode_workspace(1, 13, 8, 2, 128, 64)
    for _ in range(3):
        out = decode(q, pool_k, pool_v, table, ints([700]), 13, 64, splits=64, min_split=64, workspace=space)
    check_error("decode fp8 52 rows, workspace reused", out,
                attention_reference(q, keys[0], values[0], 1 / math.sqrt(128), 687), LIMIT)
    # A head of zeros, an idle slot, and a NaN that is held and must be told.
    zero = quantised(torch.zeros(70, 2, 64, device=DEVICE))
    pool = empty_pool(3, 2, 64, 64)
    table = ints([[2, 0]])
    fill(pool, 64, table, [zero])
    out = decode(random(1, 6, 64), pool, pool, table, ints([70]), 1, 64)
    check("decode fp8 of zeros is zero", bool((out == 0).all()))
    check("decode fp8 idle slot", bool(decode(random(1, 6, 64), pool, pool, table, ints([0]), 1, 64).isnan().all()))
    check("decode fp8 tells NaN", bool(decode(random(1, 6, 64), pool, pool, table, ints([71]), 1, 64).isnan().all()))
    arguments = [q, out, pool, pool, table, ints([70]), space, 1, 1, 6, 2, 96, 3, 64, 2, 64, 64, 0, 1.0]
    check("decode fp8 refuses head_dim 96", refused(DECODE, "edgewise_attention_decode_fp8", *arguments))


def dequantise(pool_k, pool_v, table, starts, context, page_tokens, d, window=0, outs=None, narrow=None):
    batch, stride = table.shape
    kv_heads = pool_k.shape[1]
    outs = outs or [poisoned(batch * stride, page_tokens, kv_heads, d) for _ in range(2)]
    call("dequantise_pages", "edgewise_dequantise_pages", pool_k, pool_v, *outs, table, starts, context, batch,
         kv_heads, d, page_tokens, stride, stride if narrow is None else narrow, window)
    return outs


def check_prefill(small):
    cases = [[(0, 1)], [(0, 300)], [(131, 5)], [(0, 33), (200, 65), (0, 1), (64, 64), (500, 129)]]
    for d, page_tokens, group in itertools.product((64, 128), (32, 64, 128), (1, 3, 4, 8)):
        if (page_tokens, group) not in ((32, 3), (64, 4), (128, 8)) and (small or page_tokens != 64):
            continue
        worst, name, exact = 0.0, f"prefill fp8 d{d} page {page_tokens} group {group}", True
        for case, window in [(c, 0) for c in cases] + [(cases[-1], 100)]:
            context = [p + n for p, n in case]
            keys, values, pool_k, pool_v, table = sequences(context, 2, d, page_tokens)
            q = random(sum(n for _, n in case), 2 * group, d, scale=2.0)
            starts = [0]
            for _, n in case:
                starts.append(starts[-1] + n)
            outs = dequantise(pool_k, pool_v, table, ints(starts), ints(context), page_tokens, d, window)
            own = torch.arange(table.numel(), dtype=torch.int32, device=DEVICE).view(table.shape)
            out = prefill(q, *outs, own, ints(starts), ints(context), window)
            for i, (position, n) in enumerate(case):
                seen = max(0, position - window + 1) if window else 0
                for numbers, made in ((keys, outs[0]), (values, outs[1])):
                    flat = made.view(len(case), -1, 2, d)[i, seen : context[i]]
                    exact &= torch.equal(flat, numbers[i][seen:].to(HALF))
                rows = slice(starts[i], starts[i + 1])
                rounded = keys[i].to(HALF), values[i].to(HALF)
                reference = attention_reference(q[rows], *rounded, 1 / math.sqrt(d), position, window)
                worst = max(worst, relative_error(out[rows], reference))
        # As many pages as the longest has, where the table has more.
        narrow = -(-max(context) // page_tokens)
        packed = dequantise(pool_k, pool_v, table, ints(starts), ints(context), page_tokens, d, window, narrow=narrow)
        wide = outs[0].view(len(case), -1, *outs[0].shape[1:])[:, :narrow].flatten(0, 1)
        exact &= torch.equal(packed[0][: len(wide)].view(torch.int16), wide.view(torch.int16))
        check(name + ": pages are the numbers, rounded once", exact)
        check(name + ": worst of all", worst < LIMIT, f"{worst:.2e}")


def check_rope():
    for d, rotary, adjacent, normed in ((64, 64, 0, 0), (128, 128, 1, 1), (128, 128, 0, 1), (64, 16, 1, 0),
                                        (128, 32, 0, 0)):
        tokens, heads, kv_heads, pages, page_tokens = 37, 6, 2, 9, 32
        qkv = random(tokens, heads + 2 * kv_heads, d)
        qkv[7, heads + kv_heads] = 0
        frequency = 1e4 ** (-torch.arange(rotary // 2, device=DEVICE) / rotary * 2)
        angle = torch.arange(200, device=DEVICE)[:, None] * frequency
        cosines, sines = angle.cos().float().contiguous(), angle.sin().float().contiguous()
        positions = torch.randint(0, 200, (tokens,), dtype=torch.int32, device=DEVICE)
        slots = torch.randperm(pages * page_tokens)[:tokens].to(torch.int32).to(DEVICE)
        slots[5] = -1
        norms = [random(d), random(d)] if normed else [None, None]
        q_out, pools = poisoned(tokens, heads, d), [empty_pool(pages, kv_heads, page_tokens, d) for _ in range(2)]
        split = (qkv, qkv[:, heads:], qkv[:, heads + kv_heads :])
        arguments = (*split, *[(heads + 2 * kv_heads) * d] * 3, q_out, *pools, cosines, sines, positions, slots, *norms,
                     1e-6, tokens, heads, kv_heads, d, rotary, adjacent, page_tokens)
        call("rope_pages", "edgewise_rope_pages_fp8", *arguments)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
        if normed:
            scaled = lambda x, w: x.double() * torch.rsqrt(x.double().square().mean(-1, True) + 1e-6) * w.double()
            q, k = scaled(q, norms[0]), scaled(k, norms[1])
        c, s = cosines[positions.long()], sines[positions.long()]
        name = f"rope fp8 d{d} rotary {rotary} adjacent {adjacent} norm {normed}"
        check_error(name + ": queries", q_out, rope_reference(q, c, s, rotary, adjacent), ROUNDING)
        kept = slots >= 0
        place = slots[kept].long()
        read = lambda x: x.transpose(1, 2).flatten(0, 1)[place]
        (key_codes, key_scales), (codes, scales) = [parts(pool, page_tokens, d) for pool in pools]
        expected = rope_reference(k, c, s, rotary, adjacent)[kept]
        check_error(name + ": keys", dequantised(read(key_codes), read(key_scales)), expected, RELATIVE)
        same = torch.isclose(read(key_scales), expected.abs().amax(-1).float() / 448, rtol=1e-5)
        check(name + ": scales of keys", bool(same.all()))
        want_codes, want_scales = quantised(v[kept])
        same = torch.equal(read(codes).view(torch.uint8), want_codes.view(torch.uint8))
        check(name + ": values bit for bit", same and torch.equal(read(scales), want_scales))
        rest = torch.ones(pages * page_tokens, dtype=torch.bool, device=DEVICE)
        rest[place] = False
        flat = codes.transpose(1, 2).flatten(0, 1)
        check(name + ": no other slot touched", bool(flat[rest].float().isnan().all()))
    check("rope fp8 refuses pages of 0", refused("rope_pages", "edgewise_rope_pages_fp8", *arguments[:-1], 0))


def random_pool(pages, kv_heads, page_tokens, d):
    pool = torch.randint(0, 126, (pages, kv_heads, page_tokens * (d + 4)), dtype=torch.uint8, device=DEVICE)
    parts(pool, page_tokens, d)[1].fill_(0.01)
    return pool


def time_fp8(copy_rate):
    settings = [(32, 8192, 32, 8, 128), (128, 2048, 32, 8, 128), (8, 32768, 32, 8, 128), (1, 131072, 32, 8, 128),
                (1, 32768, 32, 8, 128), (1, 8192, 32, 8, 128), (1, 4096, 32, 8, 128), (32, 8192, 32, 8, 64),
                (8, 8192, 32, 32, 128)]
    time_decode(copy_rate, settings)
    time_rope(copy_rate)


def time_decode(copy_rate, settings, beside=True, variants=((256, 128),)):
    """settings: (batch, context, heads, kv_heads, d). variants: shortest split, and splits times key-value heads."""
    page_tokens = 64
    for batch, n, heads, kv_heads, d in settings:
        if beside:
            attention.time_decode(copy_rate, [(batch, n, heads, kv_heads, d, page_tokens)], peers=False)
        once = 2 * kv_heads * (d + 4) * n * batch
        sets = max(1, min(16, int(1e9 // once)))
        per = n // page_tokens
        pools = [random_pool(sets * batch * per, kv_heads, page_tokens, d) for _ in range(2)]
        order = torch.randperm(sets * batch * per, device=DEVICE).to(torch.int32).view(sets, batch, per)
        q, context = random(batch, heads, d), ints([n] * batch)
        out = torch.empty_like(q)
        for min_split, splits in variants:
            splits = max(1, min(64, splits // kv_heads))
            space = decode_workspace(batch, 1, heads, kv_heads, d, splits)
            launches = [lambda s=s: decode(q, *pools, order[s], context, 1, page_tokens, splits, min_split, out=out,
                                           workspace=space) for s in range(sets)]
            micros = time_graph(launches * (16 // sets if once < 1e8 else 1))
            report("decode fp8", f"{batch} x {n}, {heads}/{kv_heads}, d {d}, page {page_tokens} ({min_split}/{splits})",
                   micros, once / micros / 1e3, copy_rate, "GB/s")
        if beside and (n == 32768 or d == 64):
            starts = ints(range(0, batch * 512 + 1, 512))
            outs = [torch.empty(batch * per, page_tokens, kv_heads, d, dtype=HALF, device=DEVICE) for _ in range(2)]
            micros = time_graph([lambda s=s: dequantise(*pools, order[s], starts, context, page_tokens, d, outs=outs)
                                 for s in range(sets)])
            moved = 2 * kv_heads * (3 * d + 4) * n * batch
            report("dequantise", f"{batch} x {n}, {kv_heads} heads of {d}", micros, moved / micros / 1e3, copy_rate,
                   "GB/s")
            del outs
        del pools


def time_rope(copy_rate):
    heads, kv_heads, d, page_tokens = 32, 8, 128, 64
    for tokens in (32, 8192):
        sets = 8 if tokens == 32 else 3
        qkvs = [random(tokens, (heads + 2 * kv_heads) * d) for _ in range(sets)]
        q_out = poisoned(tokens, heads, d)
        pools = [empty_pool(-(-tokens // page_tokens), kv_heads, page_tokens, d) for _ in range(2)]
        angle = torch.arange(tokens, device=DEVICE)[:, None] * 1e4 ** (-torch.arange(d // 2, device=DEVICE) / d * 2)
        cosines, sines = angle.cos().float().contiguous(), angle.sin().float().contiguous()
        positions = torch.arange(tokens, dtype=torch.int32, device=DEVICE)
        slots = torch.randperm(tokens, device=DEVICE).to(torch.int32)
        micros = time_graph([lambda x=x: call("rope_pages", "edgewise_rope_pages_fp8", x, x[:, heads * d :],
                                              x[:, (heads + kv_heads) * d :], *[(heads + 2 * kv_heads) * d] * 3, q_out,
                                              *pools, cosines, sines, positions, slots, None, None, 1e-6, tokens,
                                              heads, kv_heads, d, d, 0, page_tokens) for x in qkvs])
        moved = tokens * (4 * heads * d + 2 * kv_heads * (3 * d + 4)) + 8 * tokens * d // 2
        report("rope fp8", f"{tokens} tokens, {heads}/{kv_heads} heads, d {d}", micros, moved / micros / 1e3,
               copy_rate, "GB/s")

"""What the checks share: calling the kernels, paged inputs, error norms, timing."""

import ctypes
import os
import statistics

import torch

# Which 16-bit numbers the kernels compute with: bf16, or half precision with EDGEWISE_F16=1.
HALF, SUFFIX = (torch.float16, "_f16") if os.environ.get("EDGEWISE_F16") == "1" else (torch.bfloat16, "")
ONE_FORMAT = {"top_k", "page_copy"}
LIBRARIES = os.environ.get("OUT_DIR", "/tmp/edgewise-kernels")
DEVICE = "cuda"
_loaded = {}
failures = []
rows = []


def library(name):
    if name not in _loaded:
        _loaded[name] = ctypes.CDLL(os.path.join(LIBRARIES, name + ".so"))
    return _loaded[name]


def entry(file, function):
    suffix = "" if file in ONE_FORMAT else SUFFIX
    return getattr(library(file + suffix), function + suffix)


def _argument(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, bool) or isinstance(value, int):
        return ctypes.c_int(value)
    return ctypes.c_float(value)


def call(file, function, *arguments):
    """Launches on torch's current stream; a refusal raises."""
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    status = entry(file, function)(*map(_argument, arguments), stream)
    if status != 0:
        raise RuntimeError(f"{function} failed with CUDA error {status}")


def size(file, function, *arguments):
    found = entry(file, function)
    found.restype = ctypes.c_int64
    return found(*map(ctypes.c_int, arguments))


def refused(file, function, *arguments):
    try:
        call(file, function, *arguments)
    except RuntimeError:
        return True
    return False


def random(*shape, dtype=HALF, scale=1.0):
    return (torch.randn(*shape, device=DEVICE, dtype=torch.float32) * scale).to(dtype)


def poisoned(*shape, dtype=HALF):
    return torch.full(shape, float("nan"), device=DEVICE, dtype=dtype)


def relative_error(out, reference):
    out, reference = out.double(), reference.double()
    return ((out - reference).norm() / reference.norm()).item()


def check(name, passed, detail=""):
    torch.cuda.synchronize()
    if not passed:
        failures.append(name)
    print(f"{'ok  ' if passed else 'FAIL'} {name} {detail}", flush=True)


def check_error(name, out, reference, limit):
    error = relative_error(out, reference)
    check(name, error < limit, f"relative error {error:.2e} (limit {limit:.0e})")  # NaN compares false
    return error


def paged(sequences, page_tokens, extra_pages=3):
    """Puts [tokens, kv_heads, head_dim] tensors into a shuffled pool, NaN where no token is; gives pool and table."""
    counts = [-(-len(s) // page_tokens) for s in sequences]
    total = sum(counts) + extra_pages
    order = torch.randperm(total).tolist()
    _, kv_heads, head_dim = sequences[0].shape
    pool = poisoned(total, page_tokens, kv_heads, head_dim)
    # Entries behind a sequence's last page are far out of range: reading one would fault.
    table = torch.full((len(sequences), max(counts) + 1), 1 << 24, dtype=torch.int32)
    used = 0
    for i, (sequence, count) in enumerate(zip(sequences, counts)):
        for j in range(count):
            part = sequence[j * page_tokens : (j + 1) * page_tokens]
            pool[order[used], : len(part)] = part
            table[i, j] = order[used]
            used += 1
    return pool, table.to(DEVICE)


def paged_like(sequences, page_tokens, table, pool):
    """A second pool (values) laid out by the table of the first."""
    out = torch.full_like(pool, float("nan"))
    for i, sequence in enumerate(sequences):
        for j in range(-(-len(sequence) // page_tokens)):
            part = sequence[j * page_tokens : (j + 1) * page_tokens]
            out[int(table[i, j]), : len(part)] = part
    return out


def attention_reference(q, k, v, scale, position, window=0, dtype=torch.float32):
    """[rows, heads, d] queries from `position` on over [tokens, kv_heads, d] keys; fp32 (or fp64) throughout."""
    rows_, heads, d = q.shape
    group = heads // k.shape[1]
    k = k[: position + rows_]
    v = v[: position + rows_]
    qg = q.to(dtype).view(rows_, k.shape[1], group, d).permute(1, 0, 2, 3).reshape(k.shape[1], rows_ * group, d)
    scores = qg @ k.to(dtype).permute(1, 2, 0) * scale
    at = torch.arange(len(k), device=q.device)
    own = (position + torch.arange(rows_, device=q.device)).repeat_interleave(group)
    hidden = at[None] > own[:, None]
    if window:
        hidden |= at[None] <= own[:, None] - window
    weights = torch.softmax(scores.masked_fill(hidden[None], float("-inf")), -1)
    out = weights @ v.to(dtype).permute(1, 0, 2)
    return out.view(k.shape[1], rows_, group, d).permute(1, 0, 2, 3).reshape(rows_, heads, d)


def _events():
    """Keeps the device busy for a millisecond, so that what is timed is queued before it starts: no host time in it."""
    torch.cuda._sleep(2_000_000)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    return start, end


def time_graph(launches, repeats=7):
    """Median microseconds of one launch: the launches (over different data) captured as one graph and replayed."""
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    return time_calls(graph.replay, repeats) / len(launches)


def time_calls(launch, repeats=7):
    """Median microseconds of one call, by device events, after two warm-up calls."""
    launch()
    launch()
    times = []
    for _ in range(repeats):
        start, end = _events()
        launch()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def time_beside(calls, rounds):
    """Median microseconds of each of several calls, two launches at a time in turn: clocks and heat are alike for all.
    A call that raises at first is left out."""
    times = {}
    for name, launch in list(calls.items()):
        try:
            launch()
            times[name] = []
        except RuntimeError as error:
            print(f"# {name}: {str(error).splitlines()[0]}")
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name in times:
            calls[name]()
            start, end = _events()
            calls[name]()
            calls[name]()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 500)
    return {name: statistics.median(values) for name, values in times.items()}


def report(operation, shape, microseconds, rate, limit, unit, peers=""):
    share = f"{100 * rate / limit:.0f} %" if limit else ""
    rows.append((operation, shape, microseconds, rate, unit, share, peers))
    print(f"{operation:14} {shape:44} {microseconds:10.1f} us {rate:8.1f} {unit:8} {share:>5} {peers}", flush=True)

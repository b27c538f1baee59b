"""Edgewise before real servers: a question answered through them, what they had cached, and one of two killed under load.

    upstream.py EDGEWISE MODELS GGUF -- COMMAND... (with {port} and {model})

COMMAND starts an OpenAI-compatible server on a port of this machine. Prints `passed` if everything held. `scripts/test-upstream`
calls it.
"""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

edgewise, models, gguf, separator, *command = sys.argv[1:]
assert separator == "--" and command
folder = Path(tempfile.mkdtemp(prefix="edgewise-upstream-"))
running = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(name, arguments):
    log = open(folder / f"{name}.log", "a")
    process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
    running.append(process)
    return process


def server(port):
    return start(f"server-{port}", [part.format(port=port, model=gguf) for part in command])


def call(url, body=None, timeout=300):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.status, json.loads(answer.read() or b"{}")


def wait(url, process, seconds=600):
    until = time.time() + seconds
    while time.time() < until:
        assert process.poll() is None, f"a server ended with {process.returncode}: see {folder}"
        try:
            return call(url, timeout=3)
        except (OSError, ValueError):
            time.sleep(0.3)
    raise AssertionError(f"nobody answers at {url}: see {folder}")


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run():
    ports = [free_port(), free_port()]
    servers = [server(port) for port in ports]
    for port, process in zip(ports, servers):
        wait(f"http://127.0.0.1:{port}/v1/models", process)
    port = free_port()
    urls = ",".join(f"http://127.0.0.1:{p}/v1" for p in ports)
    settings = {
        "paths.models": models, "paths.data": f"{folder}/data", "upstream.urls": urls, "upstream.server": "llama-cpp",
        "upstream.block_tokens": 1, "upstream.context_window": 2048, "upstream.health_interval_ms": 300,
        "upstream.breaker_pause_ms": 500,
        # Nothing here is about speed: a machine may be busy with other things.
        "upstream.first_token_timeout_ms": 240_000, "upstream.idle_timeout_ms": 120_000, "telemetry.log": "info,edgewise_upstream=debug",
        **dict(pair.split("=", 1) for pair in os.environ.get("UPSTREAM_SETTINGS", "").split() if pair),
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    docs = folder / "docs"
    docs.mkdir()
    (docs / "harbour.md").write_text(
        "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Elsa Brandt. "
        "Ferries leave every forty minutes.\n")
    ingested = subprocess.run([edgewise, *flags, "ingest", str(docs), "--collection", "port"], cwd=folder)
    assert ingested.returncode == 0
    gateway = start("edgewise", [edgewise, *flags, "serve", "--port", str(port)])
    base = f"http://127.0.0.1:{port}"
    wait(f"{base}/readyz", gateway)

    # A question to the collection, and the same again.
    question = {"collection": "port", "question": "Who founded the harbour of Westmar?", "max_output_tokens": 24}
    _, first = call(f"{base}/v1/query", question)
    assert first["text"].strip(), first
    _, second = call(f"{base}/v1/query", question)
    assert second["text"] == first["text"], "greedy answers are the same cached and cold"
    print("answer:", first["text"].strip()[:100])
    cached = [answer["usage"]["cache_read_tokens"] for answer in (first, second)]
    prompt = sum(second["usage"][k] for k in ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"))
    print(f"cached tokens: {cached[0]}, then {cached[1]} of {prompt}")
    if os.environ.get("REPORTS_CACHED", "1") == "1":
        assert cached[1] > prompt // 2, "the second prompt is read from the cache"

    # One of two killed under load and started again.
    outcomes = {"answered": 0, "failed": 0, "longest_s": 0.0}
    until = time.time() + float(os.environ.get("LOAD_SECONDS", "30"))

    def worker(number):
        results = []
        n = 0
        while time.time() < until:
            n += 1
            message = {"role": "user", "content": f"Worker {number}, question {n}: count up from one."}
            body = {"model": "smollm2-135m-instruct", "messages": [message], "max_tokens": 12}
            asked = time.time()
            try:
                status, answer = call(f"{base}/v1/chat/completions", body, timeout=300)
                results.append(("answered", answer["usage"]["completion_tokens"], time.time() - asked))
            except urllib.error.HTTPError as error:
                results.append((f"failed {error.code}", error.read()[:200], time.time() - asked))
        return results

    _, usage_before = call(f"{base}/v1/usage")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(worker, number) for number in range(4)]
        time.sleep((until - time.time()) / 3)
        kill(servers[0])
        print("killed one of two")
        time.sleep((until - time.time()) / 3)
        servers[0] = server(ports[0])
        results = [result for worker in workers for result in worker.result()]
    answered = [r for r in results if r[0] == "answered"]
    failed = [r for r in results if r[0] != "answered"]
    longest = max(r[2] for r in results)
    print(f"{len(answered)} answered, {len(failed)} failed, longest {longest:.1f} s")
    for result in failed:
        print(" ", result[:2])
    assert answered and longest < 240, "none hangs"
    assert len(failed) <= 4, "at most what was under way at the killed server"

    # Each answer is charged once, and nothing else but failures after a token.
    time.sleep(0.5)
    _, usage = call(f"{base}/v1/usage")
    (folder / "usage.json").write_text(json.dumps([usage_before, usage], indent=1))
    requests = usage["totals"]["requests"] - usage_before["totals"]["requests"]
    assert len(answered) <= requests <= len(answered) + len(failed), (requests, len(answered), len(failed))
    print(f"{requests} requests in the ledger")
    wait(f"http://127.0.0.1:{ports[0]}/v1/models", servers[0])
    print("passed")


try:
    run()
finally:
    for process in running:
        if process.poll() is None:
            kill(process)

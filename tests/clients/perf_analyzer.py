"""perf_analyzer, the load generator of Triton's users: it runs, and the
server's own figures, which it reads before and after, add up.

Run through `scripts/check_perf_analyzer`, which installs it.
"""

import json
import os
import re
import subprocess
import urllib.request

import pytest

CONCURRENCY = 8
REQUESTS = int(os.environ.get("PERF_ANALYZER_REQUESTS", "2000"))


def statistics(server):
    with urllib.request.urlopen(f"{server.url}/v2/models/digits/stats", timeout=60) as answer:
        (row,) = json.load(answer)["model_stats"]
    return row["inference_count"], row["execution_count"], row["inference_stats"]["success"]["count"]


def analyze(server, protocol, mode, batch, *options):
    address = server.grpc if protocol == "grpc" else server.http
    command = [os.environ["PERF_ANALYZER"], "-m", "digits", "-i", protocol, "-u", address, f"--{mode}", "-b", str(batch)]
    command += ["--concurrency-range", str(CONCURRENCY), "--request-count", str(REQUESTS), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failed" not in done.stdout + done.stderr
    return {
        name: int(re.search(rf"{name}: (\d+)", done.stdout)[1])
        for name in ("Request count", "Inference count", "Execution count", "Successful request count")
    }


RUNS = [(protocol, mode, batch) for protocol in ("http", "grpc") for mode in ("sync", "async") for batch in (1, 8)]


@pytest.mark.parametrize("protocol, mode, batch", RUNS)
def test_the_servers_figures_add_up(server, protocol, mode, batch):
    before = statistics(server)
    seen = analyze(server, protocol, mode, batch)
    inferences, executions, successes = (now - then for now, then in zip(statistics(server), before))
    print(f"{protocol} {mode} -b {batch}: {seen}; in all {inferences} inferences, {executions} runs, {successes} requests")
    assert inferences == successes * batch and successes >= REQUESTS
    assert executions < successes, "requests in the air together run together"
    # The same, as perf_analyzer reports them for the window it measured.
    assert seen["Inference count"] == seen["Successful request count"] * batch
    assert seen["Execution count"] < seen["Successful request count"]
    assert seen["Request count"] >= REQUESTS


def test_streaming_adds_up_too(server):
    before = statistics(server)
    analyze(server, "grpc", "async", 1, "--streaming")
    inferences, executions, successes = (now - then for now, then in zip(statistics(server), before))
    assert inferences == successes >= REQUESTS and executions < successes


def test_json_tensors_are_taken(server):
    options = ("--input-tensor-format", "json", "--output-tensor-format", "json")
    assert analyze(server, "http", "sync", 1, *options)["Request count"] >= REQUESTS

#!/usr/bin/env python3
"""Loads a served model below and above its capacity, per batch policy, and draws what came of it.

For each policy (aimd, quantile) with an slo of 50 ms: starts `nobat serve` on a model of random
weights, finds its capacity with a closed loop, then offers an open loop (Poisson arrivals) of 80 %
and of 150 % of it, each request with a deadline of the slo.

  scripts/plot_slo.py --bin target/release --out docs/benchmarks     writes slo-aimd.png, slo-quantile.png and slo.json there

Needs numpy, onnx and matplotlib (scripts/requirements-plots.txt) and the library of scripts/setup.
"""

import argparse
import csv
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np

SLO_MS = 50.0
WIDTH = 4096


def write_model(path):
    """float32 [N,64] -> float32 [N,16] through two hidden layers of WIDTH: 17 M multiplications a row."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    nodes, weights, last = [], [], "x"
    for at, (rows, columns) in enumerate([(64, WIDTH), (WIDTH, WIDTH), (WIDTH, 16)]):
        weight = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{at}"))
        out = "y" if at == 2 else f"h{at}"
        nodes.append(helper.make_node("MatMul", [last, f"w{at}"], [f"m{at}" if at < 2 else out]))
        if at < 2:
            nodes.append(helper.make_node("Relu", [f"m{at}"], [out]))
        last = out
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Service:
    """`nobat serve` of one model under one policy."""

    def __init__(self, binary, folder, policy):
        self.url = f"http://127.0.0.1:{free_port()}"
        environment = {
            **os.environ,
            "NOBAT_WORKER__BATCHING__POLICY": policy,
            "NOBAT_WORKER__BATCHING__SLO_MS": str(SLO_MS),
        }
        data = tempfile.mkdtemp(dir=folder)
        command = [binary, "serve", folder / "wide.onnx", "--data", data, "--listen", self.url.removeprefix("http://")]
        command += ["--grpc", "", "--metrics", ""]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/v2/models/wide/ready", timeout=1)
                return
            except OSError:
                if self.process.poll() is not None:
                    sys.exit("plot_slo: the service ended at its start; its message stands above")
                time.sleep(0.1)
        sys.exit("plot_slo: the service is not ready after a minute")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def controller(self):
        return json.load(urllib.request.urlopen(f"{self.url}/api/v1/models/wide", timeout=5))


def bench(binary, service, body, seconds, *options):
    command = [binary, "bench", "wide", "--input", body, "--url", service.url, "--duration", str(seconds), "--warm-up", "1", *options]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    number = lambda name: float(re.search(rf"^{re.escape(name)}\s+([\d.]+)", text, re.M).group(1))
    return text, number


def read_samples(path):
    with open(path) as file:
        rows = [(float(row["start_s"]), float(row["latency_ms"]), int(row["status"])) for row in csv.DictReader(file)]
    return np.array(rows)


def judge(samples, seconds, offered):
    """What one open loop came to."""
    answered = samples[samples[:, 2] == 200]
    in_time = answered[answered[:, 1] <= SLO_MS]
    return {
        "offered_per_s": round(offered, 1),
        "answered_per_s": round(len(answered) / seconds, 1),
        "in_time_per_s": round(len(in_time) / seconds, 1),
        "p50_ms": round(float(np.percentile(answered[:, 1], 50)), 2),
        "p99_ms": round(float(np.percentile(answered[:, 1], 99)), 2),
        "refused": {str(int(s)): int((samples[:, 2] == s).sum()) for s in np.unique(samples[:, 2]) if s != 200},
    }


def draw(path, policy, capacity, runs):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(2, 2, figsize=(11, 6), sharex="col", height_ratios=[2, 1], layout="constrained")
    figure.suptitle(f"policy {policy}, slo {SLO_MS:.0f} ms, capacity {capacity:.0f} requests/s")
    for column, (share, samples, verdict) in enumerate(runs):
        top, bottom = axes[0][column], axes[1][column]
        answered = samples[samples[:, 2] == 200]
        top.scatter(answered[:, 0], answered[:, 1], s=3, alpha=0.4, linewidths=0, color="tab:blue")
        top.axhline(SLO_MS, color="tab:red", linewidth=1, label="slo")
        top.axhline(verdict["p99_ms"], color="tab:orange", linewidth=1, linestyle="--", label=f"p99 {verdict['p99_ms']:.1f} ms")
        top.set_title(f"{share:.0%} of capacity: {verdict['in_time_per_s']:.0f}/s in time")
        top.set_ylim(0, SLO_MS * 1.6)
        top.legend(loc="upper right")
        edges = np.arange(0, samples[:, 0].max() + 1, 1.0)
        good = answered[answered[:, 1] <= SLO_MS]
        bottom.stairs(np.histogram(good[:, 0], edges)[0], edges, color="tab:green", label="in time")
        bottom.stairs(np.histogram(samples[samples[:, 2] != 200][:, 0], edges)[0], edges, color="tab:grey", label="refused")
        bottom.axhline(0.9 * capacity, color="black", linewidth=0.8, linestyle=":", label="90 % of capacity")
        bottom.set_xlabel("seconds")
        # Above the lines, whatever they do.
        bottom.set_ylim(0, bottom.get_ylim()[1] * 1.35)
        bottom.legend(loc="upper center", ncols=3)
    axes[0][0].set_ylabel("latency, ms")
    axes[1][0].set_ylabel("requests/s")
    figure.savefig(path, dpi=110)
    # A third of the bytes, and no difference to be seen.
    Image.open(path).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"), help="folder of the nobat binary")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/benchmarks"), help="folder for the pictures")
    parser.add_argument("--seconds", type=int, default=15, help="length of each measured run")
    arguments = parser.parse_args()
    binary = arguments.bin / "nobat"
    arguments.out.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_model(folder / "wide.onnx")
        body = folder / "body.json"
        body.write_text(json.dumps({"instances": [[round(0.01 * at, 2) for at in range(64)]]}))
        for policy in ("aimd", "quantile"):
            service = Service(binary, folder, policy)
            try:
                _, number = bench(binary, service, body, arguments.seconds, "--users", "64")
                capacity, runs = number("requests/s"), []
                print(f"{policy}: capacity {capacity:.0f}/s", flush=True)
                verdicts[policy] = {"capacity_per_s": capacity}
                for share in (0.8, 1.5):
                    file = folder / "samples.csv"
                    options = ["--rate", str(share * capacity), "--deadline", str(SLO_MS), "--samples", file]
                    text, _ = bench(binary, service, body, arguments.seconds, *options)
                    samples = read_samples(file)
                    verdict = judge(samples, arguments.seconds, share * capacity)
                    verdicts[policy][f"{share:.0%}"] = verdict
                    runs.append((share, samples, verdict))
                    print(f"  {share:.0%}: {json.dumps(verdict)}\n{text}", flush=True)
                draw(arguments.out / f"slo-{policy}.png", policy, capacity, runs)
            finally:
                service.stop()
    (arguments.out / "slo.json").write_text(json.dumps(verdicts, indent=1) + "\n")


if __name__ == "__main__":
    main()

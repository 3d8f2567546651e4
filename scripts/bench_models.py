#!/usr/bin/env python3
"""Compares a served model with the best ONNX Runtime reaches alone, in one run.

  scripts/bench_models.py --bin target/release MODEL.onnx=BODY.json[,BODY.json...] ...

For each model: the rows/s of bare `onnxruntime` over batch sizes, threads and sessions, then
requests/s of `nobat serve` under 16 connections (`nobat bench`, which shares the cores), then the
ratio. A body is what `:predict` takes, with one row; its values are also what the bare runs get.
With several bodies (of several shapes, say) the connections are shared out among them, all at once,
and the ratio is the sum of each one's: the part of the machine's best that was made use of.

Needs numpy and onnxruntime of the version that scripts/setup installs.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np
import onnxruntime

from plot_slo import free_port

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def feed_of(session, body):
    """One request's row as the runtime takes it."""
    row = body["instances"][0]
    named = row if isinstance(row, dict) else {session.get_inputs()[0].name: row}
    kinds = {value.name: TYPES[value.type] for value in session.get_inputs()}
    return {name: np.asarray([value], dtype=kinds[name]) for name, value in named.items()}


def open_session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bare(path, body, seconds):
    """Rows a second of the best of several ways, and which it was."""
    best = (0.0, "")
    for sessions, threads in ((1, 1), (2, 1), (1, 2)):
        for batch in (1, 2, 4, 8, 16, 32):
            opened = [open_session(path, threads) for _ in range(sessions)]
            feed = {name: np.repeat(value, batch, axis=0) for name, value in feed_of(opened[0], body).items()}
            counts = [0] * sessions

            def work(at, end):
                while time.perf_counter() < end:
                    opened[at].run(None, feed)
                    counts[at] += batch

            for session in opened:
                session.run(None, feed)
            start = time.perf_counter()
            workers = [threading.Thread(target=work, args=(at, start + seconds)) for at in range(sessions)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            best = max(best, (sum(counts) / (time.perf_counter() - start), f"{sessions} x {threads} threads, batch {batch}"))
    return best


def served(binary, path, bodies, seconds, connections):
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [binary, "serve", path, "--data", folder, "--listen", f"127.0.0.1:{port}", "--grpc", "", "--metrics", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{url}/v2/models/{path.stem}/ready", timeout=1)
                    break
                except OSError:
                    time.sleep(0.1)
            running = []
            for at, body in enumerate(bodies):
                file = pathlib.Path(folder) / f"body{at}.json"
                file.write_text(json.dumps(body))
                command = [binary, "bench", path.stem, "--input", file, "--url", url, "--duration", str(seconds)]
                command += ["--users", str(connections // len(bodies)), "--warm-up", "1"]
                running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            texts = [bench.communicate()[0] for bench in running]
            assert all(bench.returncode == 0 for bench in running), texts
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    return [(float(re.search(r"requests/s\s+([\d.]+)", text).group(1)), re.search(r"p50.*", text).group(0)) for text in texts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx=BODY.json[,...]")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"), help="folder of the nobat binary")
    parser.add_argument("--seconds", type=int, default=5, help="length of the served run")
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    for pair in arguments.models:
        path, found, file = pair.partition("=")
        if not found:
            sys.exit(f"bench_models: `{pair}` is not MODEL.onnx=BODY.json[,...]")
        path, bodies = pathlib.Path(path), [json.loads(pathlib.Path(name).read_text()) for name in file.split(",")]
        alone = [bare(path, body, 0.5) for body in bodies]
        told = served(arguments.bin / "nobat", path, bodies, arguments.seconds, arguments.connections)
        for name, (best, how), (rate, latency) in zip(file.split(","), alone, told):
            stem = pathlib.Path(name).stem
            print(f"{path.stem}, {stem}: alone {best:.0f} rows/s ({how}); served {rate:.0f} requests/s ({latency})")
        ratio = sum(rate / best for (best, _), (rate, _) in zip(alone, told))
        print(f"{path.stem}: ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()

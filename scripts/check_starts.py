"""Starts that are interrupted, and starts that cannot be.

    stops   SIGTERM at a random time of a start: exit 0 within the grace period
    ports   an address, a key file or a certificate that cannot be used: exit 1
    rollout start, wait for /readyz, send: nothing is refused

Every process is one that this script started, on loopback, and is waited for.
"""

import argparse
import http.client
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIGTERM = 15
FREE = ["--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def many_models(folder, count):
    """Copies of the demo model: their loads take a while."""
    for number in range(count):
        shutil.copytree(ROOT / "models/digits/1", folder / f"m{number}/1")
    return folder


class Runs:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.models = many_models(folder / "models", args.models)
        self.bad = []

    def start(self, name, *arguments):
        self.log = open(self.folder / "log", "w+")
        command = [str(Path(self.args.bin) / name), *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT)

    def serve(self, data, *arguments):
        return self.start("nobat", "serve", "--models", self.models, "--data", self.folder / data, *arguments)

    def end(self, what, process, expected):
        try:
            code = process.wait(self.args.grace)
        except subprocess.TimeoutExpired:
            process.kill()
            code = f"still there after {self.args.grace} s, {process.wait()}"
        if code != expected:
            self.log.seek(0)
            self.bad.append((what, code))
            print(f"{what}: exit {code}, not {expected}\n{self.log.read()[-2000:]}")


def hears_stop(process):
    """Whether the process has its own answer to SIGTERM by now."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (SIGTERM - 1) & 1)
    return False


def stops(runs):
    away = f"redis://127.0.0.1:{free_port()}"
    kinds = {
        "nobat serve": lambda: runs.serve("data", "--listen", "127.0.0.1:0", *FREE),
        "nobat-worker, redis away": lambda: runs.start("nobat-worker", "--redis", away, "--models", runs.models),
        "nobat-gateway, redis away": lambda: runs.start("nobat-gateway", "--redis", away, "--listen", "127.0.0.1:0", *FREE),
    }
    for number in range(runs.args.runs):
        # The first is the one that loads models.
        name = list(kinds)[max(0, number % 5 - 2)]
        process = kinds[name]()
        while not hears_stop(process):
            time.sleep(0.001)
        delay = random.random() * runs.args.within
        time.sleep(delay)
        process.terminate()
        runs.end(f"{name}, stopped after {delay:.3f} s", process, 0)


def ports(runs):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = f"127.0.0.1:{held.getsockname()[1]}"
        gone = runs.folder / "gone"
        tls = runs.folder / "tls.toml"
        tls.write_text(f'[gateway.tls]\ncertificate = "{gone}"\nkey = "{gone}"\n')
        kinds = [
            ["--listen", taken, *FREE],
            ["--listen", "127.0.0.1:0", "--grpc", taken, "--metrics", "127.0.0.1:0"],
            ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", taken],
            ["--listen", "127.0.0.1:0", *FREE, "--keys", str(gone)],
            ["--listen", "127.0.0.1:0", *FREE, "--config", str(tls)],
        ]
        for number in range(runs.args.runs):
            arguments = kinds[number % len(kinds)]
            process = runs.serve("data", *arguments)
            runs.end(f"nobat serve {' '.join(arguments)}", process, 1)


def rollout(runs):
    body = json.dumps(json.loads((ROOT / "models/digits/example.json").read_text()))
    sent, refused, lock = 0, [], threading.Lock()
    rounds = max(1, runs.args.requests // 100)
    for round_ in range(rounds):
        port = free_port()
        process = runs.serve("data", "--listen", f"127.0.0.1:{port}", *FREE)
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.002)

        def client(first):
            nonlocal sent
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for number in range(first, 100, 4):
                model = f"m{number % runs.args.models}"
                path = [f"/v1/models/{model}:predict", f"/api/v1/predict/{model}"][number // 4 % 2]
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                with lock:
                    sent += 1
                    if answer.status not in (200, 202):
                        refused.append((answer.status, text[:200]))

        clients = [threading.Thread(target=client, args=(first,)) for first in range(4)]
        [thread.start() for thread in clients]
        [thread.join() for thread in clients]
        process.terminate()
        runs.end(f"rollout {round_}", process, 0)
    print(f"rollout: {len(refused)} of {sent} requests refused after {rounds} starts")
    if refused:
        runs.bad.append(("rollout", refused[:3]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="PART", help="some of stops, ports, rollout [all]")
    parser.add_argument("--bin", default=str(ROOT / "target/release"), help="folder of the binaries")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20, help="copies of the demo model to load")
    parser.add_argument("--within", type=float, default=2.0, help="latest time of a stop, seconds")
    parser.add_argument("--grace", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    args.bin = str(Path(args.bin).resolve())
    random.seed(args.seed)
    parts = {"stops": stops, "ports": ports, "rollout": rollout}
    args.what = args.what or list(parts)
    if unknown := [what for what in args.what if what not in parts]:
        parser.error(f"no part is called {unknown[0]}")
    bad = 0
    for what in args.what:
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(args, Path(folder))
            parts[what](runs)
            print(f"{what}: {args.runs if what != 'rollout' else args.requests} done, {len(runs.bad)} not as they must be")
            bad += len(runs.bad)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

"""Outages of the store: how soon readiness and the alert follow, both ways.

    killed       Redis is killed and started again
    silent       a proxy before Redis swallows everything
    memory       Redis is out of memory
    connections  Redis refuses new connections and cuts those there are
    disk         the embedded store's disk is full (a small tmpfs: needs root)

A client predicts all the while. Told: when its first call failed, when /readyz and
the alert followed, the same for the first call that succeeded again, and the log
lines of each process within the minute. Every process is one that this script
started, on loopback.
"""

import argparse
import http.client
import http.server
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from check_starts import ROOT, free_port

WITHIN = 1.0
LINES = 60


class Receiver:
    """Takes the monitor's alerts."""

    def __init__(self):
        told = self.told = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                told.append((time.monotonic(), json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


class Proxy:
    """TCP to Redis, until it swallows everything."""

    def __init__(self, port):
        self.to, self.swallow = port, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.pump, args=(client,), daemon=True).start()

    def pump(self, client):
        with client, socket.create_connection(("127.0.0.1", self.to)) as server:
            other = {client: server, server: client}
            while True:
                for ready in select.select(list(other), [], [], 1)[0]:
                    try:
                        data = ready.recv(65536)
                        if not data:
                            return
                        if not self.swallow:
                            other[ready].sendall(data)
                    except OSError:
                        return


class Watch(threading.Thread):
    """Notes when an answer's meaning changes."""

    def __init__(self, every, ask):
        super().__init__(daemon=True)
        self.every, self.ask, self.changes, self.over = every, ask, [], False
        self.start()

    def run(self):
        while not self.over:
            good = self.ask()
            if not self.changes or self.changes[-1][1] != good:
                self.changes.append((time.monotonic(), good))
            time.sleep(self.every)

    def first(self, good, since):
        return next((at for at, seen in self.changes if at >= since and seen == good), None)


def ask(port, method, path, body=None):
    def once():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            return connection.getresponse().status == 200
        except OSError:
            return False

    return once


class Outage:
    def __init__(self, args, name):
        self.args, self.name, self.processes = args, name, []
        self.holder = tempfile.TemporaryDirectory()
        self.folder = Path(self.holder.name)
        self.receiver = Receiver()

    def start(self, name, *arguments, env=None):
        log = self.folder / f"{name}-{len(self.processes)}.log"
        binary = name if name.startswith("redis") else str(Path(self.args.bin) / name)
        with open(log, "w") as out:
            process = subprocess.Popen(
                [binary, *map(str, arguments)], cwd=self.folder, stdout=out, stderr=out, env={**os.environ, **(env or {})}
            )
        self.processes.append((process, log))
        return process

    def redis(self, port):
        process = self.start("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
                             "--dir", self.folder)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return process
            except OSError:
                time.sleep(0.01)

    def env(self):
        return {
            "NOBAT_GATEWAY__MONITOR__WEBHOOK": self.receiver.url,
            "NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_HTTP": "true",
            "NOBAT_GATEWAY__MONITOR__ADDRESSES__ALLOW_PRIVATE": "true",
            "NOBAT_GATEWAY__MONITOR__MIN_DISK_BYTES": "0",
            "NOBAT_GRPC": "127.0.0.1:0",
            "NOBAT_METRICS": "127.0.0.1:0",
        }

    def stack(self, redis):
        port = free_port()
        self.start("nobat-worker", "--redis", redis, "--models", ROOT / "models", env={"NOBAT_METRICS": ""})
        self.start("nobat-gateway", "--redis", redis, "--listen", f"127.0.0.1:{port}", env=self.env())
        return port

    def cli(self, port, *words):
        subprocess.run(["redis-cli", "-p", str(port), *words], check=True, stdout=subprocess.DEVNULL)

    def measure(self, port, begin, end):
        body = (ROOT / "models/digits/example.json").read_text()
        predict = ask(port, "POST", "/v1/models/digits:predict?deadline=2s", body)
        deadline = time.monotonic() + 60
        while not predict() or not ask(port, "GET", "/readyz")():
            if time.monotonic() > deadline:
                sys.exit(f"{self.name}: the service does not start\n" + self.logs())
            time.sleep(0.1)
        time.sleep(3)
        ready, client = Watch(0.02, ask(port, "GET", "/readyz")), Watch(0.05, predict)
        lines = {log: len(log.read_text().splitlines()) for _, log in self.processes}
        time.sleep(0.5)
        began = time.monotonic()
        begin()
        time.sleep(self.args.outage)
        ended = time.monotonic()
        end()
        time.sleep(6)
        ready.over = client.over = True
        alert = lambda kind, since: next(
            (at for at, event in self.receiver.told
             if at >= since and event["type"] == kind and event["data"]["check"] == "store"), None)
        told = {
            "failing": (client.first(False, began), ready.first(False, began), alert("monitor.check.failing", began)),
            "again": (client.first(True, ended), ready.first(True, ended), alert("monitor.check.recovered", ended)),
        }
        good, zero = True, {"failing": began, "again": ended}
        for what, (call, readyz, alerted) in told.items():
            shown = ["never" if at is None else f"{at - zero[what]:.2f} s" for at in (call, readyz, alerted)]
            late = [at is None or (call is not None and at - call > WITHIN) for at in (readyz, alerted)]
            good &= not any(late)
            print(f"{self.name:12}{what:8} first call {shown[0]:8} readyz {shown[1]:8} alert {shown[2]:8}{'  LATE' if any(late) else ''}")
        minute = (time.monotonic() - began) / 60
        for _, log in self.processes:
            if log.name.startswith("nobat"):
                count = len(log.read_text().splitlines()) - lines.get(log, 0)
                much = count > LINES * max(1, minute)
                good &= not much
                print(f"{self.name:12}{log.name}: {count} lines in {minute * 60:.0f} s{'  TOO MANY' if much else ''}")
        if not good:
            print(self.logs())
        return good

    def logs(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for _, log in self.processes)

    def close(self):
        for process, _ in reversed(self.processes):
            process.kill()
            process.wait()
        self.receiver.server.shutdown()
        self.holder.cleanup()


def killed(outage):
    port = free_port()
    server = outage.redis(port)
    at = outage.stack(f"redis://127.0.0.1:{port}")
    return outage.measure(at, server.kill, lambda: (server.wait(), outage.redis(port)))


def silent(outage):
    port = free_port()
    outage.redis(port)
    proxy = Proxy(port)
    at = outage.stack(f"redis://127.0.0.1:{proxy.port}")
    return outage.measure(at, lambda: setattr(proxy, "swallow", True), lambda: setattr(proxy, "swallow", False))


def memory(outage):
    port = free_port()
    outage.redis(port)
    at = outage.stack(f"redis://127.0.0.1:{port}")
    limit = lambda bytes: lambda: outage.cli(port, "config", "set", "maxmemory", bytes)
    return outage.measure(at, limit("1"), limit("0"))


def connections(outage):
    port = free_port()
    outage.redis(port)
    at = outage.stack(f"redis://127.0.0.1:{port}")
    # The one connection that is left is the script's own.
    keeper = socket.create_connection(("127.0.0.1", port))

    def tell(*commands):
        keeper.sendall("".join(f"{command}\r\n" for command in commands).encode())
        time.sleep(0.05)
        keeper.recv(1000)

    cut = [f"CLIENT KILL TYPE {kind} SKIPME yes" for kind in ("normal", "pubsub")]
    return outage.measure(
        at, lambda: tell("CONFIG SET maxclients 1", *cut), lambda: tell("CONFIG SET maxclients 1000"))

def disk(outage):
    data = outage.folder / "disk"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(data)], check=True)
    try:
        port = free_port()
        outage.start("nobat", "serve", "--models", ROOT / "models", "--data", data, "--listen", f"127.0.0.1:{port}",
                     "--log-dir", outage.folder / "log", env=outage.env())
        filler = data / "filler"

        def begin():
            with open(filler, "wb", buffering=0) as out:
                try:
                    while True:
                        out.write(b"x" * 4096)
                except OSError:
                    pass

        return outage.measure(port, begin, filler.unlink)
    finally:
        for process, _ in outage.processes:
            process.kill()
            process.wait()
        subprocess.run(["umount", str(data)], check=True)


OUTAGES = {"killed": killed, "silent": silent, "memory": memory, "connections": connections, "disk": disk}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", metavar="OUTAGE", help=f"some of {', '.join(OUTAGES)} [all]")
    parser.add_argument("--bin", default=str(ROOT / "target/release"), help="folder of the binaries")
    parser.add_argument("--outage", type=float, default=8.0, help="how long each lasts, seconds")
    args = parser.parse_args()
    args.bin = str(Path(args.bin).resolve())
    args.which = args.which or list(OUTAGES)
    if unknown := [name for name in args.which if name not in OUTAGES]:
        parser.error(f"no outage is called {unknown[0]}")
    bad = 0
    for name in args.which:
        outage = Outage(args, name)
        try:
            bad += not OUTAGES[name](outage)
        finally:
            outage.close()
    print(f"{len(args.which)} outages, {bad} not as they must be")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

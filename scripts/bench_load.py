#!/usr/bin/env python3
"""The load engine's own limit, beside wrk, against a server that does nothing.

  scripts/bench_load.py [--seconds 5] [--users 64] [--rounds 3]

One thread of each client in turn, the server on what is left of the machine. Prints requests a
second and the processor time of a request; wrk is the Debian package of that name.
"""

import argparse
import pathlib
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def measured(command, pattern):
    """Requests a second, and seconds of processor time that the command took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(pattern, text)
    if not found or float(found.group(1)) == 0:
        sys.exit(f"bench_load: {command[0]} told no rate:\n{text}")
    return float(found.group(1)), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="length of a run")
    parser.add_argument("--users", type=int, default=64, help="connections, each with a request under way")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--bin", type=pathlib.Path, help="the built example load_speed; without, it is built")
    arguments = parser.parse_args()
    wrk = shutil.which("wrk") or sys.exit("bench_load: wrk is not installed; apt-get install wrk")
    binary = arguments.bin
    if binary is None:
        build = ["cargo", "build", "--profile", "try", "--locked", "-p", "nobat-check", "--example", "load_speed"]
        subprocess.run(build, check=True, cwd=ROOT)
        binary = ROOT / "target/try/examples/load_speed"
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen([binary, "serve", address])
    try:
        for _ in range(100):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", int(address.split(":")[1]))) == 0:
                    break
            time.sleep(0.05)
        seconds, users = str(arguments.seconds), str(arguments.users)
        clients = {
            "wrk": ([wrk, "-t1", f"-c{users}", f"-d{seconds}s", f"http://{address}/v1/models/m:predict"], r"Requests/sec:\s+([\d.]+)"),
            "nobat": ([binary, "run", f"http://{address}", users, seconds], r"requests/s ([\d.]+)"),
        }
        figures = {name: [] for name in clients}
        for _ in range(arguments.rounds):
            for name, (command, pattern) in clients.items():
                rate, cpu = measured(command, pattern)
                figures[name].append((rate, cpu / arguments.seconds / rate * 1e6))
        for name, runs in figures.items():
            rates, costs = zip(*runs)
            print(f"{name:6} {statistics.median(rates):8.0f} requests/s ({min(rates):.0f}-{max(rates):.0f}), "
                  f"{statistics.median(costs):5.1f} us of processor time each")
        share = statistics.median(r for r, _ in figures["nobat"]) / statistics.median(r for r, _ in figures["wrk"])
        print(f"nobat sends {share:.0%} of what wrk does")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()

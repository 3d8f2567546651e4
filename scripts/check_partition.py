#!/usr/bin/env python3
"""Redis, a gateway and two workers as hosts of their own, one of them cut off and brought back.

Each host is a network namespace with an address on a bridge, the bridge one more; the machine's
own network is not touched. A cut takes the host's port of the bridge down, as a pulled cable does:
nobody is told, packets are swallowed. In every fourth round the machine of Redis forgets a worker's
connections meanwhile, as after a restart or behind a firewall. Clients submit and predict all the while. What was answered
202 must be readable, with the answer that belongs to it. Needs root, iproute2 and redis-server.

    scripts/check_partition.py               32 rounds: worker, gateway, Redis, forgotten worker in turn, 5 to 30 s each
    scripts/check_partition.py --short       4 rounds of 5 s
"""

import argparse
import ctypes
import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {"redis": "10.231.0.2", "gateway": "10.231.0.3", "worker1": "10.231.0.4", "worker2": "10.231.0.5"}
CLIENTS = "10.231.0.1"
CUT = ("worker1", "gateway", "redis", "forgotten")
CLONE_NEWNET = 0x40000000
#: After the cable is back: the first answer, and the last of what was accepted, at the latest.
WITHIN = 30.0


class Net:
    """The namespaces, all named after this process."""

    def __init__(self):
        self.made = []
        hub = self.namespace("hub")
        self.ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        self.ip("-n", hub, "addr", "add", f"{CLIENTS}/24", "dev", "bridge")
        self.ip("-n", hub, "link", "set", "bridge", "up")
        for host, address in HOSTS.items():
            name = self.namespace(host)
            self.ip("-n", hub, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
            self.ip("-n", hub, "link", "set", host, "master", "bridge", "up")
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            self.ip("-n", name, "link", "set", "eth0", "up")

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    @staticmethod
    def name(host):
        return f"nobat-{os.getpid()}-{host}"

    def namespace(self, host):
        name = self.name(host)
        self.ip("netns", "add", name)
        self.made.append(name)
        self.ip("-n", name, "link", "set", "lo", "up")
        return name

    def cable(self, host, state):
        self.ip("-n", self.name("hub"), "link", "set", host, state)

    def forget(self, host, other):
        """Ends the connections that ``host`` has with ``other``, whose end hears nothing of it while it is cut off."""
        said = subprocess.run(
            ["ip", "netns", "exec", self.name(host), "ss", "-K", "-H", "-t", "dst", HOSTS[other]], check=True, capture_output=True, text=True
        )
        return len(said.stdout.splitlines())

    def enter(self):
        """Takes the calling thread to where the clients are."""
        with open(f"/run/netns/{self.name('hub')}") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def close(self):
        for name in self.made:
            self.ip("netns", "delete", name)


class Hosts:
    """The processes, each in its namespace."""

    def __init__(self, net, args, folder):
        self.net, self.args, self.folder, self.processes = net, args, folder, []
        redis = f"redis://{HOSTS['redis']}:6379"
        env = {"NOBAT_QUEUE__LEASE_MS": str(args.lease_ms)}
        self.start("redis", ["redis-server", "--bind", HOSTS["redis"], "--protected-mode", "no", "--save", "",
                             "--appendonly", "yes", "--dir", str(folder)])
        for worker in ("worker1", "worker2"):
            self.start(worker, [*self.binary("worker"), "--redis", redis, "--models", str(ROOT / "models"), "--metrics", ""], env)
        self.start("gateway", [*self.binary("gateway"), "--redis", redis, "--listen", f"{HOSTS['gateway']}:8000", "--insecure",
                               "--grpc", "", "--metrics", ""], env)

    def binary(self, role):
        own = Path(self.args.bin) / f"nobat-{role}"
        return [str(own)] if own.exists() else [str(Path(self.args.bin) / "nobat"), role]

    def start(self, host, command, env=None):
        log = open(self.folder / f"{host}.log", "w")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NOBAT_") or name == "NOBAT_ORT_LIB"}
        env = {**clean, "NOBAT_LOG_DIR": str(self.folder / host), **(env or {})}
        command = ["ip", "netns", "exec", self.net.name(host), *command]
        self.processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))

    def check(self):
        for process in self.processes:
            if process.poll() is not None:
                raise SystemExit(f"a process ended by itself: {process.args}\n{self.logs()}")

    def logs(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Http:
    """One connection to the gateway, made anew after a failure; ``None`` where no answer came."""

    def __init__(self, timeout=5.0):
        self.timeout, self.connection = timeout, None

    def __call__(self, method, path, body=None, headers=None):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(HOSTS["gateway"], 8000, timeout=self.timeout)
            self.connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
            answer = self.connection.getresponse()
            return answer.status, answer.read(), answer.headers
        except (OSError, http.client.HTTPException):
            self.connection = None
            return None, b"", {}


class Load:
    """Clients that submit and predict; what they were promised, and when they were answered."""

    def __init__(self, net):
        golden = json.loads((ROOT / "models/digits/golden.json").read_text())
        pixels = golden["inputs"][0]["data"]
        self.digits = [json.dumps({"inputs": [pixels[at : at + 64]]}) for at in range(0, len(pixels), 64)]
        self.labels = next(output["data"] for output in golden["outputs"] if output["name"] == "label")
        self.net, self.over, self.lock = net, False, threading.Lock()
        self.accepted, self.answers, self.wrong = [], [], []
        self.threads = [self.thread(self.submit, number) for number in range(4)]
        self.threads += [self.thread(self.predict, number) for number in range(4)]

    def thread(self, work, *arguments):
        def run():
            self.net.enter()
            work(*arguments)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def submit(self, client):
        call = Http()
        for turn in itertools.count():
            which = random.randrange(len(self.digits))
            key = f"{client}-{turn}"
            while not self.over:
                # Again under the same key until it is accepted: nobody knows what a call did that was not answered.
                status, body, _ = call("POST", "/api/v1/predict/digits?result_ttl=2h", self.digits[which], {"idempotency-key": key})
                if status == 202:
                    with self.lock:
                        self.accepted.append((json.loads(body)["id"], which))
                    break
                time.sleep(0.05)
            if self.over:
                return
            time.sleep(0.03)

    def predict(self, _client):
        call = Http()
        while not self.over:
            which = random.randrange(len(self.digits))
            began = time.monotonic()
            status, body, headers = call("POST", "/v1/models/digits:predict?deadline=4s", self.digits[which])
            if status == 200:
                self.judge(which, json.loads(body)["outputs"])
                timing = headers["server-timing"] or ""
                worker = timing.partition("worker;desc=")[2].partition(",")[0]
                self.answers.append((began, time.monotonic(), worker))
            time.sleep(0.03)

    def judge(self, which, outputs):
        label = outputs["label"]
        while isinstance(label, list):
            label = label[0]
        if label != self.labels[which]:
            self.wrong.append((which, label))

    def settle(self, until):
        """Reads the result of everything that was accepted; how many of it are lost."""
        with self.lock:
            promised, self.accepted = self.accepted, []
        lost, at, lock = [], iter(promised), threading.Lock()

        def read():
            call = Http(timeout=15)
            while True:
                with lock:
                    job = next(at, None)
                if job is None:
                    return
                while True:
                    status, body, _ = call("GET", f"/api/v1/jobs/{job[0]}/result?wait=10s&form=column")
                    if status == 200:
                        self.judge(job[1], json.loads(body)["outputs"])
                        break
                    # 202 is not done yet, 503 not now; anything else is an end that must not be.
                    if status not in (None, 202, 503) or time.monotonic() > until:
                        lost.append((job[0], status, body[:200]))
                        break

        readers = [self.thread(read) for _ in range(8)]
        [reader.join() for reader in readers]
        return len(promised), lost

    def close(self):
        self.over = True
        [thread.join() for thread in self.threads]


def play(load, net, victim, seconds):
    """One round. Says what was accepted while the host was away, and how soon all was well again."""
    before = {worker for _, ended, worker in load.answers if ended > time.monotonic() - 5}
    began = time.monotonic()
    accepted = len(load.accepted)
    host = "worker1" if victim == "forgotten" else victim
    net.cable(host, "down")
    time.sleep(seconds)
    if victim == "forgotten" and not net.forget("redis", host):
        raise SystemExit("check_partition: no connection was forgotten; is the kernel built without INET_DIAG_DESTROY?")
    accepted = len(load.accepted) - accepted
    # Calls that a client began after this: what was under way may have been answered by the other worker.
    back = time.monotonic()
    net.cable(host, "up")
    answered = [at for at, _, _ in load.answers if began + 1 < at < back]

    def first(wanted):
        while time.monotonic() < back + WITHIN:
            for at, ended, worker in reversed(load.answers):
                if at < back:
                    break
                if wanted(worker):
                    return ended - back
            time.sleep(0.02)
        return None

    answer = first(lambda worker: True)
    # Both workers answer again: the one that was cut off has its connections back.
    workers = [first(lambda worker, one=one: worker == one) for one in before]
    whole = None if None in workers or len(workers) < 2 else max(workers)
    time.sleep(1.0)
    promised, lost = load.settle(back + 60)
    return {"accepted": promised, "meanwhile": accepted, "answered": len(answered), "answer": answer, "whole": whole,
            "settled": time.monotonic() - back, "lost": lost}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release"), help="folder of the binaries")
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--least", type=float, default=5.0, help="seconds of the shortest cut")
    parser.add_argument("--most", type=float, default=30.0, help="seconds of the longest cut")
    parser.add_argument("--lease-ms", type=int, default=5000, help="after which a job of a lost worker runs elsewhere")
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--short", action="store_true", help="4 rounds of 5 s")
    args = parser.parse_args()
    if args.short:
        args.rounds, args.least, args.most = 4, 5.0, 5.0
    if os.geteuid() != 0:
        sys.exit("check_partition: network namespaces need root")
    random.seed(args.seed)
    net = Net()
    try:
        with tempfile.TemporaryDirectory() as folder:
            hosts = Hosts(net, args, Path(folder))
            try:
                bad = rounds(args, net, hosts)
            finally:
                hosts.close()
    finally:
        net.close()
    sys.exit(1 if bad else 0)


def rounds(args, net, hosts):
    load = Load(net)
    deadline = time.monotonic() + 60
    while len({worker for _, _, worker in load.answers}) < 2:
        hosts.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"the workers do not answer\n{hosts.logs()}")
        time.sleep(0.1)
    told, bad = {victim: [] for victim in CUT}, 0
    print("round  cut off    seconds  accepted (meanwhile)  predicted meanwhile  first answer  both workers  all answered  lost")
    for number in range(args.rounds):
        victim, seconds = CUT[number % len(CUT)], random.uniform(args.least, args.most)
        time.sleep(2)
        seen = play(load, net, victim, seconds)
        hosts.check()
        told[victim].append(seen)
        failed = bool(seen["lost"]) or None in (seen["answer"], seen["whole"])
        bad += failed
        shown = ["never" if at is None else f"{at:.2f} s" for at in (seen["answer"], seen["whole"], seen["settled"])]
        print(f"{number + 1:5}  {victim:9}  {seconds:7.1f}  {seen['accepted']:8} ({seen['meanwhile']:9})  {seen['answered']:19}"
              f"  {shown[0]:>12}  {shown[1]:>12}  {shown[2]:>12}  {len(seen['lost']):4}{'  BAD' if failed else ''}", flush=True)
        for job, status, body in seen["lost"][:3]:
            print(f"       lost: {job} {status} {body!r}")
    load.close()
    for victim, rows in told.items():
        if rows:
            times = {name: [row[name] for row in rows if row[name] is not None] for name in ("answer", "whole", "settled")}
            print(f"{victim}: " + ", ".join(f"{name} median {statistics.median(at):.2f} max {max(at):.2f} s" for name, at in times.items() if at))
    everything = [row for rows in told.values() for row in rows]
    lost = sum(len(row["lost"]) for row in everything)
    print(f"{len(everything)} cuts: {sum(row['accepted'] for row in everything)} jobs accepted, {lost} lost, {len(load.wrong)} wrong answers")
    if bad:
        print(hosts.logs())
    return bad + len(load.wrong)


if __name__ == "__main__":
    main()

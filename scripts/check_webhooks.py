"""See check_webhooks: what it checks and how it is called."""

import http.client
import http.server
import json
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from standardwebhooks.webhooks import Webhook

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLD = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
NEW = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4"
FAILS = 0.15
KILLS = 4
RESTARTS = 3
LIMIT_S = 400

CONFIG = f"""
[gateway.webhooks]
secrets = ["{NEW}", "{OLD}"]
retry_s = {[1] * 200}
[gateway.webhooks.addresses]
allow_http = true
allow_private = true
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Inbox:
    """What has arrived and verified, by message id."""

    def __init__(self):
        self.lock = threading.Lock()
        self.chance = random.Random(7)
        self.accepted = {}
        self.refused = 0
        self.forged = []

    def take(self, headers, body):
        for secret in (OLD, NEW):
            try:
                Webhook(secret).verify(body, headers)
            except Exception as error:  # Whatever the library raises, the message does not verify.
                with self.lock:
                    self.forged.append(repr(error))
        with self.lock:
            if self.chance.random() < FAILS:
                self.refused += 1
                return 500
            message = headers["webhook-id"]
            self.accepted[message] = self.accepted.get(message, 0) + 1
            return 204


class Receiver:
    def __init__(self, inbox, port):
        self.inbox, self.port, self.server = inbox, port, None

    def start(self):
        inbox = self.inbox

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(inbox.take(headers, body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True
            request_queue_size = 256

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def restart(self):
        self.server.shutdown()
        self.server.server_close()
        time.sleep(0.3)
        self.start()


class Process:
    def __init__(self, log, *command):
        self.log, self.command, self.child = log, command, None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=ROOT)

    def kill(self):
        self.child.kill()
        self.child.wait()


def call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(what, done):
    end = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > end:
            sys.exit(f"not within {LIMIT_S} s: {what}")
        time.sleep(0.05)


def ready(port):
    try:
        return call(port, "GET", "/v2/models/digits/ready")[0] == 200
    except OSError:
        return False


def main(deliveries, binaries):
    began = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nobat-webhooks-"))
    (folder / "nobat.toml").write_text(CONFIG)
    redis_port, port, hook = free_port(), free_port(), free_port()
    redis = f"redis://127.0.0.1:{redis_port}"
    inbox = Inbox()
    receiver = Receiver(inbox, hook)
    receiver.start()
    processes = [
        Process(folder / "redis.log", "redis-server", "--port", str(redis_port), "--bind", "127.0.0.1",
                "--save", "", "--dir", str(folder)),
        Process(folder / "worker.log", f"{binaries}/nobat-worker", "--redis", redis, "--models", "models"),
        Process(folder / "gateway.log", f"{binaries}/nobat-gateway", "--redis", redis, "--config", f"{folder}/nobat.toml",
                "--listen", f"127.0.0.1:{port}", "--grpc", "", "--metrics", ""),
    ]
    gateway = processes[-1]
    jobs = []
    try:
        until("the gateway answers", lambda: ready(port))
        body = (ROOT / "models/digits/example.json").read_bytes()
        path = f"/api/v1/predict/digits?webhook=http://127.0.0.1:{hook}/hook"

        def send():
            while len(jobs) < deliveries:
                try:
                    status, answer = call(port, "POST", path, body)
                except OSError:
                    time.sleep(0.05)  # Killed just now; nothing was promised.
                    continue
                if status == 202:
                    jobs.append(json.loads(answer)["id"])
                else:
                    time.sleep(0.05)

        sending = threading.Thread(target=send)
        sending.start()
        for kill in range(KILLS):
            # In the middle of accepting, watching and sending.
            until("some arrive", lambda: len(inbox.accepted) > kill * deliveries // 20 or not sending.is_alive())
            gateway.kill()
            if kill < RESTARTS:
                receiver.restart()
            gateway.start()
            until("the gateway answers again", lambda: ready(port))
        sending.join()
        wanted = {f"msg_{job}_job.succeeded" for job in jobs}
        until("every delivery arrives", lambda: wanted <= inbox.accepted.keys())
    finally:
        for process in reversed(processes):
            process.kill()
        receiver.server.shutdown()
    shutil.rmtree(folder)
    if inbox.forged:
        sys.exit(f"{len(inbox.forged)} signatures did not verify, such as {inbox.forged[0]}")
    times = sum(inbox.accepted.values())
    print(
        f"{len(wanted)} deliveries arrived, {times} messages in all, every signature verified with both secrets; "
        f"{inbox.refused} refused at random, {RESTARTS} restarts of the receiver, {KILLS} kills of the sender, "
        f"{time.monotonic() - began:.0f} s"
    )


main(int(sys.argv[1]), sys.argv[2])

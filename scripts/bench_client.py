"""The Python client against what it stands on, in one run:

    map      over 100,000 digits, against the drain of as many queued jobs by the same server
    predict  of a 3 x 224 x 224 array, against the same request by http.client

    scripts/check_python -k version           # makes the environment
    .nobat/python/bin/python scripts/bench_client.py [--bin target/release]

Starts a Redis, a gateway and a worker of its own. Client and server share the machine.
"""

import argparse
import http.client
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

import numpy as np  # noqa: E402

import nobat  # noqa: E402

#: The mean of each channel of `image` (n x 3 x 224 x 224): one GlobalAveragePool.
IMAGE_MODEL = bytes.fromhex(
    "08083a6e0a200a05696d61676512046d65616e2211476c6f62616c41766572616765506f6f6c1205696d6167655a220a05696d616765"
    "12190a17080112130a0312016e0a0208030a0308e0010a0308e001621f0a046d65616e12170a15080112110a0312016e0a0208030a02"
    "08010a02080142040a001011"
)
MANY = 10_000


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Server:
    def __init__(self, folder, bin):
        models = Path(folder) / "models/image"
        models.mkdir(parents=True)
        (models / "model.onnx").write_bytes(IMAGE_MODEL)
        redis, self.port, self.processes = free_port(), free_port(), []
        self.url = f"http://127.0.0.1:{self.port}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NOBAT_") or name == "NOBAT_ORT_LIB"}
        self.env = {**clean, "NOBAT_METRICS": "", "NOBAT_GRPC": "", "NOBAT_LOG_DIR": folder}
        self.log = open(Path(folder) / "log", "w")
        address = f"redis://127.0.0.1:{redis}"
        self.start("redis-server", "--port", redis, "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        self.start(*command(bin, "worker"), "--redis", address, "--models", f"{ROOT / 'models'},{models.parent}", "--sessions", "1")
        self.start(*command(bin, "gateway"), "--redis", address, "--listen", f"127.0.0.1:{self.port}")

    def start(self, *words):
        self.processes.append(subprocess.Popen([str(word) for word in words], cwd=ROOT, env=self.env, stdout=self.log, stderr=self.log))

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 300, (path, answer.status, content[:300])
        return json.loads(content or b"{}")


def command(bin, role):
    own = Path(bin) / f"nobat-{role}"
    return [own] if own.exists() else [Path(bin) / "nobat", role]


def digits():
    golden = json.loads((ROOT / "models/digits/golden.json").read_text())
    labels = next(output["data"] for output in golden["outputs"] if output["name"] == "label")
    return np.array(golden["inputs"][0]["data"], dtype=np.float32).reshape(golden["inputs"][0]["shape"]), labels


def drain(server, rows, count):
    """Jobs a second from a queue that is full, to stored results."""
    server.call("POST", "/api/v1/queues/digits/pause")
    requests = json.dumps({"requests": [{"inputs": [rows[n % 64].tolist()]} for n in range(MANY)]})
    for _ in range(count // MANY):
        server.call("POST", "/api/v1/predict/digits/many", requests)
    began = time.monotonic()
    server.call("POST", "/api/v1/queues/digits/resume")
    while any(server.call("GET", "/api/v1/queues/digits")[state] for state in ("queued", "leased")):
        time.sleep(0.02)
    return count / (time.monotonic() - began)


def mapped(client, rows, labels, count, **options):
    """Inputs a second."""
    began = time.monotonic()
    for n, answer in enumerate(client.map("digits", (rows[n % 64] for n in range(count)), **options)):
        assert answer["label"] == labels[answer.index % 64]
    assert n + 1 == count
    return count / (time.monotonic() - began)


def predicted(client, port, turns):
    """Median milliseconds by the client and by http.client, in turns."""
    image = np.random.rand(1, 3, 224, 224).astype(np.float32)
    raw = http.client.HTTPConnection("127.0.0.1", port)

    def by_hand():
        described = {"name": "image", "datatype": "FP32", "shape": image.shape, "parameters": {"binary_data_size": image.nbytes}}
        head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
        headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
        raw.request("POST", "/v2/models/image/infer", head + image.tobytes(), headers)
        answer = raw.getresponse()
        content, length = answer.read(), int(answer.headers["inference-header-content-length"])
        assert json.loads(content[:length])["model_name"] == "image"
        return np.frombuffer(content[length:], dtype="<f4")

    def by_client():
        return client.predict("image", image)["mean"]

    took = {by_hand: [], by_client: []}
    for turn in range(turns + 20):
        for call in random.sample(list(took), 2):
            began = time.perf_counter()
            result = call()
            took[call].append((time.perf_counter() - began) * 1e3)
            assert np.allclose(result.reshape(3), image.mean(axis=(0, 2, 3)), rtol=1e-4)
    return [sorted(times[20:])[turns // 2] for times in (took[by_client], took[by_hand])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "target/release"), help="folder of the binaries")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows, labels = digits()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, args.bin)
        try:
            with nobat.Client(server.url, retries=8) as client:
                while not (client.ready() and {"digits", "image"} <= {model.name for model in client.models() if model.ready}):
                    time.sleep(0.1)
                for round_ in range(args.rounds):
                    rate = mapped(client, rows, labels, args.inputs)
                    loose = mapped(client, rows, labels, args.inputs, ordered=False)
                    drained = drain(server, rows, args.inputs)
                    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                    print(f"map {rate:,.0f} inputs/s in order, {loose:,.0f} in any; drain {drained:,.0f} jobs/s: {rate / drained:.0%}; "
                          f"client {memory:.0f} MiB at most", flush=True)  # fmt: skip
                for round_ in range(args.rounds):
                    ours, raw = predicted(client, server.port, 500)
                    print(f"predict of 3 x 224 x 224: p50 {ours:.3f} ms, http.client {raw:.3f} ms: {ours - raw:+.3f} ms", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

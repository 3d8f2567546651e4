#!/usr/bin/env python3
"""Starts the peers, lets `nobat test` ask them, and compares what it found with what must be found."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/digits/1/model.onnx"
GOLDEN = ROOT / "models/digits/golden.json"
JSON = ["--protocol", "json", "--request-template", '{"input": $input[0]}',
        "--answer", "label=/label,probabilities=/probabilities"]

# A load that two interpreters bear beside their client.
LOAD = ["--rate", "40", "--duration", "12", "--slo", "1000"]
LOADED = ["load answers", "load latency", "load memory"]

LITSERVE = '''
import sys
import time
import litserve
import numpy
import onnxruntime
from fastapi import HTTPException

FAULT = sys.argv[3]
KEPT = []


class Digits(litserve.LitAPI):
    def setup(self, device):
        self.session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        try:
            row = numpy.asarray(request["input"], dtype=numpy.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, f"`input` cannot be read: {error}")
        if row.shape != (64,) or not numpy.isfinite(row).all():
            raise HTTPException(422, f"`input` has shape {row.shape}, not (64,), or no finite numbers")
        return row

    def predict(self, row):
        # In a process of its own, behind the one that listens.
        if FAULT == "leaking":
            KEPT.append(b"x" * 65_536)
        if FAULT == "slow":
            time.sleep(0.1)
        label, probabilities = self.session.run(["label", "probabilities"], {"input": row[None]})
        return int(label[0]), probabilities[0].tolist()

    def encode_response(self, output):
        label, probabilities = output
        if FAULT == "swapped":
            label = {3: 5, 5: 3}.get(label, label)
        return {"label": label, "probabilities": probabilities}


if __name__ == "__main__":
    server = litserve.LitServer(Digits(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
'''

MLSERVER = '''
import os
import numpy
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse


class Digits(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if len(payload.inputs) != 1 or payload.inputs[0].name != "input":
            raise InferenceError("the model takes one input, `input`")
        tensor = payload.inputs[0]
        if str(getattr(tensor.datatype, "value", tensor.datatype)) != "FP32":
            raise InferenceError(f"input `input` is FP32, not {tensor.datatype}")
        try:
            rows = NumpyCodec.decode_input(tensor)
        except Exception as error:
            raise InferenceError(f"input `input` cannot be read: {error}")
        if rows.ndim != 2 or rows.shape[1] != 64 or len(rows) == 0 or not numpy.isfinite(rows).all():
            raise InferenceError(f"input `input` has shape {rows.shape}, not [-1, 64], or no finite numbers")
        label, probabilities = self.session.run(["label", "probabilities"], {"input": rows.astype(numpy.float32)})
        if os.environ["FAULT"] == "swapped":
            label = numpy.where(label == 3, 5, numpy.where(label == 5, 3, label))
        return InferenceResponse(model_name=self.name, model_version="1", outputs=[
            NumpyCodec.encode_output("label", label), NumpyCodec.encode_output("probabilities", probabilities)])
'''


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Peer:
    """A process with its children, and where it answers."""

    def __init__(self, folder, command, ready, env=None):
        self.log = open(folder / f"peer-{time.monotonic_ns()}.log", "w+b")
        self.process = subprocess.Popen(command, cwd=folder, stdout=self.log, stderr=self.log, start_new_session=True,
                                        env={**os.environ, **(env or {})})
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(ready, timeout=2).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.log.seek(0)
                    sys.exit(f"check_peers: the peer did not start:\n{self.log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def litserve(folder, fault=""):
    (port,) = free_ports(1)
    (folder / "litserve_peer.py").write_text(LITSERVE)
    command = [sys.executable, "litserve_peer.py", str(MODEL), str(port), fault]
    return Peer(folder, command, f"http://127.0.0.1:{port}/health"), [f"http://127.0.0.1:{port}/predict", *JSON]


def mlserver(folder, fault=""):
    http, grpc, metrics = free_ports(3)
    home = folder / f"mlserver-{fault or 'right'}"
    (home / "digits").mkdir(parents=True)
    (home / "mlserver_peer.py").write_text(MLSERVER)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
                "parallel_workers": 0, "debug": False}
    (home / "settings.json").write_text(json.dumps(settings))
    tensor = lambda name, datatype, shape: {"name": name, "datatype": datatype, "shape": shape}
    (home / "digits/model-settings.json").write_text(json.dumps({
        "name": "digits", "implementation": "mlserver_peer.Digits", "parameters": {"version": "1"},
        "inputs": [tensor("input", "FP32", [-1, 64])],
        "outputs": [tensor("label", "INT64", [-1]), tensor("probabilities", "FP32", [-1, 10])]}))
    command = [str(pathlib.Path(sys.executable).with_name("mlserver")), "start", "."]
    env = {"MODEL": str(MODEL), "FAULT": fault, "PYTHONPATH": str(home)}
    peer = Peer(home, command, f"http://127.0.0.1:{http}/v2/models/digits/ready", env)
    return peer, [f"http://127.0.0.1:{http}", "--grpc", f"127.0.0.1:{grpc}"]


def test(nobat, where, *flags):
    url, *server = where
    command = [nobat, "test", "digits", "--url", url, "--golden", str(GOLDEN), *server, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if done.returncode == 2:
        sys.exit(f"check_peers: {' '.join(command)}\n{done.stderr.decode()}")
    return done.returncode, json.loads(done.stdout)


def verdicts(report):
    return {f"{stage['stage']} {finding['id']}": finding for stage in report["stages"] for finding in stage["findings"]}


def main():
    nobat = sys.argv[1]
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # What the pinned versions do wrong themselves: LitServe answers 500 to a body that is no JSON,
        # MLServer INTERNAL to a raw tensor of gRPC that is cut off.
        for start, own_faults, must_pass in [
            (litserve, ["errors not_json"],
             ["functional golden", "functional determinism", "errors wrong_datatype", "errors missing_input", *LOADED]),
            (mlserver, ["errors ragged"],
             ["functional golden", "functional batched", "functional protocol.grpc", "errors wrong_rank", "errors unknown_model", *LOADED]),
        ]:
            peer, where = start(folder)
            with peer:
                code, report = test(nobat, where, "--only", "functional,errors,load", *LOAD)
            found = verdicts(report)
            for key, finding in found.items():
                told = " ".join(finding.get("words", [])) or finding.get("why", "")
                print(f"{start.__name__}: {finding['verdict']:>10}  {key}  {textwrap.shorten(told, 160)}")
            failed = [key for key, finding in found.items() if finding["verdict"] == "failed"]
            missing = [key for key in must_pass if found.get(key, {}).get("verdict") != "passed"]
            if code != 1 or failed != own_faults or missing:
                wrong.append(f"{start.__name__}: exit code {code}, failed {failed}, not passed {missing}")
            peer, where = start(folder, "swapped")
            with peer:
                code, report = test(nobat, where, "--only", "functional")
            if code != 1 or verdicts(report)["functional golden"]["verdict"] != "failed":
                wrong.append(f"{start.__name__}: two swapped classes were not found")
            if start is not litserve:
                continue
            for fault, finding in [("leaking", "load memory"), ("slow", "load latency")]:
                peer, where = start(folder, fault)
                with peer:
                    code, report = test(nobat, where, "--only", "load", *LOAD)
                found = verdicts(report)[finding]
                print(f"{start.__name__}, {fault}: {found['verdict']:>10}  {finding}  {textwrap.shorten(' '.join(found['words']), 300)}")
                if code != 1 or found["verdict"] != "failed":
                    wrong.append(f"{start.__name__}: {fault} was not found by {finding}")
    if wrong:
        sys.exit("check_peers: " + "; ".join(wrong))
    print("check_peers: both peers' right answers pass, and their faults and ours are found")


if __name__ == "__main__":
    main()

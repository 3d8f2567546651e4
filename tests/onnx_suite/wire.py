"""The four protocols, as small as they can be: a request out, an answer or a refusal back.

Written against the protocols, not against the server: what is wrong in both ends
of a library would not show.
"""

import base64
import http.client
import json

import grpc
import ml_dtypes
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tensors import FLOATS, NUMPY, Tensor

TIMEOUT_S = 60
PROTOCOLS = ("v2-binary", "v2-json", "tf-serving", "grpc")


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Client:
    """One connection of each kind; for one thread."""

    def __init__(self, http_address, grpc_address):
        self.address = http_address
        self.http = None
        self.channel = grpc.insecure_channel(
            grpc_address, options=[("grpc.max_receive_message_length", 1 << 28), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.grpc = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.rows = 0  # of the run that the last answer came from

    def infer(self, protocol, model, inputs, outputs):
        """`outputs`: a datatype by name, for protocols that do not say it."""
        return {
            "v2-binary": self.v2_binary, "v2-json": self.v2_json, "tf-serving": self.tf_serving, "grpc": self.v2_grpc,
        }[protocol](model, inputs, outputs)

    def post(self, path, body, headers):
        for attempt in (1, 2):
            if self.http is None:
                self.http = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
            try:
                self.http.request("POST", path, body, headers)
                answer = self.http.getresponse()
                data = answer.read()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # A kept connection that the server had closed meanwhile.
                self.http = None
                if attempt == 2:
                    raise
        self.rows = batch_rows(answer.getheader("Server-Timing"))
        if answer.status != 200:
            told = json.loads(data)
            raise Refused(f"{answer.status} {told.get('code', '?')}", told.get("error", told.get("detail", "")))
        return answer, data

    def v2_binary(self, model, inputs, outputs):
        described, raw = [], b""
        for name, tensor in inputs.items():
            data = tensor.framed()
            described.append({
                "name": name, "datatype": tensor.datatype, "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(data)},
            })
            raw += data
        head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        answer, data = self.post(f"/v2/models/{model}/infer", head + raw, headers)
        length = int(answer.getheader("Inference-Header-Content-Length") or len(data))
        told, at, found = json.loads(data[:length]), length, {}
        for output in told["outputs"]:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = Tensor.unframed(output["datatype"], output["shape"], data[at : at + size])
            at += size
        return found

    def v2_json(self, model, inputs, outputs):
        described = [
            {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": flat(tensor)}
            for name, tensor in inputs.items()
        ]
        body = json.dumps({"inputs": described}).encode()
        _, data = self.post(f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
        return {
            output["name"]: parsed(output["datatype"], tuple(output["shape"]), output["data"])
            for output in json.loads(data)["outputs"]
        }

    def tf_serving(self, model, inputs, outputs):
        body = json.dumps({"inputs": {name: nested(tensor) for name, tensor in inputs.items()}}).encode()
        _, data = self.post(f"/v1/models/{model}:predict", body, {"Content-Type": "application/json"})
        told = json.loads(data)["outputs"]
        if len(outputs) == 1:
            told = {next(iter(outputs)): told}
        return {name: parsed(datatype, shape_of(told[name]), elements(told[name])) for name, datatype in outputs.items()}

    def v2_grpc(self, model, inputs, outputs):
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, tensor in inputs.items():
            request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
            request.raw_input_contents.append(tensor.framed())
        try:
            answer, call = self.grpc.ModelInfer.with_call(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = dict(error.trailing_metadata() or ()).get("nobat-error-code", "?")
            raise Refused(f"{error.code().name} {code}", error.details()) from None
        self.rows = batch_rows(dict(call.initial_metadata()).get("server-timing"))
        return {
            output.name: Tensor.unframed(output.datatype, output.shape, raw)
            for output, raw in zip(answer.outputs, answer.raw_output_contents)
        }


def batch_rows(timing):
    """How many rows shared the run, by Server-Timing."""
    for part in (timing or "").split(","):
        name, _, rest = part.strip().partition(";")
        if name == "batch" and "desc=" in rest:
            return int(rest.split("desc=")[1].split(";")[0])
    return 0


def flat(tensor):
    if tensor.datatype == "BYTES":
        return [text.decode() for text in tensor.data]
    array = tensor.array().reshape(-1)
    return (array.astype(np.float32) if tensor.datatype in ("FP16", "BF16") else array).tolist()


def nested(tensor):
    array = tensor.array()
    return (array.astype(np.float32) if tensor.datatype in ("FP16", "BF16") else array).tolist()


def shape_of(value):
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def elements(value):
    if isinstance(value, list):
        return [element for inner in value for element in elements(inner)]
    return [value]


def parsed(datatype, shape, values):
    """JSON's elements as a tensor; null is what stands for NaN and the infinities."""
    if datatype == "BYTES":
        texts = [base64.b64decode(text["b64"]) if isinstance(text, dict) else text.encode() for text in values]
        return Tensor(datatype, shape, texts)
    if datatype in FLOATS:
        values = [float("nan") if value is None else value for value in values]
        # Through double: JSON's numbers are read exactly, then rounded once.
        array = np.array(values, np.float64).astype(NUMPY[datatype])
    else:
        array = np.array(values, NUMPY[datatype])
    return Tensor(datatype, shape, array.tobytes())


def without_specials(tensor):
    """What JSON can say of a tensor: NaN for each element that is not finite."""
    if tensor.datatype not in FLOATS or tensor.is_finite():
        return tensor
    array = tensor.array().astype(np.float64)
    array[~np.isfinite(array)] = np.nan
    return Tensor(tensor.datatype, tensor.shape, array.astype(NUMPY[tensor.datatype]).tobytes())


assert ml_dtypes  # its types are numpy's from here on

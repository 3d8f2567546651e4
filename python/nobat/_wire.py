"""Requests and answers without I/O: what both clients send and how they read it.

Arrays travel as the binary tensors of the Open Inference Protocol v2, lists as the
native API's JSON. numpy is used where a caller brings arrays, and never needed else.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, Union
from urllib.parse import quote

from .errors import NobatError, ProtocolError, StatusError, of_answer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Tensor = Union[Array, Sequence[Any], float, str, bool]
else:
    Tensor = Any

#: One tensor, where the model has one input, or one for each input's name. The first
#: axis is the batch axis where the model has one.
Inputs = Union[Tensor, Mapping[str, Tensor]]
#: Seconds, a ``timedelta``, or text with a unit such as ``"500ms"``.
Duration = Union[float, timedelta, str]

_DTYPES = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model that the server knows."""

    name: str
    version: str
    ready: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    detail: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Timings:
    """Where an answer's time went, in seconds; ``None`` where no run of its own did it."""

    queue: float | None = None
    batch_wait: float | None = None
    input: float | None = None
    infer: float | None = None
    output: float | None = None
    batch_size: int | None = None
    attempts: int | None = None
    worker: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class Prediction:
    """A model's answer: arrays where arrays were given, else lists."""

    outputs: Mapping[str, Any]
    model: str
    version: str
    timings: Timings = field(default_factory=Timings)
    job_id: str | None = None

    @property
    def output(self) -> Any:
        """The value of the only output."""
        if len(self.outputs) != 1:
            raise ValueError(f"the model has {len(self.outputs)} outputs ({', '.join(self.outputs)}); use outputs[name]")
        return next(iter(self.outputs.values()))

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]


@dataclass(frozen=True)
class JobInfo:
    """A job as it stood when it was asked for."""

    id: str
    model: str
    state: str
    priority: int
    attempts: int
    error_code: str | None
    error: str | None
    timings: Timings | None
    detail: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in ("succeeded", "dead", "cancelled", "expired")


class JobOptions(TypedDict, total=False):
    """What a job may be told; what is left out is the server's default."""

    #: 0 to 255; 10 runs before 1.
    priority: int
    #: Within which it must finish.
    deadline: Duration
    #: Before which it must not run.
    delay: Duration
    #: How long its result can be read.
    result_ttl: Duration
    #: Attempts after the first.
    max_retries: int
    #: Before each of them.
    retry_delay: Duration
    #: Told of its end, signed.
    webhook: str
    version: str
    label: str


@dataclass(frozen=True)
class Options:
    """``JobOptions`` with a place for each."""

    priority: int | None = None
    deadline: Duration | None = None
    delay: Duration | None = None
    result_ttl: Duration | None = None
    max_retries: int | None = None
    retry_delay: Duration | None = None
    webhook: str | None = None
    version: str | None = None
    label: str | None = None

    def query(self) -> dict[str, str]:
        """As the native API's query parameters."""
        durations = {"deadline", "delay", "result_ttl", "retry_delay"}
        given = ((name, value) for name, value in vars(self).items() if value is not None)
        return {name: duration(value) if name in durations else str(value) for name, value in given}


@dataclass(frozen=True)
class Call:
    """One HTTP request. ``keyed``: making it twice does what making it once does."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    keyed: bool = True
    #: Seconds that the server itself may take on purpose, beside the client's timeout.
    wait: float = 0.0
    job_id: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """The body, if it is nobat's JSON."""
        if not self.content:
            return {}
        try:
            return json.loads(self.content)
        except ValueError:
            raise self._foreign() from None

    def failure(self, call: Call) -> StatusError | ProtocolError | None:
        """The refusal that this is, if it is one."""
        if self.status < 300:
            return None
        try:
            body = json.loads(self.content)
        except ValueError:
            return self._foreign()
        if not isinstance(body, dict):
            return self._foreign()
        return of_answer(self.status, body, self.headers, call.job_id)

    def _foreign(self) -> ProtocolError:
        shown = self.content[:80].decode("utf-8", "replace").strip()
        return ProtocolError(
            f"HTTP {self.status} with a body that is not nobat's JSON ({shown!r}); is the URL the server's own, or a proxy's?",
            status=self.status,
        )


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
        unit = next((unit for unit in units if value.endswith(unit)), None)
        try:
            return float(value[: -len(unit)]) * units[unit] if unit else float(value)
        except ValueError:
            raise ValueError(f"{value!r} is no duration; write seconds, or such as '500ms', '3s', '5m'") from None
    return float(value)


def duration(value: Duration) -> str:
    """A duration as the server reads it."""
    return f"{seconds(value) * 1e6:.0f}us"


def segment(text: str) -> str:
    """A name in a path."""
    return quote(text, safe="")


def is_array(value: object) -> bool:
    """Whether it is a numpy array or one of its scalars, without importing numpy."""
    return type(value).__module__.split(".")[0] == "numpy"


def has_arrays(inputs: Inputs) -> bool:
    """Whether a caller brought arrays."""
    values = inputs.values() if isinstance(inputs, Mapping) else (inputs,)
    return any(is_array(value) for value in values)


def _plain(value: Any) -> Any:
    return value.tolist() if is_array(value) else value


def json_body(inputs: Inputs) -> bytes:
    """The native API's column form."""
    tensors = {name: _plain(value) for name, value in inputs.items()} if isinstance(inputs, Mapping) else _plain(inputs)
    try:
        return json.dumps({"inputs": tensors}, allow_nan=False, separators=(",", ":"), default=_item).encode()
    except ValueError as error:
        raise ValueError(f"the inputs cannot be written as JSON: {error}; NaN and infinity need arrays") from None


def _item(value: object) -> Any:
    """bytes are base64 in the native API's JSON."""
    if isinstance(value, bytes):
        import base64

        return {"b64": base64.b64encode(value).decode()}
    raise ValueError(f"a {type(value).__name__} is no number, text or list")


def predict_json(model: str, inputs: Inputs, options: Options, wait: float, key: str | None) -> Call:
    """Predict and wait, by the native API."""
    return Call(
        "POST",
        f"/api/v1/predict/{segment(model)}",
        params=options.query(),
        headers=_headers(key, {"prefer": f"wait={wait:.3f}"}),
        content=json_body(inputs),
        wait=wait,
    )


def submit(model: str, inputs: Inputs, options: Options, key: str | None) -> Call:
    """Enqueue, and do not wait."""
    return Call(
        "POST",
        f"/api/v1/predict/{segment(model)}",
        params=options.query(),
        headers=_headers(key, {"prefer": "respond-async"}),
        content=json_body(inputs),
    )


def _headers(key: str | None, more: Mapping[str, str]) -> dict[str, str]:
    # Made here, once, so that every try of the call carries the same one.
    return {"content-type": "application/json", "idempotency-key": key or uuid.uuid4().hex, **more}


def metadata(model: str, options: Options) -> Call:
    """What a model takes."""
    version = options.version or options.label
    return Call("GET", f"/v2/models/{segment(model)}" + (f"/versions/{segment(version)}" if version else ""))


def specs(body: Mapping[str, Any], side: str = "inputs") -> tuple[TensorSpec, ...]:
    """A model's tensors, from any of the answers that list them."""
    return tuple(
        TensorSpec(str(one["name"]), str(one["datatype"]), tuple(int(dim) for dim in one["shape"]))
        for one in body.get(side, ())
    )


def predict_binary(
    model: str, inputs: Inputs, takes: Sequence[TensorSpec], options: Options, outputs: Sequence[str] | None
) -> Call:
    """Predict and wait, with binary tensors.

    The v2 protocol has no idempotency keys; a prediction changes nothing, but one that
    may have been sent is not sent twice, since it may cost a run.
    """
    named = inputs if isinstance(inputs, Mapping) else {_only(model, takes): inputs}
    known = {spec.name: spec for spec in takes}
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, value in named.items():
        if name not in known:
            raise ValueError(f"model {model!r} has no input {name!r}; inputs: {', '.join(known)}")
        shape, blob = _pack(value, known[name])
        described.append({
            "name": name, "datatype": known[name].datatype, "shape": shape, "parameters": {"binary_data_size": len(blob)},
        })  # fmt: skip
        blobs.append(blob)
    parameters: dict[str, Any] = {"binary_data_output": True}
    if options.priority:
        # 1 is that protocol's highest, and 0 its default.
        parameters["priority"] = 256 - options.priority
    if options.deadline is not None:
        parameters["timeout"] = round(seconds(options.deadline) * 1e6)
    document: dict[str, Any] = {"inputs": described, "parameters": parameters}
    if outputs:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps(document, separators=(",", ":")).encode()
    version = options.version or options.label
    return Call(
        "POST",
        f"/v2/models/{segment(model)}" + (f"/versions/{segment(version)}" if version else "") + "/infer",
        headers={"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(head))},
        content=b"".join([head, *blobs]),
        keyed=False,
    )


def _only(model: str, takes: Sequence[TensorSpec]) -> str:
    if len(takes) != 1:
        raise ValueError(f"model {model!r} takes {', '.join(spec.name for spec in takes)}; give a dict of arrays by name")
    return takes[0].name


def _pack(value: Any, spec: TensorSpec) -> tuple[list[int], bytes]:
    import numpy as np

    array = np.asarray(value)
    if spec.datatype == "BYTES":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        return list(array.shape), b"".join(struct.pack("<I", len(item)) + item for item in items)
    if spec.datatype not in _DTYPES:
        raise ValueError(f"input {spec.name!r} is {spec.datatype}, which numpy has not; give lists instead of arrays")
    dtype = np.dtype(_DTYPES[spec.datatype])
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise ValueError(f"input {spec.name!r} takes {spec.datatype}, not {array.dtype}; convert it with astype()")
    return list(array.shape), np.ascontiguousarray(array, dtype=dtype).tobytes()


def read_binary(model: str, answer: Answer) -> Prediction:
    """An answer with binary tensors."""
    import numpy as np

    length = int(answer.headers.get(_HEADER_LENGTH, len(answer.content)))
    try:
        document = json.loads(answer.content[:length])
    except ValueError:
        raise ProtocolError("the answer's document is not JSON", status=answer.status) from None
    at = length
    outputs: dict[str, Any] = {}
    for output in document["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        datatype, shape = output["datatype"], output["shape"]
        if size is None:
            dtype = object if datatype == "BYTES" else np.dtype(_DTYPES[datatype])
            outputs[output["name"]] = np.array(output["data"], dtype=dtype).reshape(shape)
            continue
        blob = memoryview(answer.content)[at : at + size]
        at += size
        if datatype == "BYTES":
            items = np.empty(len(list(_elements(blob))), dtype=object)
            items[:] = [_text(item) for item in _elements(blob)]
            outputs[output["name"]] = items.reshape(shape)
        else:
            outputs[output["name"]] = np.frombuffer(blob, dtype=_DTYPES[datatype]).reshape(shape)
    timings = _server_timing(answer.headers.get("server-timing", ""))
    return Prediction(outputs, document.get("model_name", model), document.get("model_version", ""), timings)


def _elements(blob: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(blob):
        (length,) = struct.unpack_from("<I", blob, at)
        yield bytes(blob[at + 4 : at + 4 + length])
        at += 4 + length


def _text(item: bytes) -> str | bytes:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item


def _server_timing(header: str) -> Timings:
    said: dict[str, dict[str, str]] = {}
    for metric in header.split(","):
        name, *members = metric.strip().split(";")
        said[name.strip()] = dict(member.strip().split("=", 1) for member in members if "=" in member)

    def s(name: str) -> float | None:
        return float(said[name]["dur"]) / 1e3 if "dur" in said.get(name, {}) else None

    def desc(name: str) -> str | None:
        return said.get(name, {}).get("desc")

    attempts, size = desc("attempts"), desc("batch")
    return Timings(
        s("queue"), s("batch"), s("input"), s("infer"), s("output"),
        int(size) if size else None, int(attempts) if attempts else None, desc("worker"), desc("cache"),
    )  # fmt: skip


def _explained(explain: Mapping[str, Any] | None) -> Timings | None:
    if not explain:
        return None

    def s(name: str) -> float | None:
        return float(explain[name]) / 1e6 if name in explain else None

    return Timings(
        s("queue_us"), s("batch_wait_us"), s("input_us"), s("infer_us"), s("output_us"),
        explain.get("batch_size"), explain.get("attempts"), explain.get("worker") or None, explain.get("cache"),
    )  # fmt: skip


def read_result(body: Mapping[str, Any], names: Sequence[str], convert: Callable[[str, Any], Any]) -> Prediction:
    """A result in column form: one tensor, or an object of tensors by name."""
    given = body.get("outputs")
    # One output's tensor stands alone; a model with several names each.
    tensors = given if isinstance(given, Mapping) and len(names) != 1 else {names[0] if names else "output": given}
    outputs = {name: convert(name, tensor) for name, tensor in tensors.items()}
    return Prediction(
        outputs,
        str(body.get("model", "")),
        str(body.get("version") or body.get("model_version") or ""),
        _explained(body.get("explain") or body.get("timings")) or Timings(),
        str(body["id"]) if body.get("id") else None,
    )


def converter(specs: Sequence[TensorSpec], arrays: bool) -> Callable[[str, Any], Any]:
    """Makes arrays of lists where arrays were given."""
    known = {spec.name: spec.datatype for spec in specs}

    def convert(name: str, tensor: Any) -> Any:
        if not arrays:
            return tensor
        import numpy as np

        datatype = known.get(name)
        return np.array(tensor, dtype=_DTYPES[datatype] if datatype in _DTYPES else None)

    return convert


def read_job(body: Mapping[str, Any]) -> JobInfo:
    """A job object."""
    if "id" not in body or "state" not in body:
        raise ProtocolError("the answer is no job of nobat's; is the server of another version?")
    error = body.get("error") or {}
    return JobInfo(
        str(body["id"]),
        str(body.get("model", "")),
        str(body["state"]),
        int(body.get("priority", 0)),
        int(body.get("attempts", 0)),
        error.get("code"),
        error.get("message") or error.get("detail"),
        _explained(body.get("explain") or body.get("timings")),
        dict(body),
    )


def read_model(body: Mapping[str, Any]) -> Model:
    """A model object of the native API."""
    versions = body.get("versions") or [{}]
    default = str(body.get("default_version", ""))
    version = next((one for one in versions if str(one.get("version")) == default), versions[0])
    return Model(
        str(body.get("name", "")), default, bool(body.get("ready")), specs(version), specs(version, "outputs"), dict(body)
    )


def job_path(job_id: str, end: str = "") -> str:
    """The path of a job."""
    return f"/api/v1/jobs/{segment(job_id)}{end}"


__all__ = [
    "Answer", "Call", "Duration", "Inputs", "JobInfo", "Model", "NobatError", "Options", "Prediction", "Tensor", "TensorSpec", "Timings",
]  # fmt: skip

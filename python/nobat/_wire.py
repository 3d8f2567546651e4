"""Requests and answers without I/O: what both clients send and how they read it."""

from __future__ import annotations

import functools
import json
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from . import _frames as frames
from . import _tensors as tensors
from ._types import Inputs, JobInfo, Model, Options, Prediction, TensorSpec, Timings, seconds
from .errors import NobatError, ProtocolError, StatusError, of_answer

T = TypeVar("T")
_HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Call:
    """One HTTP request."""

    method: str
    path: str
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    #: Whether making it twice does what making it once does.
    keyed: bool = True
    #: Seconds that the server itself may take on purpose, beside the client's timeout.
    wait: float = 0.0
    #: Seconds without an answer, instead of the client's timeout.
    timeout: float | None = None
    job_id: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """The body, if it is nobat's JSON."""
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise self._foreign()
        return body

    def failure(self, call: Call) -> StatusError | ProtocolError | None:
        """The refusal that this is, if it is one."""
        if self.status < 300:
            return None
        try:
            body = self.json()
        except ProtocolError as foreign:
            return foreign
        return of_answer(self.status, body, self.headers, call.job_id)

    def _foreign(self) -> ProtocolError:
        shown = self.content[:80].decode("utf-8", "replace").strip()
        return ProtocolError(
            f"HTTP {self.status} with a body that is not nobat's JSON ({shown!r}); is the URL the server's own, or a proxy's?",
            status=self.status,
        )


class Failed(NamedTuple):
    """No answer came."""

    error: NobatError
    #: Whether the request may have reached the server.
    sent: bool


def _reads(read: Callable[..., T]) -> Callable[..., T]:
    """Turns whatever reading trips over into one error."""

    @functools.wraps(read)
    def reading(*arguments: Any) -> T:
        try:
            return read(*arguments)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
            message = "the answer is not what this client knows; is the server of another version?"
            raise ProtocolError(f"{message} ({type(error).__name__}: {error})") from error

    return reading


def segment(text: str) -> str:
    """A name in a path."""
    return quote(text, safe="")


def job_path(job_id: str, end: str = "") -> str:
    """The path of a job."""
    return f"/api/v1/jobs/{segment(job_id)}{end}"


def v2_path(model: str, options: Options, end: str = "") -> str:
    """The v2 protocol's path of a model, or of the version that is asked for."""
    version = options.version or options.label
    return f"/v2/models/{segment(model)}" + (f"/versions/{segment(version)}" if version else "") + end


def enqueue(
    model: str,
    inputs: Inputs,
    options: Options,
    key: str | None,
    wait: float | None = None,
    takes: Sequence[TensorSpec] | None = None,
) -> Call:
    """Enqueue by the native API, and wait so long for the result, if at all.

    Where it is known what the model ``takes``, the tensors travel in binary; a frame travels as a table.
    """
    # The key is made here, once, so that every try of the call carries the same one.
    prefer = "respond-async" if wait is None else f"wait={wait:.3f}"
    headers = {"idempotency-key": key or uuid.uuid4().hex, "prefer": prefer}
    path = f"/api/v1/predict/{segment(model)}"
    if frames.is_frame(inputs):
        headers["content-type"], content = frames.body(inputs)
    elif takes is None:
        headers["content-type"] = "application/json"
        content = tensors.to_json(inputs)
    else:
        content = _binary(headers, tensors.by_name(model, inputs, takes), takes, {})
    return Call("POST", path, options.query(), headers, content, wait=wait or 0.0)


def infer(
    model: str,
    inputs: Inputs,
    takes: Sequence[TensorSpec],
    options: Options,
    outputs: Sequence[str] | None,
    timeout: float,
    key: str | None,
    keyed: bool,
) -> Call:
    """Predict and wait, with binary tensors.

    A key costs the server an entry, so none is made where the caller names none. A prediction
    changes nothing, but one that may have been sent is sent again only under a key, or where
    the caller says so (``keyed``), since it costs a run.
    """
    parameters: dict[str, Any] = {"binary_data_output": True}
    if options.priority:
        # 1 is that protocol's highest, and 0 its default.
        parameters["priority"] = 256 - options.priority
    if options.deadline is not None:
        parameters["timeout"] = round(seconds(options.deadline) * 1e6)
    document: dict[str, Any] = {"parameters": parameters}
    if outputs:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    headers = {"idempotency-key": key} if key else {}
    content = _binary(headers, tensors.by_name(model, inputs, takes), takes, document)
    return Call(
        "POST", v2_path(model, options, "/infer"), headers=headers, content=content, keyed=keyed or key is not None,
        # A socket takes 0 for not waiting at all, and nothing below.
        timeout=max(timeout, 0.001),
    )  # fmt: skip


def _binary(headers: dict[str, str], named: Mapping[str, Any], takes: Sequence[TensorSpec], document: dict[str, Any]) -> bytes:
    """A v2 document with these inputs, and their bytes after it; ``headers`` get where it ends."""
    known = {spec.name: spec for spec in takes}
    described: list[dict[str, Any]] = []
    blobs: list[bytes | memoryview] = []
    for name, value in named.items():
        shape, blob = tensors.pack(value, known[name])
        described.append({
            "name": name, "datatype": known[name].datatype, "shape": shape, "parameters": {"binary_data_size": len(blob)},
        })  # fmt: skip
        blobs.append(blob)
    head = json.dumps({"inputs": described, **document}, separators=(",", ":")).encode()
    headers["content-type"] = "application/octet-stream"
    headers[_HEADER_LENGTH] = str(len(head))
    return b"".join([head, *blobs])


@_reads
def read_infer(model: str, answer: Answer) -> Prediction:
    """An answer with binary tensors."""
    at = int(answer.headers.get(_HEADER_LENGTH, len(answer.content)))
    document = json.loads(answer.content[:at])
    blobs = memoryview(answer.content)
    outputs: dict[str, Any] = {}
    for output in document["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        outputs[output["name"]] = tensors.unpack(output, None if size is None else blobs[at : at + size])
        at += size or 0
    timings = _server_timing(answer.headers.get("server-timing", ""))
    return Prediction(outputs, document.get("model_name", model), document.get("model_version", ""), timings)


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


def _timings(body: Mapping[str, Any]) -> Timings | None:
    told = body.get("explain") or body.get("timings")
    if not told:
        return None

    def s(name: str) -> float | None:
        return float(told[name]) / 1e6 if name in told else None

    return Timings(
        s("queue_us"), s("batch_wait_us"), s("input_us"), s("infer_us"), s("output_us"),
        told.get("batch_size"), told.get("attempts"), told.get("worker") or None, told.get("cache"),
    )  # fmt: skip


@_reads
def read_result(body: Mapping[str, Any], names: Sequence[str], convert: Callable[[str, Any], Any]) -> Prediction:
    """A result in column form: one tensor, or an object of tensors by name."""
    given = body["outputs"]
    # One output's tensor stands alone; a model with several names each.
    named = given if isinstance(given, Mapping) and len(names) != 1 else {names[0] if names else "output": given}
    outputs = {name: convert(name, tensor) for name, tensor in named.items()}
    version = str(body.get("version") or body.get("model_version") or "")
    return Prediction(outputs, str(body.get("model", "")), version, _timings(body) or Timings(), body.get("id"))


@_reads
def read_specs(body: Mapping[str, Any]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """A model's inputs and outputs, from any of the answers that list them."""

    def side(name: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(str(one["name"]), str(one["datatype"]), tuple(int(dim) for dim in one["shape"]))
            for one in body.get(name, ())
        )

    return side("inputs"), side("outputs")


@_reads
def read_job(body: Mapping[str, Any]) -> JobInfo:
    """A job object."""
    error = body.get("error") or {}
    return JobInfo(
        str(body["id"]), str(body.get("model", "")), str(body["state"]), int(body.get("priority", 0)), int(body.get("attempts", 0)),
        error.get("code"), error.get("detail") or error.get("message"), _timings(body), dict(body),
    )  # fmt: skip


@_reads
def read_model(body: Mapping[str, Any]) -> Model:
    """A model object of the native API."""
    default = str(body["default_version"])
    versions = body.get("versions") or [{}]
    version = next((one for one in versions if str(one.get("version")) == default), versions[0])
    return Model(str(body["name"]), default, bool(body["ready"]), *read_specs(version), dict(body))

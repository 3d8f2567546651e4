"""What each method does, as generators that yield calls and are sent answers.

Both clients drive the same flows; nothing here does any I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar, Union

from . import _frames as frames
from . import _tensors as tensors
from . import _wire as wire
from ._retry import Retry
from ._types import Inputs, JobInfo, Model, Options, Prediction, TensorSpec
from .errors import DeadlineExceeded, InvalidInput, InvalidRequest, NobatError, NotFound, ProtocolError, Timeout, TransportError, Unavailable

T = TypeVar("T")
Flow = Generator[wire.Call, wire.Answer, T]
Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]

#: Longest one call waits for a result; further ones follow until the time is up.
LONG_POLL = 30.0
#: What may be refused because the model takes something else than it did.
REFUSED = (InvalidInput, InvalidRequest, NotFound)


def attempts(flow: Flow[T], retry: Retry) -> Generator[Union[wire.Call, float], Union[wire.Answer, wire.Failed, None], T]:
    """A flow whose calls are made again where that is safe: yields calls to make, and
    seconds to sleep."""
    try:
        call = next(flow)
        while True:
            tried = 0
            error: NobatError | None
            while True:
                came = yield call
                assert came is not None
                if isinstance(came, wire.Answer):
                    error, sent = came.failure(call), True
                    if error is None:
                        call = flow.send(came)
                        break
                else:
                    error, sent = came
                tried += 1
                pause = retry.pause(tried, error, sent=sent, keyed=call.keyed)
                if pause is None:
                    call = flow.throw(error)
                    break
                yield pause
    except StopIteration as done:
        value: T = done.value
        return value


class Known:
    """What models take, as far as it has been asked for."""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], Specs] = {}

    def of(self, model: str, options: Options) -> Flow[Specs]:
        """A model's inputs and outputs."""
        key = (model, options.version or options.label or "")
        if key not in self._specs:
            answer = yield wire.Call("GET", wire.v2_path(model, options))
            self._specs[key] = wire.read_specs(answer.json())
        return self._specs[key]

    def forget(self, model: str) -> None:
        """For when a model was refused what it is known to take: it may be another by now."""
        self._specs = {key: specs for key, specs in self._specs.items() if key[0] != model}


def predict(
    known: Known,
    model: str,
    inputs: Inputs,
    options: Options,
    timeout: float,
    outputs: Sequence[str] | None = None,
    key: str | None = None,
    keyed: bool = False,
) -> Flow[Prediction]:
    """Predict and wait for the answer."""
    end = time.monotonic() + timeout
    try:
        takes, gives = yield from known.of(model, options)
        arrays = tensors.has_arrays(inputs)
        if frames.is_frame(inputs):
            # A table's own answer is a record a row; its job's result is read as the tensors that it is.
            job = wire.read_job((yield wire.enqueue(model, inputs, options, key)).json())
            prediction = yield from result(job.id, [spec.name for spec in gives], tensors.converter(gives, True), end)
        elif arrays and not options.native:
            answer = yield wire.infer(model, inputs, takes, options, outputs, timeout, key, keyed)
            return wire.read_infer(model, answer)
        else:
            answer = yield wire.enqueue(model, inputs, options, key, min(timeout, LONG_POLL), takes if arrays else None)
            names, convert = [spec.name for spec in gives], tensors.converter(gives, arrays)
            if answer.status == 202:
                prediction = yield from result(wire.read_job(answer.json()).id, names, convert, end)
            else:
                prediction = wire.read_result(answer.json(), names, convert)
        return prediction.only(outputs) if outputs else prediction
    except REFUSED:
        known.forget(model)
        raise


def patiently(
    known: Known, model: str, inputs: Inputs, options: Options, timeout: float, outputs: Sequence[str] | None
) -> Flow[Prediction]:
    """Predict however long the line is: the server gives up a call that waits for a minute,
    and it is made again until the time is up."""
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return (yield from predict(known, model, inputs, options, left, outputs, keyed=True))
        except DeadlineExceeded:
            if options.deadline is not None or time.monotonic() >= end:
                raise


def takes(known: Known, model: str, options: Options) -> Flow[tuple[tuple[TensorSpec, ...], int]]:
    """A model's inputs, and the most rows of a run: 0 where rows do not share one."""
    specs, _ = yield from known.of(model, options)
    body = (yield wire.Call("GET", wire.v2_path(model, options, "/config"))).json()
    return specs, int(body.get("max_batch_size") or 0)


def job_result(known: Known, info: JobInfo, arrays: bool, timeout: float | None) -> Flow[Prediction]:
    """A job's result, with its outputs' names."""
    end = None if timeout is None else time.monotonic() + timeout
    _, gives = yield from known.of(info.model, Options())
    return (yield from result(info.id, [spec.name for spec in gives], tensors.converter(gives, arrays), end))


def result(job_id: str, names: Sequence[str], convert: Callable[[str, object], object], end: float | None) -> Flow[Prediction]:
    """Wait for a job's result until ``end``, by the monotonic clock."""
    while True:
        wait = _wait(end)
        params = {"wait": f"{wait:.3f}", "form": "column"}
        answer = yield wire.Call("GET", wire.job_path(job_id, "/result"), params, wait=wait, job_id=job_id)
        body = answer.json()
        if answer.status != 202:
            return wire.read_result({"id": job_id, **body}, names, convert)
        if end is not None and time.monotonic() >= end:
            state = body.get("state", "unfinished")
            raise Timeout(f"job {job_id} is {state}; it goes on, ask for its result again", job_id=job_id)


def wait(job_id: str, timeout: float | None) -> Flow[JobInfo]:
    """How a job stands when it has ended, or when the time is up."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        seconds = _wait(end)
        answer = yield wire.Call("GET", wire.job_path(job_id), {"wait": f"{seconds:.3f}"}, wait=seconds, job_id=job_id)
        info = wire.read_job(answer.json())
        if info.done or (end is not None and time.monotonic() >= end):
            return info


def _wait(end: float | None) -> float:
    return LONG_POLL if end is None else min(LONG_POLL, max(0.0, end - time.monotonic()))


def submit(known: Known, model: str, inputs: Inputs, options: Options, key: str | None) -> Flow[JobInfo]:
    """Enqueue."""
    takes = None
    try:
        if tensors.has_arrays(inputs):
            takes, _ = yield from known.of(model, options)
        return wire.read_job((yield wire.enqueue(model, inputs, options, key, takes=takes)).json())
    except REFUSED:
        known.forget(model)
        raise


def job(job_id: str) -> Flow[JobInfo]:
    """How a job stands."""
    return wire.read_job((yield wire.Call("GET", wire.job_path(job_id), job_id=job_id)).json())


def cancel(job_id: str) -> Flow[JobInfo]:
    """Cancel a job that has not ended."""
    return wire.read_job((yield wire.Call("POST", wire.job_path(job_id, "/cancel"), job_id=job_id)).json())


def jobs(filters: Mapping[str, object], cursor: str | None) -> Flow[tuple[list[JobInfo], str | None]]:
    """One page of jobs, and where the next one begins."""
    given = {**filters, "cursor": cursor}
    params = {name: str(value) for name, value in given.items() if value is not None}
    body = (yield wire.Call("GET", "/api/v1/jobs", params)).json()
    return [wire.read_job(one) for one in body.get("jobs", ())], body.get("cursor")


def redrive(model: str, ids: Sequence[str], limit: int) -> Flow[int]:
    """Send dead letters back to their queue."""
    params = {"limit": str(limit), **({"ids": ",".join(ids)} if ids else {})}
    path = f"/api/v1/queues/{wire.segment(model)}/dead/redrive"
    # Redriving twice might send another hundred back.
    body = (yield wire.Call("POST", path, params, keyed=bool(ids))).json()
    if not isinstance(body.get("count"), int):
        raise ProtocolError("the answer does not say how many jobs were redriven; is the server of another version?")
    return int(body["count"])


def models() -> Flow[list[Model]]:
    """Every model."""
    body = (yield wire.Call("GET", "/api/v1/models")).json()
    return [wire.read_model(one) for one in body.get("models", ())]


def ready() -> Flow[bool]:
    """Whether the server is there and can serve now."""
    try:
        body = (yield wire.Call("GET", "/v2/health/ready")).json()
    except ProtocolError:
        raise
    except (Unavailable, TransportError):
        return False
    return body.get("ready") is True

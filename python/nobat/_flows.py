"""What each method does, as generators that yield calls and are sent answers.

Both clients drive the same flows; neither the flows nor ``_wire`` do any I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

from . import _wire as wire
from .errors import NotFound, ProtocolError, Timeout

T = TypeVar("T")
Flow = Generator[wire.Call, wire.Answer, T]

#: Longest one call waits for a result; further ones follow until the time is up.
LONG_POLL = 30.0


class Known:
    """What models take, as far as it has been asked for."""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], tuple[tuple[wire.TensorSpec, ...], tuple[wire.TensorSpec, ...]]] = {}

    def of(self, model: str, options: wire.Options) -> Flow[tuple[tuple[wire.TensorSpec, ...], tuple[wire.TensorSpec, ...]]]:
        """A model's inputs and outputs."""
        key = (model, options.version or options.label or "")
        if key not in self._specs:
            body = (yield wire.metadata(model, options)).json()
            self._specs[key] = (wire.specs(body), wire.specs(body, "outputs"))
        return self._specs[key]

    def forget(self, model: str) -> None:
        """For when a model was refused what it is known to take: it may be another by now."""
        self._specs = {key: specs for key, specs in self._specs.items() if key[0] != model}


def predict(
    known: Known,
    model: str,
    inputs: wire.Inputs,
    options: wire.Options,
    timeout: float,
    outputs: Sequence[str] | None,
    key: str | None,
) -> Flow[wire.Prediction]:
    """Predict and wait for the answer."""
    takes, gives = yield from known.of(model, options)
    if wire.has_arrays(inputs) and not _has_job_options(options):
        answer = yield wire.predict_binary(model, inputs, takes, options, outputs)
        return wire.read_binary(model, answer)
    end = time.monotonic() + timeout
    names = [spec.name for spec in gives]
    convert = wire.converter(gives, wire.has_arrays(inputs))
    answer = yield wire.predict_json(model, inputs, options, min(timeout, LONG_POLL), key)
    body = answer.json()
    if answer.status == 202:
        return (yield from result(wire.read_job(body).id, names, convert, end))
    return _chosen(wire.read_result(body, names, convert), outputs)


def _has_job_options(options: wire.Options) -> bool:
    """Whether something is asked for that the v2 protocol cannot say."""
    given = (options.delay, options.result_ttl, options.max_retries, options.retry_delay, options.webhook)
    return any(value is not None for value in given)


def _chosen(prediction: wire.Prediction, outputs: Sequence[str] | None) -> wire.Prediction:
    if not outputs:
        return prediction
    chosen = {name: prediction.outputs[name] for name in outputs}
    return wire.Prediction(chosen, prediction.model, prediction.version, prediction.timings, prediction.job_id)


def result(
    job_id: str, names: Sequence[str], convert: Callable[[str, object], object], end: float | None
) -> Flow[wire.Prediction]:
    """Wait for a job's result until ``end``, by the monotonic clock."""
    while True:
        left = LONG_POLL if end is None else max(0.0, end - time.monotonic())
        wait = min(left, LONG_POLL)
        answer = yield wire.Call(
            "GET",
            wire.job_path(job_id, "/result"),
            params={"wait": f"{wait:.3f}", "form": "column"},
            wait=wait,
            job_id=job_id,
        )
        body = answer.json()
        if answer.status != 202:
            return wire.read_result({"id": job_id, **body}, names, convert)
        if end is not None and time.monotonic() >= end:
            state = body.get("state", "unfinished")
            raise Timeout(f"job {job_id} is {state}; it goes on, ask for its result again", job_id=job_id)


def submit(model: str, inputs: wire.Inputs, options: wire.Options, key: str | None) -> Flow[wire.JobInfo]:
    """Enqueue."""
    return wire.read_job((yield wire.submit(model, inputs, options, key)).json())


def job(job_id: str) -> Flow[wire.JobInfo]:
    """How a job stands."""
    return wire.read_job((yield wire.Call("GET", wire.job_path(job_id), job_id=job_id)).json())


def cancel(job_id: str) -> Flow[wire.JobInfo]:
    """Cancel a job that has not ended."""
    return wire.read_job((yield wire.Call("POST", wire.job_path(job_id, "/cancel"), job_id=job_id)).json())


def jobs(filters: Mapping[str, str], cursor: str | None) -> Flow[tuple[list[wire.JobInfo], str | None]]:
    """One page of jobs, and where the next one begins."""
    params = {**filters, **({"cursor": cursor} if cursor else {})}
    body = (yield wire.Call("GET", "/api/v1/jobs", params=params)).json()
    return [wire.read_job(one) for one in body.get("jobs", ())], body.get("cursor")


def redrive(model: str, ids: Sequence[str], limit: int) -> Flow[int]:
    """Send dead letters back to their queue."""
    params = {"limit": str(limit), **({"ids": ",".join(ids)} if ids else {})}
    path = f"/api/v1/queues/{wire.segment(model)}/dead/redrive"
    # Redriving twice might send another hundred back.
    body = (yield wire.Call("POST", path, params=params, keyed=bool(ids))).json()
    for name in ("redriven", "count", "jobs"):
        if isinstance(body.get(name), int):
            return int(body[name])
    raise ProtocolError("the answer does not say how many jobs were redriven")


def models() -> Flow[list[wire.Model]]:
    """Every model."""
    body = (yield wire.Call("GET", "/api/v1/models")).json()
    return [wire.read_model(one) for one in body.get("models", ())]


def ready() -> Flow[bool]:
    """Whether the server can serve."""
    try:
        yield wire.Call("GET", "/v2/health/ready")
    except (NotFound, ProtocolError):
        raise ProtocolError("nothing of nobat's answers at this URL") from None
    return True

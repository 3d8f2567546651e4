"""What callers give and get: inputs, options, answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, Union

from .errors import InvalidInput

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

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        unit = next((unit for unit in _UNITS if value.endswith(unit)), "")
        try:
            number = float(value.removesuffix(unit)) * _UNITS.get(unit, 1.0)
        except ValueError:
            number = math.nan
    else:
        number = float(value)
    if not math.isfinite(number):
        raise InvalidInput(f"{value!r} is no duration; write seconds, or such as '500ms', '3s', '5m'")
    return number


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


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer: arrays where arrays were given, else lists."""

    outputs: Mapping[str, Any]
    model: str
    version: str
    timings: Timings = Timings()
    job_id: str | None = None
    #: Which of ``map``'s inputs it answers, counted from 0.
    index: int | None = None

    @property
    def output(self) -> Any:
        """The value of the only output."""
        if len(self.outputs) != 1:
            raise ValueError(f"the model has {len(self.outputs)} outputs ({', '.join(self.outputs)}); use outputs[name]")
        return next(iter(self.outputs.values()))

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def only(self, names: Sequence[str]) -> Prediction:
        """The same with these outputs and no others."""
        for name in names:
            if name not in self.outputs:
                raise InvalidInput(f"model {self.model!r} has no output {name!r}; outputs: {', '.join(self.outputs)}")
        return replace(self, outputs={name: self.outputs[name] for name in names})


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
    #: One word of the caller's by which it is found again, or up to eight of them.
    tag: str
    tags: Sequence[str]
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
    tag: str | None = None
    tags: Sequence[str] = ()
    version: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        # A text is a sequence of letters, and none of them was meant.
        if isinstance(self.tags, str):
            raise InvalidInput(f"tags is the text {self.tags!r}; give a list of them, or tag={self.tags!r}")
        # The v2 protocol counts the other way, and would name another number.
        if self.priority is not None and self.priority not in range(256):
            raise InvalidInput(f"priority is {self.priority!r}; it takes a whole number from 0 to 255")

    @property
    def native(self) -> bool:
        """Whether something is asked for that only the native API can say, not the v2 protocol."""
        given = (self.delay, self.result_ttl, self.max_retries, self.retry_delay, self.webhook, self.tag)
        return any(value is not None for value in given) or bool(self.tags)

    def query(self) -> dict[str, str | list[str]]:
        """As the native API's query parameters."""
        durations = {"deadline", "delay", "result_ttl", "retry_delay"}
        given = ((name, value) for name, value in vars(self).items() if value is not None and name not in ("tag", "tags"))
        query: dict[str, str | list[str]] = {
            name: f"{seconds(value) * 1e6:.0f}us" if name in durations else str(value) for name, value in given
        }
        tags = [*([] if self.tag is None else [self.tag]), *self.tags]
        return {**query, "tag": tags} if tags else query

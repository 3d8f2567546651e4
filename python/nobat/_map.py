"""How ``map`` packs many inputs into few calls. Pure: the clients make the calls.

Inputs of one shape are joined along the batch axis into a chunk, one call. A chunk that is
refused for what is in it is cut in two and each half called anew, so that in the end a bad
input fails alone. What has been taken and not yet been yielded is bounded.

A model of 64 numbers a row: 1,000 inputs become calls of 32 rows (the model's largest run),
then 64, 128, 256, as long as a call comes back within ``BRISK`` seconds.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, Union

from . import _flows as flows
from . import _tensors as tensors
from ._types import Inputs, Options, Prediction, TensorSpec
from .errors import InvalidInput, InvalidRequest, JobFailed, NobatError

Outcome = Union[Prediction, NobatError]
OnError = Literal["raise", "yield"]

#: Most rows of a chunk, and most bytes, unless one input alone has more.
MOST_ROWS = 1024
MOST_BYTES = 2 << 20
#: Most bytes of the inputs that were taken and not yielded.
AHEAD_BYTES = 32 << 20
#: A call that takes less may have more rows.
BRISK = 0.1
#: Seconds that the first input of a chunk waits for others, where inputs come slowly.
LINGER = 0.05
_REFUSED = 413


@dataclass(frozen=True, slots=True)
class Entry:
    """One input: its place, its tensors by name, and what it takes."""

    index: int
    named: Mapping[str, Any]
    rows: int
    #: A row without the batch axis: its answer has none either.
    bare: bool
    size: int


@dataclass(slots=True)
class Chunk:
    """Inputs that are sent in one call."""

    entries: list[Entry]
    arrays: bool
    rows: int = 0
    size: int = 0
    #: When it was begun, then when it was sent.
    since: float = field(default_factory=time.monotonic)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.rows += entry.rows
        self.size += entry.size

    def halves(self) -> Iterator[Chunk]:
        half = len(self.entries) // 2
        for entries in (self.entries[:half], self.entries[half:]):
            yield Chunk(entries, self.arrays, sum(entry.rows for entry in entries), sum(entry.size for entry in entries))

    def inputs(self, takes: Sequence[TensorSpec]) -> Inputs:
        """What to predict for: the entries' rows, one after the other."""
        first = self.entries[0]
        if len(self.entries) == 1 and not first.bare:
            return first.named
        return {name: self._joined(name, takes) for name in first.named}

    def _joined(self, name: str, takes: Sequence[TensorSpec]) -> Any:
        parts = [[entry.named[name]] if entry.bare else entry.named[name] for entry in self.entries]
        if not self.arrays:
            rows = [row for part in parts for row in part]
            # As binary tensors lists cost a fifth of what they cost as JSON.
            spec = next(spec for spec in takes if spec.name == name)
            return tensors.as_array(rows) if spec.datatype in tensors.DTYPES else rows
        import numpy as np

        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def predictions(self, answer: Prediction) -> Iterator[Prediction]:
        """The answer, cut into the entries' own."""
        outputs = answer.outputs
        if not self.arrays:
            outputs = {name: output.tolist() if tensors.is_array(output) else output for name, output in outputs.items()}
        at = 0
        for entry in self.entries:
            cut: Any = at if entry.bare else slice(at, at + entry.rows)
            own = outputs if len(self.entries) == 1 and not entry.bare else {name: output[cut] for name, output in outputs.items()}
            yield Prediction(own, answer.model, answer.version, answer.timings, answer.job_id, entry.index)
            at += entry.rows


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller of ``map`` wants."""

    concurrency: int
    ordered: bool
    on_error: OnError
    outputs: Sequence[str] | None
    timeout: float


def begin(known: flows.Known, model: str, options: Options, settings: Settings) -> flows.Flow[Mapper]:
    """A mapper for a model, which is asked what it takes."""
    if settings.concurrency < 1:
        raise InvalidInput(f"concurrency is {settings.concurrency}; it takes 1 or more")
    takes, run_rows = yield from flows.takes(known, model, options)
    return Mapper(known, model, options, settings, takes, run_rows)


class Mapper:
    """What has been taken, what is to be called, what may be yielded."""

    def __init__(
        self, known: flows.Known, model: str, options: Options, settings: Settings, takes: Sequence[TensorSpec], run_rows: int
    ) -> None:
        self._known, self._model, self._options, self._takes = known, model, options, takes
        self.settings = settings
        #: Rows of a chunk; 0 where rows do not share a run, and each input is a call.
        self._chunk_rows = run_rows
        self._most_rows = MOST_ROWS
        self._open: dict[object, Chunk] = {}
        self._sendable: deque[Chunk] = deque()
        self._taken = self._yielded = self._bytes = 0
        self._ended: dict[int, tuple[Outcome, int]] = {}
        #: What is to be yielded, and how many bytes of input that frees.
        self.results: deque[tuple[Outcome, int]] = deque()

    @property
    def room(self) -> bool:
        """Whether another input may be taken."""
        ahead = 2 * self.settings.concurrency * max(1, self._chunk_rows)
        return self._taken - self._yielded < ahead and self._bytes < AHEAD_BYTES

    def take(self, inputs: Inputs) -> None:
        """One more input."""
        index, self._taken = self._taken, self._taken + 1
        try:
            entry, key = self._entry(index, inputs)
        except InvalidInput as error:
            self._end(index, 0, error)
            return
        self._bytes += entry.size
        chunk = self._open.get(key)
        full = chunk is not None and (chunk.rows + entry.rows > self._chunk_rows or chunk.size + entry.size > MOST_BYTES)
        if chunk is None or full:
            if chunk is not None:
                self._sendable.append(chunk)
            chunk = self._open[key] = Chunk([], tensors.has_arrays(entry.named))
        chunk.add(entry)
        if chunk.rows >= self._chunk_rows or chunk.size >= MOST_BYTES:
            self._sendable.append(self._open.pop(key))

    def _entry(self, index: int, inputs: Inputs) -> tuple[Entry, object]:
        named = tensors.by_name(self._model, inputs, self._takes)
        dims = {spec.name: len(spec.shape) for spec in self._takes}
        rows: set[int] = set()
        lacking: set[int] = set()
        size, key = 0, []
        for name, value in named.items():
            shape, dtype = tensors.shape_of(value)
            lacking.add(dims[name] - len(shape))
            rows.add(shape[0] if shape else 1)
            size += value.nbytes if dtype else 8 * prod(shape)
            key.append((name, dtype, shape if len(shape) < dims[name] else shape[1:]))
        bare = lacking == {1} and self._chunk_rows > 0
        if bare:
            return Entry(index, named, 1, True, size), tuple(key)
        # What does not fit the model goes alone, and the server says why.
        joins = self._chunk_rows > 0 and lacking == {0} and len(rows) == 1
        return Entry(index, named, rows.pop() if joins else 1, False, size), tuple(key) if joins else index

    def chunk(self, last: bool) -> Chunk | None:
        """What is to be called next. ``last``: no more inputs come."""
        if not self._sendable and self._open:
            oldest = next(iter(self._open))
            if last or not self.room or time.monotonic() - self._open[oldest].since > LINGER:
                self._sendable.append(self._open.pop(oldest))
        return self._sendable.popleft() if self._sendable else None

    def flow(self, chunk: Chunk) -> flows.Flow[Prediction]:
        """The calls of a chunk."""
        chunk.since = time.monotonic()
        inputs = chunk.inputs(self._takes)
        timeout, outputs = self.settings.timeout, self.settings.outputs
        return (yield from flows.patiently(self._known, self._model, inputs, self._options, timeout, outputs))

    def done(self, chunk: Chunk, outcome: Outcome) -> None:
        """A chunk's call has ended."""
        if isinstance(outcome, Prediction):
            if chunk.rows >= self._chunk_rows > 0 and time.monotonic() - chunk.since < BRISK:
                self._chunk_rows = min(2 * self._chunk_rows, max(self._chunk_rows, self._most_rows))
            for entry, prediction in zip(chunk.entries, chunk.predictions(outcome), strict=True):
                self._end(entry.index, entry.size, prediction)
            return
        if outcome.status == _REFUSED and chunk.rows > 1:
            self._most_rows = self._chunk_rows = max(1, min(self._chunk_rows, chunk.rows // 2))
        own = isinstance(outcome, (InvalidInput, InvalidRequest, JobFailed)) or outcome.status == _REFUSED
        if own and len(chunk.entries) > 1:
            self._sendable.extendleft(reversed(list(chunk.halves())))
            return
        for entry in chunk.entries:
            self._end(entry.index, entry.size, copy.copy(outcome))

    def _end(self, index: int, size: int, outcome: Outcome) -> None:
        if isinstance(outcome, NobatError):
            outcome.index = index
        self._ended[index] = outcome, size
        while self._ended:
            first = len(self.results) + self._yielded if self.settings.ordered else index
            ended = self._ended.pop(first, None)
            if ended is None:
                break
            self.results.append(ended)

    def result(self) -> Outcome:
        """The next of the results, which there must be."""
        outcome, size = self.results.popleft()
        self._yielded += 1
        self._bytes -= size
        if isinstance(outcome, NobatError) and self.settings.on_error == "raise":
            raise outcome
        return outcome

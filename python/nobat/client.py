"""The client for programs without an event loop. Several threads may share one, and processes that are forked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from . import _flows as flows
from ._direct import Direct, suits
from ._http import Settings, answered
from ._map import Chunk, Mapper, OnError, Outcome, begin
from ._map import Settings as MapSettings
from ._progress import progress as shown
from ._retry import Retry
from ._tensors import has_arrays
from ._types import Inputs, JobInfo, JobOptions, Model, Options, Prediction, Timings
from ._wire import Answer, Call, Failed
from .errors import NobatError

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
#: How long a result is waited for unless the caller says otherwise, in seconds.
WAIT = 60.0
#: The same for each input of ``map``, whose inputs stand in line behind each other.
MAP_WAIT = 600.0
END = object()


class Job:
    """A job that was submitted. ``id`` is enough to find it again: ``client.job(id)``."""

    def __init__(self, client: Client, info: JobInfo, arrays: bool = False) -> None:
        self._client = client
        self._arrays = arrays
        #: As it stood when it was last asked for; ``refresh()`` asks again.
        self.info = info

    @property
    def id(self) -> str:
        """Unguessable; belongs to the caller that made it."""
        return self.info.id

    @property
    def status(self) -> str:
        """Where it stands now: queued, scheduled, leased, failed, succeeded, dead, cancelled or expired."""
        return self.refresh().state

    @property
    def timings(self) -> Timings | None:
        """Where its time went, once it has succeeded."""
        if self.info.timings is None:
            self.refresh()
        return self.info.timings

    def refresh(self) -> JobInfo:
        """Ask how it stands."""
        self.info = self._client._run(flows.job(self.id))
        return self.info

    def wait(self, timeout: float | None = WAIT) -> JobInfo:
        """Wait for its end, whatever it is, and tell how it stands then, or when the time is up."""
        self.info = self._client._run(flows.wait(self.id, timeout))
        return self.info

    def result(self, timeout: float | None = WAIT) -> Prediction:
        """Wait for its result; ``None`` waits as long as it takes.

        Raises ``Timeout`` when the time is up (the job goes on), ``JobFailed``, ``Conflict``
        when it was cancelled, ``DeadlineExceeded``, ``ResultExpired``.
        """
        return self._client._run(flows.job_result(self._client._known, self.info, self._arrays, timeout))

    def cancel(self) -> JobInfo:
        """Cancel it, if it has not ended."""
        self.info = self._client._run(flows.cancel(self.id))
        return self.info

    def __repr__(self) -> str:
        return f"Job({self.id!r}, model={self.info.model!r}, state={self.info.state!r})"


class Client:
    """A client for programs without an event loop.

    :param url: the server; ``NOBAT_URL``, or this machine's port 8000.
    :param key: an API key, where the server asks for one; ``NOBAT_API_KEY``.
    :param timeout: seconds without a sign of life after which a call has failed.
    :param retries: how often a call is made again after a connection error or 503.
    :param httpx_options: further arguments of ``httpx.Client``, such as ``verify``.
    """

    def __init__(
        self, url: str | None = None, *, key: str | None = None, timeout: float = 30.0, retries: int = 2, **httpx_options: Any
    ) -> None:
        self._settings = Settings(url, key, timeout, retries, httpx_options)
        self._direct = not httpx_options and suits(self._settings.url)
        self._known = flows.Known()
        self._open()

    def _open(self) -> None:
        if self._direct:
            self._settings.http["transport"] = Direct()
        self._http, self._process = httpx.Client(**self._settings.http), os.getpid()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] | None = None,
        timeout: float = WAIT,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Prediction:
        """Predict and wait. Options: priority, deadline, delay, result_ttl, max_retries,
        retry_delay, webhook, tag, tags, version, label."""
        return self._run(flows.predict(self._known, model, inputs, Options(**options), timeout, outputs, idempotency_key))

    def submit(self, model: str, inputs: Inputs, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Enqueue and return at once. Options as for ``predict``."""
        return Job(self, self._run(flows.submit(self._known, model, inputs, Options(**options), idempotency_key)), has_arrays(inputs))

    def job(self, job_id: str) -> Job:
        """A job by its id."""
        return Job(self, self._run(flows.job(job_id)))

    @overload
    def map(
        self, model: str, inputs: Iterable[Inputs], *, concurrency: int = 16, ordered: bool = True,
        on_error: Literal["raise"] = "raise", progress: bool = False, outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT, **options: Unpack[JobOptions],
    ) -> Iterator[Prediction]: ...  # fmt: skip

    @overload
    def map(
        self, model: str, inputs: Iterable[Inputs], *, concurrency: int = 16, ordered: bool = True,
        on_error: Literal["yield"], progress: bool = False, outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT, **options: Unpack[JobOptions],
    ) -> Iterator[Prediction | NobatError]: ...  # fmt: skip

    def map(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        concurrency: int = 16,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool = False,
        outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT,
        **options: Unpack[JobOptions],
    ) -> Iterator[Any]:
        """Predict for each of many inputs, however many there are; yields the answers.

        An input is what ``predict`` takes, or one row of it without the batch axis, whose
        answer then has none either. Inputs of one shape travel together, as many rows as the
        model runs at once, with ``concurrency`` calls in flight.

        :param ordered: in the inputs' order, or as they come; ``index`` says which it was.
        :param on_error: raise the first failure in its place, or yield the exception and go on.
        :param progress: show a bar on standard error, where tqdm is installed.
        :param timeout: seconds for an input, its time in the line included.
        """
        settings = MapSettings(concurrency, ordered, on_error, outputs, timeout)
        mapper = self._run(begin(self._known, model, Options(**options), settings))
        with shown(progress, inputs) as count:
            for outcome in self._map(mapper, inputs):
                yield outcome
                count()

    def _map(self, mapper: Mapper, inputs: Iterable[Inputs]) -> Iterator[Outcome]:
        concurrency = mapper.settings.concurrency
        patient = self._settings.retry.patient()
        ended: SimpleQueue[tuple[Chunk, Outcome | BaseException]] = SimpleQueue()

        def call(chunk: Chunk) -> None:
            try:
                ended.put((chunk, self._run(mapper.flow(chunk), patient)))
            except BaseException as error:
                ended.put((chunk, error))

        source, last, running = iter(inputs), False, 0
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="nobat-map")
        try:
            while True:
                while running < concurrency and (chunk := mapper.chunk(last)) is not None:
                    pool.submit(call, chunk)
                    running += 1
                if mapper.results:
                    yield mapper.result()
                elif not last and mapper.room and ended.empty():
                    one: Any = next(source, END)
                    last = one is END
                    if not last:
                        mapper.take(one)
                elif running:
                    chunk, outcome = ended.get()
                    running -= 1
                    if not isinstance(outcome, (Prediction, NobatError)):
                        raise outcome
                    mapper.done(chunk, outcome)
                else:
                    return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def jobs(self, *, model: str | None = None, state: str | None = None, tag: str | None = None, error: str | None = None, page: int = 100) -> Iterator[JobInfo]:
        """The caller's jobs, the newest first, page after page; ``error`` is the code of the last error."""
        cursor: str | None = None
        while True:
            found, cursor = self._run(flows.jobs({"model": model, "state": state, "tag": tag, "error": error, "limit": page}, cursor))
            yield from found
            if cursor is None:
                return

    def redrive(self, model: str, ids: Sequence[str] = (), *, limit: int = 100) -> int:
        """Send dead letters back to their queue; how many went. Without ``ids``, the oldest."""
        return self._run(flows.redrive(model, ids, limit))

    def models(self) -> list[Model]:
        """What the server serves."""
        return self._run(flows.models())

    def ready(self) -> bool:
        """Whether the server is there and can serve now."""
        return self._run(flows.ready(), Retry(times=0))

    def _run(self, flow: flows.Flow[T], retry: Retry | None = None) -> T:
        steps = flows.attempts(flow, retry or self._settings.retry)
        try:
            step = next(steps)
            while True:
                step = steps.send(self._do(step))
        except StopIteration as done:
            value: T = done.value
            return value

    def _do(self, step: Call | float) -> Answer | Failed | None:
        if not isinstance(step, Call):
            time.sleep(step)
            return None
        if self._process != os.getpid() and not self._http.is_closed:
            # After a fork the connections are the parent's: each would read the other's answers.
            self._open()
        try:
            return answered(self._http.send(self._settings.request(self._http, step)))
        except httpx.HTTPError as error:
            return self._settings.failed(error, step)

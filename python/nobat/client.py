"""The clients. ``Client`` may be used by several threads at once, ``AsyncClient`` by
the tasks of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from . import _flows as flows
from . import _wire as wire
from ._base import Settings, answered, failed
from ._wire import Inputs, JobInfo, JobOptions, Model, Options, Prediction, Timings
from .errors import InvalidRequest, NobatError, NotFound

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
#: How long a result is waited for unless the caller says otherwise, in seconds.
WAIT = 60.0


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

    def result(self, timeout: float | None = WAIT) -> Prediction:
        """Wait for its result; ``None`` waits as long as it takes.

        Raises ``Timeout`` when the time is up (the job goes on), ``JobFailed``, ``Conflict``
        when it was cancelled, ``DeadlineExceeded``, ``ResultExpired``.
        """
        return self._client._result(self.info, self._arrays, timeout)

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
        self._http = httpx.Client(**self._settings.http())
        self._known = flows.Known()

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
        retry_delay, webhook, version, label."""
        flow = flows.predict(self._known, model, inputs, Options(**options), timeout, outputs, idempotency_key)
        try:
            return self._run(flow)
        except (InvalidRequest, NotFound):
            self._known.forget(model)
            raise

    def submit(self, model: str, inputs: Inputs, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Enqueue and return at once. Options as for ``predict``."""
        info = self._run(flows.submit(model, inputs, Options(**options), idempotency_key))
        return Job(self, info, wire.has_arrays(inputs))

    def job(self, job_id: str) -> Job:
        """A job by its id."""
        return Job(self, self._run(flows.job(job_id)))

    def map(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        concurrency: int = 32,
        progress: bool = False,
        **options: Unpack[JobOptions],
    ) -> Iterator[Prediction]:
        """Predict for each of many inputs; yields the answers in the inputs' order.

        At most ``4 * concurrency`` inputs are taken ahead of what has been yielded, however
        many there are. The first failure is raised in its place, and ends it. ``progress``
        shows a bar on standard error, where tqdm is installed.
        """
        yield from bar(self._map(model, inputs, concurrency, options), inputs, progress)

    def _map(self, model: str, inputs: Iterable[Inputs], concurrency: int, options: JobOptions) -> Iterator[Prediction]:
        with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="nobat-map") as pool:
            pending: deque[Future[Prediction]] = deque()
            try:
                for one in inputs:
                    pending.append(pool.submit(self.predict, model, one, **options))
                    if len(pending) >= 4 * concurrency:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def jobs(self, *, model: str | None = None, state: str | None = None, page: int = 100) -> Iterator[JobInfo]:
        """The caller's jobs, page after page."""
        filters = _filters(model, state, page)
        cursor: str | None = None
        while True:
            found, cursor = self._run(flows.jobs(filters, cursor))
            yield from found
            if cursor is None:
                return

    def redrive(self, model: str, ids: Sequence[str] = (), *, limit: int = 100) -> int:
        """Send dead letters back to their queue; how many went. Without ``ids``, the oldest."""
        return self._run(flows.redrive(model, ids, limit))

    def models(self) -> list[Model]:
        """What the server serves."""
        return self._run(flows.models())

    def _result(self, info: JobInfo, arrays: bool, timeout: float | None) -> Prediction:
        return self._run(_result(self._known, info, arrays, timeout))

    def _run(self, flow: flows.Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                call = flow.send(self._send(call))
        except StopIteration as done:
            value: T = done.value
            return value

    def _send(self, call: wire.Call) -> wire.Answer:
        tried = 0
        while True:
            error: NobatError | None
            try:
                answer, sent = answered(self._http.request(**self._settings.request(call))), True
                error = answer.failure(call)
                if error is None:
                    return answer
            except httpx.HTTPError as broken:
                error, sent = failed(broken, self._settings.url, call)
            tried += 1
            pause = self._settings.retry.pause(tried, error, sent=sent, keyed=call.keyed)
            if pause is None:
                raise error
            time.sleep(pause)


class AsyncJob:
    """As ``Job``, awaited."""

    def __init__(self, client: AsyncClient, info: JobInfo, arrays: bool = False) -> None:
        self._client = client
        self._arrays = arrays
        #: As it stood when it was last asked for; ``refresh()`` asks again.
        self.info = info

    @property
    def id(self) -> str:
        """Unguessable; belongs to the caller that made it."""
        return self.info.id

    async def status(self) -> str:
        """Where it stands now."""
        return (await self.refresh()).state

    async def timings(self) -> Timings | None:
        """Where its time went, once it has succeeded."""
        if self.info.timings is None:
            await self.refresh()
        return self.info.timings

    async def refresh(self) -> JobInfo:
        """Ask how it stands."""
        self.info = await self._client._run(flows.job(self.id))
        return self.info

    async def result(self, timeout: float | None = WAIT) -> Prediction:
        """Wait for its result; as ``Job.result``."""
        return await self._client._run(_result(self._client._known, self.info, self._arrays, timeout))

    async def cancel(self) -> JobInfo:
        """Cancel it, if it has not ended."""
        self.info = await self._client._run(flows.cancel(self.id))
        return self.info

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r}, model={self.info.model!r}, state={self.info.state!r})"


class AsyncClient:
    """As ``Client``, awaited."""

    def __init__(
        self, url: str | None = None, *, key: str | None = None, timeout: float = 30.0, retries: int = 2, **httpx_options: Any
    ) -> None:
        self._settings = Settings(url, key, timeout, retries, httpx_options)
        self._http = httpx.AsyncClient(**self._settings.http())
        self._known = flows.Known()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] | None = None,
        timeout: float = WAIT,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Prediction:
        """Predict and wait; as ``Client.predict``."""
        flow = flows.predict(self._known, model, inputs, Options(**options), timeout, outputs, idempotency_key)
        try:
            return await self._run(flow)
        except (InvalidRequest, NotFound):
            self._known.forget(model)
            raise

    async def submit(self, model: str, inputs: Inputs, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> AsyncJob:
        """Enqueue and return at once; as ``Client.submit``."""
        info = await self._run(flows.submit(model, inputs, Options(**options), idempotency_key))
        return AsyncJob(self, info, wire.has_arrays(inputs))

    async def job(self, job_id: str) -> AsyncJob:
        """A job by its id."""
        return AsyncJob(self, await self._run(flows.job(job_id)))

    async def map(
        self, model: str, inputs: Iterable[Inputs], *, concurrency: int = 32, **options: Unpack[JobOptions]
    ) -> AsyncIterator[Prediction]:
        """Predict for each of many inputs; as ``Client.map``."""
        pending: deque[asyncio.Task[Prediction]] = deque()
        gate = asyncio.Semaphore(concurrency)

        async def one_of(one: Inputs) -> Prediction:
            async with gate:
                return await self.predict(model, one, **options)

        try:
            for one in inputs:
                pending.append(asyncio.ensure_future(one_of(one)))
                if len(pending) >= 4 * concurrency:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def jobs(self, *, model: str | None = None, state: str | None = None, page: int = 100) -> AsyncIterator[JobInfo]:
        """The caller's jobs, page after page."""
        filters = _filters(model, state, page)
        cursor: str | None = None
        while True:
            found, cursor = await self._run(flows.jobs(filters, cursor))
            for one in found:
                yield one
            if cursor is None:
                return

    async def redrive(self, model: str, ids: Sequence[str] = (), *, limit: int = 100) -> int:
        """Send dead letters back to their queue; how many went."""
        return await self._run(flows.redrive(model, ids, limit))

    async def models(self) -> list[Model]:
        """What the server serves."""
        return await self._run(flows.models())

    async def _run(self, flow: flows.Flow[T]) -> T:
        try:
            call = next(flow)
            while True:
                call = flow.send(await self._send(call))
        except StopIteration as done:
            value: T = done.value
            return value

    async def _send(self, call: wire.Call) -> wire.Answer:
        tried = 0
        while True:
            error: NobatError | None
            try:
                answer, sent = answered(await self._http.request(**self._settings.request(call))), True
                error = answer.failure(call)
                if error is None:
                    return answer
            except httpx.HTTPError as broken:
                error, sent = failed(broken, self._settings.url, call)
            tried += 1
            pause = self._settings.retry.pause(tried, error, sent=sent, keyed=call.keyed)
            if pause is None:
                raise error
            await asyncio.sleep(pause)


def bar(answers: Iterator[T], inputs: object, wanted: bool) -> Iterator[T]:
    """The answers, counted on standard error where that is wanted and can be had."""
    if not wanted:
        return answers
    try:
        from tqdm import tqdm
    except ImportError:
        return answers
    shown: Iterator[T] = iter(tqdm(answers, total=len(inputs) if hasattr(inputs, "__len__") else None, unit=" inputs"))
    return shown


def _filters(model: str | None, state: str | None, page: int) -> dict[str, str]:
    given = {"model": model, "state": state, "limit": str(page)}
    return {name: value for name, value in given.items() if value is not None}


def _result(known: flows.Known, info: JobInfo, arrays: bool, timeout: float | None) -> flows.Flow[Prediction]:
    """A job's result, with its outputs' names."""
    _, gives = yield from known.of(info.model, Options())
    names = [spec.name for spec in gives]
    end = None if timeout is None else time.monotonic() + timeout
    return (yield from flows.result(info.id, names, wire.converter(gives, arrays), end))

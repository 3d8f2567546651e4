"""The client for the tasks of one event loop: the surface of ``client``, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from . import _flows as flows
from ._http import Settings, answered
from ._map import Chunk, Mapper, OnError, Outcome, begin
from ._map import Settings as MapSettings
from ._progress import progress as shown
from ._retry import Retry
from ._tensors import has_arrays
from ._types import Inputs, JobInfo, JobOptions, Model, Options, Prediction, Timings
from ._wire import Answer, Call, Failed
from .client import END, MAP_WAIT, WAIT
from .errors import NobatError

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


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

    async def wait(self, timeout: float | None = WAIT) -> JobInfo:
        """Wait for its end; as ``Job.wait``."""
        self.info = await self._client._run(flows.wait(self.id, timeout))
        return self.info

    async def result(self, timeout: float | None = WAIT) -> Prediction:
        """Wait for its result; as ``Job.result``."""
        return await self._client._run(flows.job_result(self._client._known, self.info, self._arrays, timeout))

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
        self._http = httpx.AsyncClient(**self._settings.http)
        self._known = flows.Known()
        # httpx looks through all calls that wait for a connection, with each that comes and goes: a thousand took minutes.
        self._turns = asyncio.Semaphore(self._settings.most_calls)

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
        return await self._run(flow)

    async def submit(
        self, model: str, inputs: Inputs, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> AsyncJob:
        """Enqueue and return at once; as ``Client.submit``."""
        info = await self._run(flows.submit(self._known, model, inputs, Options(**options), idempotency_key))
        return AsyncJob(self, info, has_arrays(inputs))

    async def job(self, job_id: str) -> AsyncJob:
        """A job by its id."""
        return AsyncJob(self, await self._run(flows.job(job_id)))

    @overload
    def map(
        self, model: str, inputs: Iterable[Inputs] | AsyncIterable[Inputs], *, concurrency: int = 16, ordered: bool = True,
        on_error: Literal["raise"] = "raise", progress: bool = False, outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT, **options: Unpack[JobOptions],
    ) -> AsyncIterator[Prediction]: ...  # fmt: skip

    @overload
    def map(
        self, model: str, inputs: Iterable[Inputs] | AsyncIterable[Inputs], *, concurrency: int = 16, ordered: bool = True,
        on_error: Literal["yield"], progress: bool = False, outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT, **options: Unpack[JobOptions],
    ) -> AsyncIterator[Prediction | NobatError]: ...  # fmt: skip

    async def map(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        concurrency: int = 16,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool = False,
        outputs: Sequence[str] | None = None,
        timeout: float = MAP_WAIT,
        **options: Unpack[JobOptions],
    ) -> AsyncIterator[Any]:
        """Predict for each of many inputs; as ``Client.map``."""
        settings = MapSettings(concurrency, ordered, on_error, outputs, timeout)
        mapper = await self._run(begin(self._known, model, Options(**options), settings))
        with shown(progress, inputs) as count:
            async for outcome in self._map(mapper, inputs):
                yield outcome
                count()

    async def _map(self, mapper: Mapper, inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Outcome]:
        concurrency = mapper.settings.concurrency
        patient = self._settings.retry.patient()
        ended: deque[tuple[Chunk, Outcome]] = deque()

        async def call(chunk: Chunk) -> None:
            try:
                ended.append((chunk, await self._run(mapper.flow(chunk), patient)))
            except NobatError as error:
                ended.append((chunk, error))

        source, last = _each(inputs), False
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while len(running) < concurrency and (chunk := mapper.chunk(last)) is not None:
                    running.add(asyncio.create_task(call(chunk)))
                    # So that the call begins before further inputs are taken.
                    await asyncio.sleep(0)
                if mapper.results:
                    yield mapper.result()
                elif not last and mapper.room and not ended:
                    one: Any = await anext(source, END)
                    last = one is END
                    if not last:
                        mapper.take(one)
                elif running:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    while ended:
                        mapper.done(*ended.popleft())
                else:
                    return
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def jobs(self, *, model: str | None = None, state: str | None = None, tag: str | None = None, error: str | None = None, page: int = 100) -> AsyncIterator[JobInfo]:
        """The caller's jobs, the newest first, page after page; ``error`` is the code of the last error."""
        cursor: str | None = None
        while True:
            found, cursor = await self._run(flows.jobs({"model": model, "state": state, "tag": tag, "error": error, "limit": page}, cursor))
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

    async def ready(self) -> bool:
        """Whether the server is there and can serve now."""
        return await self._run(flows.ready(), Retry(times=0))

    async def _run(self, flow: flows.Flow[T], retry: Retry | None = None) -> T:
        steps = flows.attempts(flow, retry or self._settings.retry)
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._do(step))
        except StopIteration as done:
            value: T = done.value
            return value

    async def _do(self, step: Call | float) -> Answer | Failed | None:
        if not isinstance(step, Call):
            await asyncio.sleep(step)
            return None
        try:
            async with self._turns:
                return answered(await self._http.send(self._settings.request(self._http, step)))
        except httpx.HTTPError as error:
            return self._settings.failed(error, step)


async def _each(inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    if isinstance(inputs, AsyncIterable):
        async for one in inputs:
            yield one
    else:
        for one in inputs:
            yield one

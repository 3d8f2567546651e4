"""``@nobat.task``: for programs that come from huey or Celery.

The decorated function runs here, in the caller: it turns its arguments into the model's
inputs. The model runs in nobat's workers, which import nothing of yours; nothing of Python
is queued, only tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ._types import Inputs, JobOptions, Prediction
from .client import WAIT, Client, Job
from .errors import InvalidInput

if TYPE_CHECKING:
    from typing_extensions import Unpack


@functools.cache
def _default_client() -> Client:
    return Client()


@dataclass(frozen=True)
class Task:
    """A function whose result a model is run on. Made by ``task``."""

    function: Callable[..., Inputs]
    model: str | None = None
    given: Client | None = None
    settings: JobOptions = field(default_factory=lambda: JobOptions())

    @property
    def client(self) -> Client:
        """The client that was given, or one for ``NOBAT_URL`` that all such tasks share."""
        return self.given or _default_client()

    @overload
    def __call__(self, *arguments: Any, blocking: Literal[True], timeout: float = WAIT, **named: Any) -> Prediction: ...

    @overload
    def __call__(self, *arguments: Any, blocking: Literal[False] = False, timeout: float = WAIT, **named: Any) -> Job: ...

    def __call__(self, *arguments: Any, blocking: bool = False, timeout: float = WAIT, **named: Any) -> Job | Prediction:
        """Submit, and return a handle at once; ``blocking=True`` waits for the answer instead."""
        model = self.model or (arguments[0] if arguments else None)
        if not isinstance(model, str):
            raise InvalidInput(f"{self} has no model; name it in @nobat.task(model=…), or as the first argument of each call")
        inputs = self.function(*arguments, **named)
        if blocking:
            return self.client.predict(model, inputs, timeout=timeout, **self.settings)
        return self.client.submit(model, inputs, **self.settings)

    def map(self, arguments: Iterable[Any]) -> Iterator[Prediction]:
        """The answers for many calls with one argument each, as ``Client.map`` gives them."""
        if self.model is None:
            raise InvalidInput(f"{self} has no model; name it in @nobat.task(model=…)")
        return self.client.map(self.model, map(self.function, arguments), **self.settings)

    def options(self, *, model: str | None = None, retries: int | None = None, **settings: Unpack[JobOptions]) -> Task:
        """The same task with other options: ``predict.options(delay="5s")(x)``."""
        if retries is not None:
            settings["max_retries"] = retries
        return replace(self, model=model or self.model, settings=cast(JobOptions, {**self.settings, **settings}))

    def __str__(self) -> str:
        return f"task {getattr(self.function, '__name__', self.function)!r}"


def task(
    *, model: str | None = None, retries: int | None = None, client: Client | None = None, **settings: Unpack[JobOptions]
) -> Callable[[Callable[..., Inputs]], Task]:
    """Makes a task of a function that returns a model's inputs.

        @nobat.task(model="digits", priority=10, retries=2, retry_delay=1)
        def read_digit(image):
            return image.reshape(1, 64) / 16.0

        job = read_digit(image)                       # submitted; job.result() waits
        answer = read_digit(image, blocking=True)

    Without ``model`` the first argument of each call names it. Options as for ``Client.submit``.
    """

    def of(function: Callable[..., Inputs]) -> Task:
        return Task(function, model, client).options(retries=retries, **settings)

    return of

"""What can go wrong, as exceptions that say what to match on.

``NobatError`` is the root. ``TransportError`` means that no answer of nobat came;
``StatusError`` that one came and it was a refusal, with a subclass per kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NobatError(Exception):
    """Every failure of this package.

    :ivar code: what to match on, such as ``queue_full``; empty where the server gave none.
    :ivar status: the HTTP status, ``None`` where no answer came.
    :ivar retry_after: seconds after which asking again makes sense, if the server said so.
    :ivar job_id: the job that it is about, if any.
    :ivar request_id: the id under which the server's logs have the request.
    :ivar index: which of ``map``'s inputs it is about, counted from 0.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        job_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.job_id = job_id
        self.request_id = request_id
        self.index: int | None = None


class InvalidInput(NobatError, ValueError):
    """What was given cannot be sent; nothing was."""


class TransportError(NobatError):
    """No answer came: the server is not there, or the connection broke."""


class Timeout(TransportError):
    """No answer, or no result, came in the time that was given."""


class ProtocolError(TransportError):
    """Something answered that is not nobat, such as a proxy's error page."""


class StatusError(NobatError):
    """The server refused."""


class InvalidRequest(StatusError):
    """400, 413, 415, 422: the request is at fault; sending it again does not help."""


class AuthenticationError(StatusError):
    """401: the key is missing or wrong."""


class PermissionDenied(StatusError):
    """403: the key may not do this."""


class NotFound(StatusError):
    """404: no such model, version, job or route."""


class Conflict(StatusError):
    """409: the job has ended otherwise than the call wants, or was cancelled."""


class ResultExpired(StatusError):
    """410: the job ended, and its result has outlived its ttl."""


class RateLimited(StatusError):
    """429: over the key's rate or quota; see ``retry_after``."""


class ServerError(StatusError):
    """5xx: the request may be right, the server could not."""


class Unavailable(ServerError):
    """503: not now; see ``retry_after``."""


class DeadlineExceeded(ServerError):
    """504: it could not be done by the deadline."""


class JobFailed(StatusError):
    """The job ran and failed for good; its dead letter can be redriven."""


_BY_STATUS: dict[int, type[StatusError]] = {
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    410: ResultExpired,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}
#: A job's own failure, told by the call that waits for its result.
_FAILED = frozenset({"inference_failed", "invalid_worker_result"})


def of_answer(status: int, body: Mapping[str, Any], headers: Mapping[str, str], job_id: str | None) -> StatusError:
    """The exception for a refusal: ``body`` is its JSON in either of nobat's shapes."""
    code = str(body.get("code") or "")
    message = str(body.get("detail") or body.get("error") or body.get("title") or f"HTTP {status}")
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else InvalidRequest)
    if code in _FAILED:
        kind = JobFailed
    told = body.get("job") or body.get("id")
    return kind(
        f"{message} ({code or status})",
        code=code,
        status=status,
        retry_after=retry_after(headers.get("retry-after")),
        job_id=job_id or (str(told) if told else None),
        request_id=str(body.get("request_id") or headers.get("x-request-id") or "") or None,
    )


def retry_after(value: str | None) -> float | None:
    """A ``Retry-After`` in seconds; ``None`` for an HTTP date, which nobat never sends."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None

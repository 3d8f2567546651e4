"""What the two clients share: settings, and how an httpx failure reads."""

from __future__ import annotations

import os
from typing import Any

import httpx

from ._retry import Retry
from ._wire import Answer, Call
from .errors import NobatError, ProtocolError, Timeout, TransportError

DEFAULT_URL = "http://127.0.0.1:8000"


class Settings:
    """Where the server is, who calls, and how patiently."""

    def __init__(self, url: str | None, key: str | None, timeout: float, retries: int, options: dict[str, Any]) -> None:
        self.url = (url or os.environ.get("NOBAT_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}; write it whole, such as {DEFAULT_URL!r}")
        key = key or os.environ.get("NOBAT_API_KEY")
        self.headers = {"user-agent": "nobat-python/0.1.0", **({"authorization": f"Bearer {key}"} if key else {})}
        self.timeout = timeout
        self.retry = Retry(times=retries)
        self.options = options

    def http(self) -> dict[str, Any]:
        """Arguments of an httpx client."""
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        return {"base_url": self.url, "headers": self.headers, "limits": limits, **self.options}

    def request(self, call: Call) -> dict[str, Any]:
        """Arguments of an httpx request."""
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.params) or None,
            "headers": dict(call.headers),
            "content": call.content,
            "timeout": httpx.Timeout(self.timeout + call.wait, connect=min(10.0, self.timeout)),
        }


def answered(response: httpx.Response) -> Answer:
    """An httpx response as the flows read it."""
    return Answer(response.status_code, response.headers, response.content)


def failed(error: httpx.HTTPError, url: str, call: Call) -> tuple[NobatError, bool]:
    """What an httpx failure means, and whether the request may have been sent."""
    unsent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if isinstance(error, httpx.ConnectError):
        message = f"{url} cannot be reached ({error}); is the server running? `nobat serve` starts one"
        return TransportError(message, job_id=call.job_id), False
    if isinstance(error, httpx.TimeoutException):
        return Timeout(f"{url} did not answer in time", job_id=call.job_id), not unsent
    if isinstance(error, (httpx.RemoteProtocolError, httpx.DecodingError)) and "disconnect" not in str(error).lower():
        return ProtocolError(f"{url} does not speak HTTP as nobat does ({error})", job_id=call.job_id), True
    return TransportError(f"the connection to {url} broke ({error})", job_id=call.job_id), True

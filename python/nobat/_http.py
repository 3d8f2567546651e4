"""What the two clients share: settings, and how a call and its failures read in httpx."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import httpx

from ._retry import Retry
from ._wire import Answer, Call, Failed
from .errors import InvalidInput, NobatError, ProtocolError, Timeout, TransportError

DEFAULT_URL = "http://127.0.0.1:8000"
#: How httpx says that the connection ended before the answer, or in the middle of it.
_BROKE_OFF = ("disconnect", "peer closed connection")


class Settings:
    """Where the server is, who calls, and how patiently."""

    def __init__(self, url: str | None, key: str | None, timeout: float, retries: int, options: dict[str, Any]) -> None:
        self.url = (url or os.environ.get("NOBAT_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InvalidInput(f"url is {self.url!r}; write it whole, such as {DEFAULT_URL!r}")
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"url is {self.url!r}: {error}; write it as {DEFAULT_URL!r}") from None
        self.timeout = timeout
        self.retry = Retry(times=retries)
        key = key or os.environ.get("NOBAT_API_KEY") or ""
        if not key.isascii():
            raise InvalidInput("the key has characters that no key has; copy it again")
        # Tensors hardly shrink, and to pack them takes longer than to send them.
        headers = {"user-agent": "nobat-python", "accept-encoding": "identity", **({"authorization": f"Bearer {key}"} if key else {})}
        limits = options.get("limits") or httpx.Limits(max_connections=256, max_keepalive_connections=256)
        #: Calls that have a connection each.
        self.most_calls: int = limits.max_connections or sys.maxsize
        #: Arguments of an httpx client.
        self.http: dict[str, Any] = {**options, "limits": limits, "headers": {**headers, **options.get("headers", {})}}
        self.address = functools.lru_cache(256)(lambda path: httpx.URL(self.url + path))

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
        """A call as a request.

        Made here and not by the client's ``build_request``, which parses the address and
        merges headers anew for each: 0.05 ms.
        """
        url = self.address(call.path)
        host = (b"host", url.netloc)
        headers = [host, *http.headers.raw, *((name.encode(), value.encode()) for name, value in call.headers.items())]
        timeout = self.timeout + call.wait if call.timeout is None else call.timeout
        limits = httpx.Timeout(timeout, connect=min(10.0, self.timeout))
        return httpx.Request(
            call.method,
            url.copy_merge_params(dict(call.params)) if call.params else url,
            headers=headers,
            cookies=http.cookies,
            content=call.content,
            extensions={"timeout": limits.as_dict()},
        )

    def failed(self, error: httpx.HTTPError, call: Call) -> Failed:
        """What an httpx failure means."""
        kind, message, sent = self._means(error)
        return Failed(kind(message, job_id=call.job_id), sent)

    def _means(self, error: httpx.HTTPError) -> tuple[type[NobatError], str, bool]:
        match error:
            case httpx.ConnectError():
                message = f"{self.url} cannot be reached ({error}); is the server running? `nobat serve` starts one"
                return TransportError, message, False
            case httpx.TimeoutException():
                sent = not isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout))
                return Timeout, f"{self.url} did not answer in time", sent
            case httpx.LocalProtocolError() | httpx.UnsupportedProtocol():
                return InvalidInput, f"the request cannot be sent: {error}", False
            case httpx.RemoteProtocolError() | httpx.DecodingError() if not any(said in str(error).lower() for said in _BROKE_OFF):
                return ProtocolError, f"{self.url} does not speak HTTP as nobat does ({error})", True
        return TransportError, f"the connection to {self.url} broke ({error})", True


def answered(response: httpx.Response) -> Answer:
    """An httpx response as the flows read it."""
    return Answer(response.status_code, response.headers, response.content)

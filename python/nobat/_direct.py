"""An httpx transport on ``http.client``, for plain HTTP to one server.

httpx's own takes 0.15 ms longer for a call on a connection that is open: it runs its HTTP
parser in Python. What this one cannot do (TLS, proxies, HTTP/2, limits) the clients leave to httpx's.
"""

from __future__ import annotations

import http.client
import select
from typing import NoReturn
from urllib.request import getproxies

import httpx


def suits(url: str) -> bool:
    """Whether nothing stands between this process and the server."""
    return url.startswith("http://") and not {"http", "all"} & getproxies().keys()


class Direct(httpx.BaseTransport):
    """As many connections as calls are made at once, kept open."""

    def __init__(self) -> None:
        # The newest is taken first; append and pop are atomic.
        self._idle: list[http.client.HTTPConnection] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        timeout = request.extensions["timeout"]
        connection = self._connection(request.url, timeout["connect"])
        connection.sock.settimeout(timeout["read"])
        try:
            connection.putrequest(request.method, request.url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.raw:
                connection.putheader(name, value)
            try:
                connection.endheaders(request.read())
            except (BrokenPipeError, ConnectionResetError):
                # A server that has refused reads no further: why is there to be read.
                pass
            answer = connection.getresponse()
            content = answer.read()
        except BaseException as error:
            connection.close()
            _raise(error)
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return httpx.Response(answer.status, headers=answer.getheaders(), content=content)

    def _connection(self, url: httpx.URL, timeout: float) -> http.client.HTTPConnection:
        while self._idle:
            connection = self._idle.pop()
            # What can be read before a question is the connection's end.
            ready = select.poll()
            ready.register(connection.sock, select.POLLIN)
            if not ready.poll(0):
                return connection
            connection.close()
        connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=timeout)
        try:
            connection.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _raise(error: BaseException) -> NoReturn:
    match error:
        case http.client.RemoteDisconnected():
            raise httpx.RemoteProtocolError("server disconnected") from error
        case http.client.IncompleteRead():
            raise httpx.ReadError(f"the answer ends after {len(error.partial)} bytes") from error
        case TimeoutError():
            raise httpx.ReadTimeout(str(error)) from error
        case OSError():
            raise httpx.ReadError(str(error)) from error
        case http.client.HTTPException():
            raise httpx.RemoteProtocolError(f"{type(error).__name__}: {error}") from error
        case ValueError():
            raise httpx.LocalProtocolError(str(error)) from error
    raise error

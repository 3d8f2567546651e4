"""Servers that are away, busy, or something else: typed exceptions, and retries only
where repeating is safe."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import nobat
from nobat._direct import Direct
from nobat._retry import Retry

Reply = tuple[int, dict[str, str], bytes]
JOB = json.dumps({"id": "j", "model": "m", "state": "queued"}).encode()


class Fake:
    """Answers what it is told to, in turn, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply | None] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.open: list[socket.socket] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake.open.append(self.connection)

            def do_POST(self) -> None:
                fake.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
                lowered = {name.lower(): value for name, value in self.headers.items()}
                fake.asked.append((self.command, self.path, lowered))
                reply = fake.replies.pop(0)
                if reply is None:
                    # Cut off after it was read: nobody knows whether it was done.
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                status, headers, body = reply
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def hang_up(self) -> None:
        """Ends every connection, as a server does with idle ones."""
        for connection in self.open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        time.sleep(0.05)


@pytest.fixture
def fake() -> Iterator[Fake]:
    running = Fake()
    yield running
    running.http.shutdown()


@pytest.fixture(params=["direct", "httpx"])
def client(request: pytest.FixtureRequest, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[nobat.Client]:
    slept: list[float] = []
    monkeypatch.setattr("nobat.client.time.sleep", slept.append)
    # Whoever brings options of httpx's gets its own transport.
    options: dict[str, Any] = {"trust_env": False} if request.param == "httpx" else {}
    with nobat.Client(fake.url, **options) as connected:
        assert isinstance(connected._http._transport, Direct) is (request.param == "direct")
        connected.slept = slept  # type: ignore[attr-defined]
        yield connected


def refusal(status: int, code: str, **headers: str) -> Reply:
    body = {"code": code, "detail": "no", "status": status, "request_id": "r-1"}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


def test_a_submit_is_repeated_under_one_key_after_503_and_after_a_broken_connection(fake: Fake, client: nobat.Client) -> None:
    fake.replies = [refusal(503, "queue_full", retry_after="3"), None, (202, {}, JOB)]
    assert client.submit("m", [1.0]).id == "j"
    keys = {headers["idempotency-key"] for _, _, headers in fake.asked}
    assert len(fake.asked) == 3 and len(keys) == 1
    assert client.slept[0] >= 3  # type: ignore[attr-defined]


def test_no_refusal_of_the_caller_s_own_making_is_repeated(fake: Fake, client: nobat.Client) -> None:
    kinds: list[tuple[int, str, type[nobat.NobatError]]] = [
        (400, "invalid_tensor", nobat.InvalidRequest), (401, "unauthenticated", nobat.AuthenticationError),
        (403, "permission_denied", nobat.PermissionDenied), (404, "model_not_found", nobat.NotFound),
        (409, "job_cancelled", nobat.Conflict), (410, "result_expired", nobat.ResultExpired),
        (422, "idempotency_mismatch", nobat.InvalidRequest), (429, "rate_limited", nobat.RateLimited),
        (500, "internal", nobat.ServerError), (504, "deadline_exceeded", nobat.DeadlineExceeded),
    ]  # fmt: skip
    for status, code, kind in kinds:
        fake.replies, fake.asked = [refusal(status, code, retry_after="7")], []
        with pytest.raises(kind) as refused:
            client.submit("m", [1.0])
        told = refused.value
        assert (told.status, told.code, told.retry_after, told.request_id) == (status, code, 7.0, "r-1")
        assert len(fake.asked) == 1, code


def test_tries_end(fake: Fake, client: nobat.Client) -> None:
    fake.replies = [refusal(503, "no_worker")] * 3
    with pytest.raises(nobat.Unavailable):
        client.submit("m", [1.0])
    assert len(fake.asked) == 3
    fake.replies, fake.asked = [refusal(503, "draining", retry_after="3600")], []
    with pytest.raises(nobat.Unavailable):
        client.submit("m", [1.0])
    assert len(fake.asked) == 1, "nobody is kept for an hour"


def test_a_binary_prediction_that_may_have_been_sent_is_not_sent_again(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    takes = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}], "outputs": []}
    fake.replies = [(200, {}, json.dumps(takes).encode()), None]
    with pytest.raises(nobat.TransportError):
        client.predict("m", np.zeros(3, dtype=np.float32))
    assert len(fake.asked) == 2


def test_a_binary_call_under_a_key_is_sent_again_as_it_was(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    takes = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}], "outputs": []}
    answer = {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [2.0]}]}
    fake.replies = [(200, {}, json.dumps(takes).encode()), None, (200, {}, json.dumps(answer).encode())]
    predicted = client.predict("m", np.zeros(3, dtype=np.float32), idempotency_key="mine")
    assert predicted["y"].tolist() == [2.0]
    assert [headers.get("idempotency-key") for _, _, headers in fake.asked] == [None, "mine", "mine"]
    assert fake.bodies[1] == fake.bodies[2]

    fake.replies, fake.asked, fake.bodies = [None, (202, {}, JOB)], [], []
    assert client.submit("m", np.array([1.5, 2.5], dtype=np.float32), priority=10).id == "j"
    (_, path, first), (_, again, second) = fake.asked
    assert path == again and path.startswith("/api/v1/predict/m?") and first["idempotency-key"] == second["idempotency-key"]
    at = int(first["inference-header-content-length"])
    assert json.loads(fake.bodies[1][:at])["inputs"][0]["shape"] == [2]
    assert fake.bodies[0] == fake.bodies[1] and fake.bodies[1][at:] == np.array([1.5, 2.5], dtype="<f4").tobytes()


def test_an_answer_that_breaks_off_is_a_broken_connection(fake: Fake, client: nobat.Client) -> None:
    cut: Reply = (202, {"content-length": "1000", "connection": "close"}, JOB)
    chunk = b"%x\r\n%b\r\n" % (len(JOB), JOB)
    chunked: Reply = (202, {"transfer-encoding": "chunked", "connection": "close"}, chunk)
    for broken in (cut, chunked):
        fake.replies, fake.asked = [broken, (202, {}, JOB)], []
        assert client.submit("m", [1.0]).id == "j"
        assert len(fake.asked) == 2


def test_why_a_body_is_not_read_to_its_end_is_told(client: nobat.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            status, _, body = refusal(413, "payload_too_large")
            connection.sendall(f"HTTP/1.1 {status} Too Large\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            # What is not read when it is closed ends the connection at once.
            connection.recv(1)
            connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(client._settings, "url", url)
        client._settings.address.cache_clear()
        with pytest.raises(nobat.InvalidRequest) as refused:
            client.submit("m", ["x" * (64 << 20)])
        assert refused.value.code == "payload_too_large"


def test_processes_that_are_forked_share_no_connection(fake: Fake, client: nobat.Client) -> None:
    fake.replies = [(202, {}, JOB)] * 4
    assert client.submit("m", [1.0]).id == "j"
    child = os.fork()
    if child == 0:
        done = [client.submit("m", [1.0]).id for _ in range(2)] == ["j", "j"]
        os._exit(0 if done else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.submit("m", [1.0]).id == "j"
    assert len(fake.open) == 2, "one of each process, kept open"


def test_a_job_that_failed_for_good_says_so(fake: Fake, client: nobat.Client) -> None:
    takes = {"name": "m", "inputs": [], "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]}
    fake.replies = [(202, {}, JOB), (200, {}, json.dumps(takes).encode()), refusal(500, "inference_failed")]
    with pytest.raises(nobat.JobFailed) as failed:
        client.submit("m", [1.0]).result()
    assert failed.value.job_id == "j" and failed.value.code == "inference_failed"


def test_what_is_not_nobat_is_told(fake: Fake, client: nobat.Client) -> None:
    foreign: list[Reply] = [(502, {}, b"<html>bad gateway</html>"), (200, {}, b"<html>welcome</html>"), (404, {}, b"[]")]
    for reply in foreign:
        fake.replies = [reply]
        with pytest.raises(nobat.ProtocolError, match="proxy"):
            client.models()
    fake.replies = [(200, {}, b"<html>ready</html>"), refusal(503, "no_worker"), (200, {}, b'{"ready":true}')]
    with pytest.raises(nobat.ProtocolError):
        client.ready()
    assert [client.ready(), client.ready()] == [False, True]
    fake.replies = [(200, {}, b'{"hello": "world"}')]
    with pytest.raises(nobat.ProtocolError, match="another version"):
        client.job("x")


def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with nobat.Client(url, retries=0) as client, pytest.raises(nobat.TransportError, match="nobat serve"):
        client.models()
    with nobat.Client(url) as client:
        assert not client.ready()
    with pytest.raises(ValueError, match="write it whole"):
        nobat.Client("localhost:8000")


MODEL = json.dumps({"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}], "outputs": []}).encode()
CONFIG = b'{"max_batch_size": 8}'


def test_an_answer_of_another_version_is_one_typed_error(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    calls: list[Callable[[], object]] = [
        client.models, lambda: client.submit("m", [1.0]), lambda: client.redrive("m"), lambda: list(client.jobs()),
        lambda: client.predict("m", np.zeros((1, 1))),
    ]  # fmt: skip
    client._known._specs[("m", "")] = ((nobat.TensorSpec("x", "FP32", (-1, 1)),), ())
    for body in (b'{"models": [7], "jobs": [7], "outputs": [7]}', b'{"outputs": 7, "jobs": [{"id": 3}], "models": [{}]}'):
        for call in calls:
            fake.replies = [(200, {}, body)]
            with pytest.raises(nobat.ProtocolError, match="another version"):
                call()


def test_map_outlives_a_restart_of_the_server(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    gone: list[Reply | None] = [None, None, refusal(503, "draining"), refusal(503, "no_worker")]
    output = {"name": "y", "datatype": "FP32", "shape": [3, 1], "data": [1.0, 2.0, 3.0]}
    answer = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
    fake.replies = [(200, {}, MODEL), (200, {}, CONFIG), *gone, (200, {}, answer)]
    answers = list(client.map("m", np.zeros((3, 1), dtype=np.float32)))
    assert [one["y"].tolist() for one in answers] == [[1.0], [2.0], [3.0]]
    assert len(fake.asked) == 7


def test_a_chunk_that_is_too_large_is_halved_and_a_line_that_is_too_long_waited_in(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")

    def answer(rows: int) -> Reply:
        output = {"name": "y", "datatype": "INT64", "shape": [rows], "data": list(range(rows))}
        return 200, {}, json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()

    page: Reply = (413, {}, b"<html>request entity too large</html>")
    fake.replies = [(200, {}, MODEL), (200, {}, CONFIG), page, refusal(504, "deadline_exceeded"), answer(2), answer(2)]
    answers = list(client.map("m", np.zeros((4, 1), dtype=np.float32), concurrency=1))
    assert [one["y"].item() for one in answers] == [0, 1, 0, 1]
    fake.replies = [refusal(504, "deadline_exceeded")]
    fake.replies.insert(0, (200, {}, CONFIG))
    with pytest.raises(nobat.DeadlineExceeded):
        list(client.map("m", np.zeros((4, 1), dtype=np.float32), deadline="1s"))


def test_a_failure_that_is_nobodys_own_is_told_of_every_input_of_the_chunk(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    fake.replies = [(200, {}, MODEL), (200, {}, CONFIG), refusal(429, "rate_limited", retry_after="7")]
    failures = list(client.map("m", np.zeros((3, 1), dtype=np.float32), on_error="yield"))
    assert [type(one) for one in failures] == [nobat.RateLimited] * 3
    assert [one.index for one in failures] == [0, 1, 2]


def test_a_connection_that_the_server_has_closed_is_not_used_again(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")
    closes: Reply = (200, {"connection": "close"}, MODEL)
    output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    answer = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
    fake.replies = [closes, (200, {}, answer), (200, {}, answer)]
    for _ in range(2):
        assert client.predict("m", np.zeros((1, 1)))["y"].tolist() == [[1.0]]
        fake.hang_up()


def test_silence_and_rubbish_are_told_apart(fake: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with nobat.Client(url, timeout=0.2) as client, pytest.raises(nobat.Timeout, match="did not answer in time"):
            client.models()

        def rubbish() -> None:
            while True:
                try:
                    connection, _ = silent.accept()
                except OSError:
                    return
                connection.sendall(b"220 mail.example.org ESMTP\r\n")
                connection.close()

        threading.Thread(target=rubbish, daemon=True).start()
        with nobat.Client(url, timeout=5) as client, pytest.raises(nobat.ProtocolError, match="does not speak HTTP"):
            client.models()
    with nobat.Client(fake.url, key="two\nlines") as client, pytest.raises(nobat.InvalidInput, match="cannot be sent"):
        client.models()


def test_what_cannot_be_sent_is_one_typed_error(fake: Fake, client: nobat.Client) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    takes = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}], "outputs": []}
    calls: list[tuple[str, Callable[[], object]]] = [
        ("cannot be written as JSON", lambda: client.submit("m", {("x",): [1.0]})),  # type: ignore[dict-item]
        ("cannot be written as JSON", lambda: client.submit("m", deep)),
        ("is no duration", lambda: client.submit("m", [1.0], deadline=float("inf"))),
        ("is no duration", lambda: client.submit("m", [1.0], delay="nan s")),
        ("priority is 256", lambda: client.submit("m", [1.0], priority=256)),
        ("priority is -1", lambda: client.submit("m", [1.0], priority=-1)),
        ("characters that no key has", lambda: nobat.Client(key="ключ")),
        ("url is", lambda: nobat.Client("http://[::1")),
    ]
    for told, call in calls:
        with pytest.raises(nobat.InvalidInput, match=told):
            call()
    assert fake.asked == []
    answer = {"id": "j", "model": "m", "version": "1", "outputs": [1.0]}
    gives = {**takes, "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]}
    fake.replies = [(200, {}, json.dumps(gives).encode()), (200, {}, json.dumps(answer).encode())]
    with pytest.raises(nobat.InvalidInput, match="no output 'z'; outputs: y"):
        client.predict("m", [1.0], outputs=["z"])


def test_a_model_that_takes_something_else_by_now_is_asked_again(fake: Fake, client: nobat.Client) -> None:
    np = pytest.importorskip("numpy")

    def takes(name: str, datatype: str) -> Reply:
        return 200, {}, json.dumps({"name": "m", "inputs": [{"name": name, "datatype": datatype, "shape": [-1]}]}).encode()

    for inputs in ({"new": np.zeros(1)}, np.array([300])):
        fake.replies = [takes("old", "INT8"), takes("new", "INT64"), (202, {}, JOB)]
        with pytest.raises(nobat.InvalidInput):
            client.submit("m", inputs)
        assert client.submit("m", {"new": np.array([300])}).id == "j"
        client._known.forget("m")


def test_no_time_to_wait_is_time_that_is_up() -> None:
    np = pytest.importorskip("numpy")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with nobat.Client(f"http://127.0.0.1:{silent.getsockname()[1]}") as waiting:
            waiting._known._specs[("m", "")] = ((nobat.TensorSpec("x", "FP32", (-1,)),), ())
            for timeout in (0, -1):
                with pytest.raises(nobat.Timeout):
                    waiting.predict("m", np.zeros(1), timeout=timeout)


def test_calls_that_have_no_connection_yet_wait_in_a_line_of_the_client_s_own() -> None:
    inside = most = 0

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
            return httpx.Response(200, content=JOB)

    async def ask() -> None:
        limits = httpx.Limits(max_connections=4)
        async with nobat.AsyncClient("http://127.0.0.1:1", transport=Transport(), limits=limits) as client:
            jobs = await asyncio.gather(*(client.job("j") for _ in range(30)))
            assert [job.id for job in jobs] == ["j"] * 30
            gone = [asyncio.create_task(client.job("j")) for _ in range(30)]
            await asyncio.sleep(0)
            for task in gone[::2]:
                task.cancel()
            ended = await asyncio.gather(*gone, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in ended] == [True, False] * 15
            assert (await client.job("j")).id == "j"

    asyncio.run(ask())
    assert most == 4


def test_a_key_is_shown_and_never_printed(fake: Fake) -> None:
    with nobat.Client(fake.url, key="secret") as client:
        fake.replies = [refusal(401, "unauthenticated")]
        with pytest.raises(nobat.AuthenticationError) as refused:
            client.models()
    assert fake.asked[0][2]["authorization"] == "Bearer secret"
    assert "secret" not in str(refused.value) + repr(client)


@pytest.mark.parametrize(
    ("error", "sent", "keyed", "again"),
    [
        (nobat.TransportError("x"), False, False, True),
        (nobat.TransportError("x"), True, True, True),
        (nobat.TransportError("x"), True, False, False),
        (nobat.Timeout("x"), True, True, False),
        (nobat.ProtocolError("x"), True, True, False),
        (nobat.Unavailable("x", status=503), True, False, True),
        (nobat.RateLimited("x", status=429), True, True, False),
    ],
)
def test_what_is_made_again(error: nobat.NobatError, sent: bool, keyed: bool, again: bool) -> None:
    decide: Callable[[int], float | None] = lambda tried: Retry().pause(tried, error, sent=sent, keyed=keyed)
    assert (decide(1) is not None) is again
    assert decide(3) is None

"""Real servers for the tests: `nobat serve` on each store, ended with them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import nobat

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A server on a free port, with the demo model."""

    def __init__(self, folder: str, *arguments: str) -> None:
        binary = os.environ.get("NOBAT_BIN", str(ROOT / "target/debug/nobat"))
        command = [
            binary, "serve", "--models", str(ROOT / "models"), "--listen", "127.0.0.1:0",
            "--grpc", "", "--metrics", "", *arguments,
        ]  # fmt: skip
        environment = {"NOBAT_ORT_LIB": str(ROOT / ".nobat/lib/libonnxruntime.so"), "NOBAT_LOG_DIR": folder, **os.environ}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=folder
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            found = re.search(r"http\s+(http://\S+)", line)
            if found:
                self.url = found.group(1)
                break
        else:
            raise AssertionError(f"the server did not start: {said}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Redis:
    """A Redis of the tests' own."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                assert time.monotonic() < end, "Redis did not start"
                time.sleep(0.01)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session", params=["embedded", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(folder) if request.param == "redis" else None
        running = Server(folder, *(["--redis", redis.url] if redis else ["--data", folder]))
        yield running
        running.stop()
        if redis:
            redis.stop()


@pytest.fixture
def client(server: Server) -> Iterator[nobat.Client]:
    with nobat.Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def digit() -> list[float]:
    """A handwritten seven."""
    example = json.loads((ROOT / "models/digits/example.json").read_text())
    row: list[float] = example["instances"][0]
    return row


@pytest.fixture(scope="session")
def golden() -> tuple[list[list[float]], list[int]]:
    """64 handwritten digits, and what the model takes them for."""
    golden = json.loads((ROOT / "models/digits/golden.json").read_text())
    pixels = golden["inputs"][0]["data"]
    labels = next(output["data"] for output in golden["outputs"] if output["name"] == "label")
    return [pixels[at : at + 64] for at in range(0, len(pixels), 64)], labels

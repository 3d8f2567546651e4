"""A real server for the tests: `nobat serve` on the embedded queue, ended with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
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
            binary, "serve", "--models", str(ROOT / "models"), "--data", folder, "--listen", "127.0.0.1:0",
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


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        running = Server(folder)
        yield running
        running.stop()


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

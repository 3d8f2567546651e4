"""One `nobat serve` for the whole run: small models, an embedded queue, free ports.

NOBAT_BIN names the binary; `scripts/check_clients` builds it and sets it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "crates" / "nobat-worker" / "tests" / "models"
PLAIN = ("two_by_two", "optional_input", "fails_on_marked_row", "fixed_batch", "slow", "named_bytes")
START_LIMIT_S = 60


@dataclass(frozen=True)
class Server:
    """Where the server listens, as `host:port`, and its model folder."""

    http: str
    grpc: str
    models: pathlib.Path

    @property
    def url(self):
        return f"http://{self.http}"


def lay_out(folder):
    """A repository in the forms the server takes: files, version folders, settings."""
    folder.mkdir()
    for file in [*MODELS.glob("identity_*.onnx"), *(MODELS / f"{name}.onnx" for name in PLAIN)]:
        shutil.copy(file, folder)
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    names = '", "'.join("zero one two three four five six seven eight nine".split())
    (folder / "digits" / "model.toml").write_text(
        f'[settings]\nclass_labels = {{ probabilities = ["{names}"] }}\n'
    )
    # Version 1 repeats its input, version 2 changes its sign.
    for version, model in (("1", "identity_fp32"), ("2", "fixed_batch")):
        (folder / "versioned" / version).mkdir(parents=True)
        shutil.copy(MODELS / f"{model}.onnx", folder / "versioned" / version / "model.onnx")
    (folder / "versioned" / "model.toml").write_text('versions = "all"\nlabels = { stable = 1, canary = 2 }\n')


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nobat")
    models = folder / "models"
    lay_out(models)
    command = [os.environ["NOBAT_BIN"], "serve", "--models", models, "--data", folder / "data"]
    command += ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", ""]
    log = open(folder / "server.log", "wb")
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    watchdog = threading.Timer(START_LIMIT_S, process.kill)
    watchdog.start()
    welcome = ""
    try:
        for line in process.stdout:
            welcome += line
            found = dict(re.findall(r"^  (http|grpc)\s+(?:http://)?(\S+)", welcome, re.MULTILINE))
            if len(found) == 2:
                break
        else:
            log.flush()
            raise RuntimeError(f"the server did not start: {welcome}\n{(folder / 'server.log').read_text()}")
        watchdog.cancel()
        yield Server(found["http"], found["grpc"], models)
    finally:
        watchdog.cancel()
        process.terminate()
        assert process.wait(timeout=60) == 0, "the server did not drain"

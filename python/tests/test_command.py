"""``python -m nobat`` in environments of every kind: what it starts, and what it says."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nobat
from conftest import ROOT
from nobat import _command

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("NOBAT_", "ORT_", "PYTHON"))}


class Prefix:
    """A folder as `pip install --prefix` leaves it; its binary prints what it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "lib/python3/site-packages"
        shutil.copytree(ROOT / "python/nobat", self.packages / "nobat", ignore=shutil.ignore_patterns("__pycache__"))
        self.binary = folder / "bin/nobat"
        self.binary.parent.mkdir()
        self.binary.write_text('#!/bin/sh\necho "$NOBAT_ORT_LIB|$LD_LIBRARY_PATH|$*"\nexit 3\n')
        self.binary.chmod(0o755)

    def install(self, name: str, version: str, *files: str) -> None:
        told = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (told / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            path = self.packages / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nobat", *arguments], capture_output=True, text=True, cwd=self.folder, timeout=60,
            env={**ENVIRONMENT, "PYTHONPATH": str(self.packages), **environment},
        )  # fmt: skip

    def refused(self, *arguments: str, **environment: str) -> str:
        said = self.run(*arguments, **environment)
        assert said.returncode == 1 and said.stdout == "" and said.stderr.count("\n") == 1, said
        assert said.stderr.startswith("nobat: ")
        return said.stderr


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return Prefix(tmp_path)


CAPI = "onnxruntime/capi"


def test_the_binary_is_given_its_arguments_and_the_environment_s_runtime(prefix: Prefix) -> None:
    files = [f"{CAPI}/libonnxruntime_providers_shared.so", f"{CAPI}/libonnxruntime.so.1.31.0"]
    prefix.install("onnxruntime", "1.31.0", *files)
    said = prefix.run("serve", "m.onnx", "--port", "0")
    assert said.returncode == 3
    assert said.stdout == f"{prefix.packages / files[1]}||serve m.onnx --port 0\n"
    chosen = prefix.run("serve", NOBAT_ORT_LIB="/mine")
    assert chosen.stdout == "/mine||serve\n"


def test_without_a_runtime_only_what_needs_none_is_started(prefix: Prefix) -> None:
    assert prefix.run("predict", "digits").stdout == "||predict digits\n"
    assert "pip install 'onnxruntime>=1.24.1'" in prefix.refused("serve", "m.onnx")


def test_a_runtime_that_is_too_old_or_broken_is_told(prefix: Prefix) -> None:
    prefix.install("onnxruntime", "1.20.1", f"{CAPI}/libonnxruntime.so.1.20.1")
    assert "onnxruntime 1.20.1 is too old" in prefix.refused("worker")
    shutil.rmtree(next(prefix.packages.glob("*.dist-info")))
    prefix.install("onnxruntime", "1.32.0")
    assert "--force-reinstall onnxruntime" in prefix.refused("serve")


def test_a_gpu_without_what_it_takes_is_told(prefix: Prefix) -> None:
    prefix.install("onnxruntime", "1.31.0", f"{CAPI}/libonnxruntime.so.1.31.0")
    assert "needs onnxruntime-gpu" in prefix.refused("serve", "--provider", "cuda")
    prefix.install("onnxruntime-gpu", "1.31.1", f"{CAPI}/libonnxruntime.so.1.31.1", f"{CAPI}/libonnxruntime_providers_cuda.so")
    assert "overwrite each other" in prefix.refused("worker", NOBAT_PROVIDER="cuda")
    assert prefix.run("serve").returncode == 3
    shutil.rmtree(next(prefix.packages.glob("onnxruntime-1*")))
    assert "finds no CUDA" in prefix.refused("serve", "--provider=cuda")
    (prefix.packages / "nvidia/cudnn/lib").mkdir(parents=True)
    # Any library that can be loaded will do for what the check does.
    loadable = Path(next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line))
    shutil.copy(loadable, prefix.packages / CAPI / "libonnxruntime_providers_cuda.so")
    assert f"|{prefix.packages}/nvidia/cudnn/lib|" in prefix.run("serve", "--provider=cuda").stdout


def test_a_package_without_its_binary_says_so(prefix: Prefix) -> None:
    prefix.binary.unlink()
    assert "install the wheel again" in prefix.refused("--version")
    prefix.binary.write_text("no program\n")
    assert "cannot be run (Permission denied)" in prefix.refused("--version")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("libc_ver", ("", ""), "musl"),
        ("libc_ver", ("glibc", "2.17"), "2.28 or later, this system has 2.17"),
        ("machine", "armv7l", "no wheel for armv7l"),
        ("system", "FreeBSD", "no wheel for FreeBSD"),
    ],
)
def test_systems_without_a_wheel_are_told(monkeypatch: pytest.MonkeyPatch, name: str, value: object, told: str) -> None:
    assert _command.system() is None
    monkeypatch.setattr(platform, name, lambda: value)
    assert told in str(_command.system())
    monkeypatch.undo()
    monkeypatch.setattr(sys, "maxsize", (1 << 31) - 1)
    assert "32 bits" in str(_command.system())


def test_what_the_demo_prints_runs(tmp_path: Path) -> None:
    environment = {
        **ENVIRONMENT, "NOBAT_ORT_LIB": str(ROOT / ".nobat/lib/libonnxruntime.so"), "PYTHONPATH": str(ROOT / "python"),
    }  # fmt: skip
    binary = os.environ.get("NOBAT_BIN", str(ROOT / "target/debug/nobat"))
    command = [binary, "demo", "--port", "0", "--grpc", "", "--metrics", ""]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=tmp_path
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("Model, queue and log are in"):
                break
        at = lines.index("import json, nobat")
        code = "\n".join(lines[at : at + 3])
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
        assert said.stdout == "[7]\n", f"{code}\n{said.stderr}"
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_package_has_the_server_s_version() -> None:
    told = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert told is not None and told.group(1) == nobat.__version__

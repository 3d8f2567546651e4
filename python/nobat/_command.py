"""``python -m nobat``: becomes the binary that the wheel installed.

The binary finds ONNX Runtime beside itself in most environments; from here it is told where
the environment's own is, wherever that was installed, and what cannot work is said first.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

#: The commands that load models.
RUNS_MODELS = frozenset({"serve", "worker", "demo"})
OLDEST_RUNTIME = (1, 24, 1)
OLDEST_GLIBC = (2, 28)
MACHINES = frozenset({"x86_64", "aarch64"})
LIBRARY = re.compile(r"onnxruntime/capi/libonnxruntime(\.so(\.\d+)*|(\.\d+)*\.dylib)$")
GPU_RECIPE = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"


class Unusable(Exception):
    """Why the command cannot run, and what to do."""


def main() -> NoReturn:
    """Runs ``nobat`` with this process's arguments; never returns."""
    arguments = sys.argv[1:]
    try:
        binary = find_binary()
        environment = dict(os.environ)
        if not any(environment.get(name) for name in ("NOBAT_ORT_LIB", "ORT_DYLIB_PATH")):
            try:
                add_runtime(environment, wants_cuda(arguments, environment))
            except Unusable:
                if arguments and arguments[0] in RUNS_MODELS:
                    raise
        os.execve(binary, [str(binary), *arguments], environment)
    except Unusable as error:
        sys.exit(f"nobat: {error}")
    except OSError as error:
        sys.exit(f"nobat: {binary} cannot be run ({error.strerror}); {system() or 'install the wheel again'}")


def find_binary() -> Path:
    """Where pip, pipx or uv put the binary of this package."""
    searched = []
    for folder in _folders():
        binary = folder / "nobat"
        if binary.is_file():
            return binary
        searched.append(str(folder))
    raise Unusable(system() or f"the package is here, its command is not (looked in {', '.join(searched)}); install the wheel again")


def _folders() -> Iterator[Path]:
    package = Path(__file__).resolve().parent.parent
    folders = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", vars={"base": sys.base_prefix}),
        sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user")),
        # pip install --prefix, and --target.
        *(str(parent / "bin") for parent in (*package.parents[2:3], package)),
    ]
    yield from map(Path, dict.fromkeys(folders))


def system() -> str | None:
    """Why there is no wheel for this system, if so."""
    remedy = "use the container image, or build it from source"
    if platform.system() != "Linux":
        return f"there is no wheel for {platform.system()}; {remedy}"
    if sys.maxsize < 1 << 32 or platform.machine() not in MACHINES:
        bits = 32 if sys.maxsize < 1 << 32 else 64
        return f"there is no wheel for {platform.machine()} with {bits} bits, only for 64 bits of {' and '.join(sorted(MACHINES))}; {remedy}"
    name, version = platform.libc_ver()
    if name != "glibc":
        return f"the wheel needs glibc, and this Python uses another C library (musl, as on Alpine?); {remedy}"
    if _numbers(version) < OLDEST_GLIBC:
        return f"the wheel needs glibc 2.28 or later, this system has {version}; {remedy}"
    return None


def wants_cuda(arguments: Sequence[str], environment: dict[str, str]) -> bool:
    """Whether models are to run on a GPU."""
    asked = [*arguments, "", f"--provider={environment.get('NOBAT_PROVIDER', '')}"]
    return "--provider=cuda" in asked or ("--provider", "cuda") in zip(asked, asked[1:])


def add_runtime(environment: dict[str, str], cuda: bool) -> None:
    """Points the binary at this environment's ONNX Runtime."""
    installed = {}
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            installed[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    if not installed:
        raise Unusable("ONNX Runtime is not installed in this environment; run `pip install 'onnxruntime>=1.24.1'`")
    if cuda and len(installed) == 2:
        raise Unusable(f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; run `{GPU_RECIPE}`")
    name, package = installed.popitem()
    if _numbers(package.version) < OLDEST_RUNTIME:
        raise Unusable(f"{name} {package.version} is too old, nobat needs 1.24.1 or later; run `pip install -U {name}`")
    library = next((file for file in package.files or () if LIBRARY.search(file.as_posix())), None)
    if library is None or not (path := Path(str(package.locate_file(library))).resolve()).is_file():
        raise Unusable(f"{name} {package.version} has no libonnxruntime; run `pip install --force-reinstall {name}`")
    if cuda:
        _add_cuda(environment, name, path)
    environment["NOBAT_ORT_LIB"] = str(path)


def _add_cuda(environment: dict[str, str], name: str, library: Path) -> None:
    if name != "onnxruntime-gpu":
        raise Unusable(f"provider cuda needs onnxruntime-gpu, and this is {name}; run `{GPU_RECIPE}`")
    # CUDA's own wheels put its libraries where no loader looks.
    packages = library.parent.parent.parent
    folders = [str(folder) for folder in sorted(packages.glob("nvidia/*/lib"))]
    environment["LD_LIBRARY_PATH"] = ":".join([*folders, *filter(None, [environment.get("LD_LIBRARY_PATH")])])
    provider = library.with_name("libonnxruntime_providers_cuda.so")
    # In a process of its own: the loader reads the variable when a process starts.
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    loaded = subprocess.run([sys.executable, "-c", load, provider], env=environment, capture_output=True, text=True)
    if loaded.returncode != 0:
        reason = loaded.stderr.strip().rpartition("\n")[2].removeprefix("OSError: ")
        raise Unusable(f"onnxruntime-gpu finds no CUDA ({reason}); run `{GPU_RECIPE}`, or serve with --provider cpu")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])

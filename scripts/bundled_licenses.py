#!/usr/bin/env python3
"""Writes the licences of all that is linked into the binary `nobat` to a file, each text once.

    scripts/bundled_licenses.py FILE

Of `cargo metadata`: what nobat-cli depends on at run time, for the systems that the wheels are
for. A package that ships no text of its own is listed by its licence's name.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
TEXT = re.compile(r"(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)


def linked(target):
    """The packages that end in the binary, by their ids."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in told["packages"]}
    nodes = {node["id"]: node for node in told["resolve"]["nodes"]}
    found, todo = {}, [next(id for id, package in packages.items() if package["name"] == "nobat-cli")]
    while todo:
        id = todo.pop()
        # What only a build script or a macro runs is not in the binary.
        if id in found or any("proc-macro" in kind for target in packages[id]["targets"] for kind in target["kind"]):
            continue
        found[id] = packages[id]
        todo += [dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return found


def texts(package):
    folder = Path(package["manifest_path"]).parent
    named = [folder / package["license_file"]] if package.get("license_file") else []
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and TEXT.search(path.name)]
    return [path.read_text(errors="replace").strip() for path in dict.fromkeys([*named, *files]) if path.is_file()]


def main():
    packages = {id: package for target in TARGETS for id, package in linked(target).items()}
    outside = sorted((package for package in packages.values() if package["source"]), key=lambda one: (one["name"], one["version"]))
    used = {}
    for package in outside:
        for text in texts(package):
            used.setdefault(text, []).append(f"{package['name']} {package['version']}")
    lines = ["What is linked into the binary, and its licences.", ""]
    lines += [f"{one['name']} {one['version']}: {one['license'] or 'see its text'}, {one['repository'] or ''}".rstrip(", ") for one in outside]
    for text, users in used.items():
        lines += ["", "=" * 100, *sorted(users), "-" * 100, "", text]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
    silent = [one["name"] for one in outside if not texts(one)]
    print(f"bundled_licenses: {len(outside)} packages, {len(used)} texts; by name only: {', '.join(silent) or 'none'}")


if __name__ == "__main__":
    main()

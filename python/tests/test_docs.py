"""The examples of docs/PYTHON.md run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Server


def test_the_examples_of_the_page_run(server: Server, digit: list[float], tmp_path: Path) -> None:
    page = (ROOT / "docs/PYTHON.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    given = f"digit = {json.dumps(digit)}\nmany = [[digit]] * 20\n"
    for block in blocks:
        said = subprocess.run(
            [sys.executable, "-c", given + block],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "NOBAT_URL": server.url, "PYTHONPATH": str(ROOT / "python")},
        )
        assert said.returncode == 0, f"{block}\n{said.stderr}"

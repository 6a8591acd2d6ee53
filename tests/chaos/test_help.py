"""The tools that put a fabric under strain say how they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("tool", ["chaos", "chaos.kills", "strain.slow", "strain.soak"])
def test_help(tool: str) -> None:
    command = [sys.executable, "-m", f"tools.{tool}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")

"""The limit of the batch workloads: the same function called with full batches in one process, nothing around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .errors import NotRun

__all__ = ["bare_loop"]

_MODEL = Path(__file__).with_name("model.py")


def bare_loop(seconds: float) -> float:
    """Items a second."""
    try:
        answer = subprocess.run(
            [sys.executable, str(_MODEL), str(seconds)],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + 30.0,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotRun("the bare loop did not end") from None
    if answer.returncode != 0:
        raise NotRun(f"the bare loop failed: {answer.stderr.decode(errors='replace')[-300:]}")
    return float(answer.stdout)

"""Load generators run as processes of their own: JSON in, JSON out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .errors import NotRun

__all__ = ["run_child"]

_ROOT = Path(__file__).parents[1]


def run_child(
    module: str, plan: object, limit_s: float, command: Sequence[str] = (), folder: Path = _ROOT
) -> bytes:
    """What ``python -m MODULE`` (or *command*, in *folder*) prints when it is given *plan* as JSON.

    Raises NotRun when it fails."""
    try:
        answer = subprocess.run(
            command or [sys.executable, "-m", module],
            input=msgspec.json.encode(plan),
            capture_output=True,
            timeout=limit_s,
            cwd=folder,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NotRun(f"{module} did not end within {limit_s:.0f} s") from None
    if answer.returncode != 0:
        raise NotRun(f"{module} failed: {answer.stderr.decode(errors='replace')[-300:]}")
    return answer.stdout

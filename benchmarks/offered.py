"""Start the open-loop generator and read what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from .errors import NotRun
from .openloop import Outcome, Plan

__all__ = ["Offered", "offer"]

_ROOT = Path(__file__).parents[1]


class Offered:
    """The outcome of each stream, by name, and the generator's own share of one processor in percent."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.streams: dict[str, Outcome] = msgspec.convert(found["streams"], dict[str, Outcome])
        self.generator_cpu = float(found["generator_cpu"])


def offer(plan: Plan) -> Offered:
    """Raises NotRun when the generator fails."""
    limit_s = plan.seconds + plan.patience_s + 30.0
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.openloop"],
            input=msgspec.json.encode(plan),
            capture_output=True,
            timeout=limit_s,
            cwd=_ROOT,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NotRun(f"the open-loop generator did not end within {limit_s:.0f} s") from None
    if answer.returncode != 0:
        raise NotRun(f"the open-loop generator failed: {answer.stderr.decode(errors='replace')[-300:]}")
    return Offered(json.loads(answer.stdout))

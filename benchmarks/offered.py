"""Start the open-loop generator and read what it found."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .child import run_child
from .openloop import Outcome, Plan

__all__ = ["Offered", "offer"]


class Offered:
    """The outcome of each stream, by name, and the generator's own share of one processor in percent."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.streams: dict[str, Outcome] = msgspec.convert(found["streams"], dict[str, Outcome])
        self.generator_cpu = float(found["generator_cpu"])


def offer(plan: Plan) -> Offered:
    """Raises NotRun when the generator fails."""
    return Offered(json.loads(run_child("benchmarks.openloop", plan, plan.seconds + plan.patience_s + 30.0)))

"""What the config may be after writes of which some were not acknowledged."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tools.chaos.writer import ABSENT, Writer
from zserve.errors import FabricUnreachable


class Scripted:
    """Stands for a fabric: each call is acknowledged, lost or refused, as told."""

    def __init__(self) -> None:
        self.outcomes: list[Exception | None] = []
        self.routers = [type("Router", (), {"name": "router-0"})()]

    async def call(self, op: str, args: dict[str, Any], *, router: int = 0, timeout_s: float = 0.0) -> None:
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome


@pytest.mark.parametrize(
    ("outcomes", "possible"),
    [
        ("a", [1]),
        ("ab", [2]),
        ("aL", [2, 1]),
        ("aLc", [2, 3]),
        ("LL", [2, 1, ABSENT]),
        ("La", [1, 2]),
        ("aR", [1]),
    ],
)
def test_lost_writes_stay_possible_and_acknowledged_ones_replace_each_other(
    outcomes: str, possible: list[object]
) -> None:
    fabric = Scripted()
    writer = Writer(fabric, random.Random(0), lambda: False)  # type: ignore[arg-type]

    async def main() -> None:
        for value, letter in enumerate(outcomes, start=1):
            fabric.outcomes.append({"L": FabricUnreachable("gone"), "R": ValueError("no")}.get(letter))
            await writer._call(0, "set_traffic", "traffic of look", value)

    asyncio.run(main())
    assert writer.possible["traffic of look"] == possible
    refused = len(writer.unexpected)
    assert refused == outcomes.count("R")
    for value in possible:
        assert len(writer.check({"traffic of look": value})) == refused
    assert len(writer.check({"traffic of look": 99})) == refused + 1
    assert len(writer.check({"traffic of look": possible[-1], "endpoint new": "/new"})) == refused + 1

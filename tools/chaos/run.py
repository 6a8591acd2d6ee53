"""One run: a fabric, load, faults, changes of the config; then whether it all fits together."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zserve.errors import ServeError

from .errors import ChaosError
from .faults import Event, Faults
from .gaps import Gap, gaps_of
from .ledger import check, read_ledger
from .load import Load
from .nodes import Fabric, Life
from .plan import Roster, draw_plan
from .requests import Record, write_down
from .serving import serve_all
from .writer import Writer, config_of

__all__ = ["BACKENDS", "Outcome", "Setting", "chaos"]

SETTLED_S = 60.0
"""How long after the last fault everything may take to be as it was."""
BACKENDS = {"look": "look", "look:b": "look", "mark": "mark", "batch": "batch", "stream": "stream"}
_AFTER_FAULT_S = 10.0


@dataclass(frozen=True)
class Setting:
    """seconds: how long the load lasts.  rate: requests a second.  replicas: of each of the five backends.

    calm_s: from one fault to the next.
    """

    seed: int
    seconds: float
    rate: float
    replicas: int
    calm_s: float


@dataclass
class Outcome:
    """violations: what must never be.  over_bar: gaps that were longer than they may be.  Times: ``time.monotonic``."""

    setting: Setting
    begin_s: float
    end_s: float
    records: list[Record]
    runs: Counter[str]
    events: list[Event]
    gaps: list[Gap]
    violations: list[str] = field(default_factory=list)
    settled_s: float = 0.0
    held_up_s: float = 0.0
    writes: Counter[str] = field(default_factory=Counter)
    connect_failures: int = 0

    @property
    def over_bar(self) -> list[Gap]:
        return [gap for gap in self.gaps if gap.too_long]


async def chaos(folder: Path, setting: Setting, say: Callable[[str], None], tick: Callable[[str], None]) -> Outcome:
    """*say* is told what happens, *tick* once a second how it goes.  Raises ChaosError."""
    fabric = Fabric(folder, gateways=2, routers=2, workers=3)
    try:
        await fabric.start()
        await serve_all(fabric, BACKENDS, setting.replicas)
        await _settled(fabric, setting.replicas)
        outcome = await _run(fabric, setting, say, tick)
    finally:
        left = await fabric.close()
    if left:
        outcome.violations.append(f"{len(left)} processes were left behind: {left}")
    return outcome


async def _run(fabric: Fabric, setting: Setting, say: Callable[[str], None], tick: Callable[[str], None]) -> Outcome:
    seed, seconds = setting.seed, setting.seconds
    roster = Roster(*([node.name for node in nodes] for nodes in (fabric.gateways, fabric.routers, fabric.workers)))
    plan = draw_plan(seed, seconds, roster, setting.calm_s)
    load = Load(fabric.gateways, setting.rate, random.Random(f"load {seed}"), f"s{seed}")
    faults = Faults(fabric, say)
    writer = Writer(fabric, random.Random(f"writer {seed}"), lambda: faults.cut > 0)
    begin_s = time.monotonic()
    loading = asyncio.ensure_future(load.run())
    writing = asyncio.ensure_future(writer.run())
    ticking = asyncio.ensure_future(_tick(load, tick))
    try:
        await faults.run(plan, begin_s)
        await asyncio.sleep(max(0.0, begin_s + seconds - time.monotonic()))
        end_s = time.monotonic()
        load.stop()
        writer.stop()
        say("the load ends; all has to come to rest")
        await asyncio.gather(loading, writing)
        config, settled_s = await _settled(fabric, setting.replicas)
    finally:
        for task in (loading, writing, ticking):
            task.cancel()
    write_down(load.records, fabric.folder / "requests.csv")
    runs = read_ledger(fabric.ledger)
    held_up_s = max((lag for _, lag in load.lags), default=0.0)
    spans = [(event.begin_s, event.end_s + _AFTER_FAULT_S) for event in faults.events]
    violations = check(load.records, runs, _lives(fabric), faults=spans, held_up_s=held_up_s)
    violations += [f"bytes that nobody had asked for: {text}" for text in load.client.unasked]
    violations += writer.check(config)
    return Outcome(
        setting=setting,
        begin_s=begin_s,
        end_s=end_s,
        records=load.records,
        runs=runs,
        events=faults.events,
        gaps=gaps_of(faults.events, load.records, load.lags, end_s),
        violations=violations,
        settled_s=settled_s,
        held_up_s=held_up_s,
        writes=writer.counts,
        connect_failures=load.client.connect_failures,
    )


async def _tick(load: Load, tick: Callable[[str], None]) -> None:
    before = 0
    while True:
        await asyncio.sleep(1.0)
        tick(f"{load.answered} answers, {load.answered - before}/s")
        before = load.answered


def _lives(fabric: Fabric) -> dict[int, Life]:
    return {life.pid: life for gateway in fabric.gateways for life in gateway.lives}


async def _settled(fabric: Fabric, replicas: int) -> tuple[dict[str, Any], float]:
    """Wait until all is as it should be: what the config says then, and how long it took.  Raises ChaosError."""
    begin_s = time.monotonic()
    while True:
        try:
            why = [text async for text in _unsettled(fabric, replicas)]
            if not why:
                return await config_of(fabric, 0), time.monotonic() - begin_s
        except (ServeError, OSError, LookupError) as error:
            why = [repr(error)]
        if time.monotonic() - begin_s > SETTLED_S:
            tails = "\n".join(fabric.tail(node) for node in fabric.nodes.values())
            raise ChaosError(f"not as it was {SETTLED_S:g} s after the last fault: {'; '.join(why)}\n{tails}")
        await asyncio.sleep(0.2)


async def _unsettled(fabric: Fabric, replicas: int) -> AsyncIterator[str]:
    """What is not as it should be, in words."""
    config: dict[str, Any] = {}
    nodes = len(fabric.nodes)
    for number, router in enumerate(fabric.routers):
        status = await fabric.call("status", {}, router=number, timeout_s=5.0)
        seen = {node["name"] for node in status["nodes"] if node["role"] in ("gateway", "router", "worker")}
        if len(seen) != nodes:
            yield f"{router.name} sees {len(seen)} nodes of {nodes}"
        for text in _unsettled_replicas(status, replicas):
            yield f"{router.name}: {text}"
        found = await config_of(fabric, number)
        if config and config != found:
            yield "the routers do not hold the same config"
        config = found


def _unsettled_replicas(status: dict[str, Any], wanted: int) -> Iterator[str]:
    for name in BACKENDS:
        replicas = [one for one in status["replicas"] if one["backend"] == name]
        linked = [one for one in replicas if one["state"] == "ready" and one["linked"]]
        if len(linked) != wanted or len(replicas) != wanted:
            yield f"{len(linked)} of {wanted} replicas of {name} are linked, {len(replicas)} are there"
        counters = status["backends"][name]["counters"]
        if counters["queued"] or counters["in_flight"]:
            yield f"{name} has {counters['queued']} requests queued and {counters['in_flight']} in flight"

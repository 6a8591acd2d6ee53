"""Carries out a plan on a fabric, and notes when what was done and undone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .nodes import Fabric
from .plan import Fault
from .ways import Pair, pair

__all__ = ["Event", "Faults"]


@dataclass(slots=True)
class Event:
    """A fault that was made.  Times: ``time.monotonic``.  end_s: undone, and a node that was away is back."""

    fault: Fault
    what: str
    begin_s: float
    end_s: float = float("inf")


class Faults:
    """*say* is told what happens."""

    def __init__(self, fabric: Fabric, say: Callable[[str], None]) -> None:
        self.events: list[Event] = []
        self.cut = 0  # how many partitions and broken ways there are
        self._fabric = fabric
        self._say = say
        self._one_by_one = {name: asyncio.Lock() for name in fabric.nodes}

    async def run(self, plan: Sequence[Fault], begin_s: float) -> None:
        """The whole *plan*; *begin_s* is its moment zero."""
        running: set[asyncio.Future[None]] = set()
        for fault in plan:
            await _until(begin_s + fault.at_s, running)
            running.add(asyncio.ensure_future(self._make(fault, begin_s + fault.end_s)))
        await asyncio.gather(*running)

    async def _make(self, fault: Fault, until_s: float) -> None:
        kind = fault.kind
        if kind in ("kill replica", "stop replica"):
            await self._hit_replica(fault, until_s)
        elif kind in ("partition", "break"):
            await self._cut(fault, until_s)
        else:
            async with self._one_by_one[fault.targets[0]]:  # a slow machine may still be starting it
                await self._hit_node(fault, until_s)

    def _begin(self, fault: Fault, what: str) -> Event:
        event = Event(fault, what, time.monotonic())
        self.events.append(event)
        self._say(what)
        return event

    def _end(self, event: Event, what: str) -> None:
        event.end_s = time.monotonic()
        self._say(what)

    async def _hit_node(self, fault: Fault, until_s: float) -> None:
        node = self._fabric.nodes[fault.targets[0]]
        if fault.kind == "kill":
            event = self._begin(fault, f"kill -9 {node.name}")
            node.kill()
        elif fault.kind == "stop":
            event = self._begin(fault, f"stop {node.name}")
            node.stop()
        else:
            event = self._begin(fault, f"end {node.name} with SIGTERM")
            status = await node.leave()
            self._say(f"{node.name} has ended with status {status}")
        await asyncio.sleep(max(0.0, until_s - time.monotonic()))
        if fault.kind == "stop":
            node.go_on()
        else:
            await node.start()
        self._end(event, f"{node.name} {'goes on' if fault.kind == 'stop' else 'is back'}")

    async def _hit_replica(self, fault: Fault, until_s: float) -> None:
        replicas = await self._fabric.replicas()
        if not replicas:
            self._say(f"no replica to {fault.kind.split()[0]}: no router answers")
            return
        one = replicas[fault.which % len(replicas)]
        pid, name = one["pid"], f"replica {one['backend']}#{one['index']}"
        number = signal.SIGKILL if fault.kind == "kill replica" else signal.SIGSTOP
        event = self._begin(fault, f"{'kill -9' if number == signal.SIGKILL else 'stop'} {name} (process {pid})")
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if number == signal.SIGSTOP:
            await asyncio.sleep(max(0.0, until_s - time.monotonic()))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            self._say(f"{name} goes on")
        event.end_s = time.monotonic()

    async def _cut(self, fault: Fault, until_s: float) -> None:
        ways, names = self._fabric.ways, fault.targets
        self.cut += 1
        if fault.kind == "break":
            pairs: list[Pair] = [pair(*names)]
            event = self._begin(fault, f"break the connections between {' and '.join(names)}")
            ways.break_off(pairs)
        else:
            others = [name for name in self._fabric.nodes if name not in names]
            pairs = [pair(one, other) for one in names for other in others]
            event = self._begin(fault, f"cut {', '.join(names)} off from {', '.join(others)}")
            ways.silence(pairs)
        await asyncio.sleep(max(0.0, until_s - time.monotonic()))
        if fault.kind == "break":
            ways.mend(pairs)
        else:
            ways.hear(pairs)
        self.cut -= 1
        self._end(event, f"the way between {' and '.join(names)} is whole" if fault.kind == "break" else "healed")


async def _until(moment_s: float, running: set[asyncio.Future[None]]) -> None:
    """Sleep; if something of *running* fails meanwhile, that is raised at once."""
    while (left_s := moment_s - time.monotonic()) > 0.0:
        if not running:
            await asyncio.sleep(left_s)
            continue
        done, _ = await asyncio.wait(running, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        running -= done
        for made in done:
            made.result()

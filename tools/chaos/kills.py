"""Replicas killed with -9 all the time: ``make kills``, or ``python -m tools.chaos.kills [--kills 1000]``.

GET and POST requests without a pause, and after every so many of them one replica is killed.  Every GET has to be
answered with 200; every POST with 200, or with a 502 that says that it may have run; none may run twice.

Exit status 0: so it is; 1: it is not; 2: bad usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Client
from .errors import ChaosError
from .ledger import check, read_ledger
from .nodes import Fabric
from .requests import KINDS, Record, write_down
from .running import whole_run
from .serving import serve_all

__all__ = ["Killing", "Setting", "kill_replicas"]

CLIENTS = 16
READY_S = 120.0
"""How long there may be too few replicas to kill another one."""
_GET, _POST = (next(kind for kind in KINDS if kind.name == name) for name in ("look", "mark"))


@dataclass(frozen=True)
class Setting:
    """How many kills during how many requests, and of how many replicas (half of them GET, half of them POST)."""

    kills: int
    requests: int
    replicas: int
    seed: int


@dataclass
class Killing:
    """answers: by kind of request and status.  slowest_s: the longest that an answer took, by kind."""

    setting: Setting
    seconds: float = 0.0
    kills: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    run_twice: int = 0
    gets_run_again: int = 0
    violations: list[str] = field(default_factory=list)


async def kill_replicas(
    folder: Path, setting: Setting, say: Callable[[str], None], tick: Callable[[str], None]
) -> Killing:
    """*say* and *tick* as for :func:`chaos`; *tick* once for each kill.  Raises ChaosError."""
    fabric = Fabric(folder, gateways=1, routers=2, workers=2)
    try:
        await fabric.start()
        await serve_all(fabric, {"look": "look", "mark": "mark"}, setting.replicas // 2)
        say(f"{setting.replicas} replicas are up")
        found = await _Run(fabric, setting, tick).run()
    finally:
        left = await fabric.close()
    if left:
        found.violations.append(f"{len(left)} processes were left behind: {left}")
    return found


class _Run:
    def __init__(self, fabric: Fabric, setting: Setting, tick: Callable[[str], None]) -> None:
        self.records: list[Record] = []
        self._fabric = fabric
        self._setting = setting
        self._tick = tick
        self._client = Client(fabric.gateways)
        self._rng = random.Random(f"kills {setting.seed}")
        self._salt = f"k{setting.seed}"
        self._allowed = asyncio.Condition()
        self._killed = 0
        self._since: dict[int, float] = {}

    async def run(self) -> Killing:
        begin_s = time.monotonic()
        asking = [asyncio.ensure_future(self._ask()) for _ in range(CLIENTS)]
        try:
            await self._kill()
            await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()
        found = Killing(self._setting, time.monotonic() - begin_s, self._killed)
        self._judge(found)
        write_down(self.records, self._fabric.folder / "requests.csv")
        self._client.close()
        return found

    def _bound(self) -> int:
        """Up to which request the clients may go: the kills are spread over all of them."""
        setting = self._setting
        return setting.requests * (self._killed + 1) // (setting.kills + 1)

    async def _ask(self) -> None:
        while len(self.records) < self._setting.requests:
            if len(self.records) >= self._bound():
                async with self._allowed:
                    await self._allowed.wait_for(lambda: len(self.records) < self._bound())
                continue
            kind = _GET if self._rng.random() < 0.5 else _POST
            record = Record(f"{self._salt}-{len(self.records)}", kind, 30.0)
            self.records.append(record)
            await self._client.ask(record)

    async def _kill(self) -> None:
        for number in range(self._setting.kills):
            pid = await self._victim()
            wanted = self._setting.requests * (number + 1) // (self._setting.kills + 1)
            while len(self.records) < wanted:
                await asyncio.sleep(0.001)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            async with self._allowed:
                self._killed += 1
                self._allowed.notify_all()
            self._tick(f"{len(self.records)} requests")

    async def _victim(self) -> int:
        """One that has run for long, while half of its backend are up: what dies young is started ever later, and this
        is about requests, not about that."""
        end_s = time.monotonic() + READY_S
        while True:
            replicas = await self._fabric.replicas()
            now = time.monotonic()
            self._since = {one["pid"]: self._since.get(one["pid"], now) for one in replicas}
            ready = Counter(one["backend"] for one in replicas if one["linked"])
            for one in sorted(replicas, key=lambda one: self._since[one["pid"]]):
                if ready[one["backend"]] > self._setting.replicas // 4:
                    pid: int = one["pid"]
                    return pid
            if now > end_s:
                tails = "\n".join(self._fabric.tail(node) for node in self._fabric.workers)
                raise ChaosError(f"after {self._killed} kills no more than {dict(ready)} are ready\n{tails}")
            await asyncio.sleep(0.05)

    def _judge(self, found: Killing) -> None:
        runs = read_ledger(self._fabric.ledger)
        lives = {life.pid: life for gateway in self._fabric.gateways for life in gateway.lives}
        found.violations += check(self.records, runs, lives)
        found.violations += [f"bytes that nobody had asked for: {text}" for text in self._client.unasked]
        for record in self.records:
            method = record.kind.method
            found.answers[f"{method} {record.status}"] += 1
            took_s = record.ended_s - record.sent_s
            found.slowest_s[method] = max(found.slowest_s.get(method, 0.0), took_s)
            honest = method == "POST" and record.status == 502 and "may have run" in record.text
            if record.status != 200 and not honest:
                found.violations.append(f"{method} {record.key}: {record.status} {record.text!r} {record.trouble}")
        found.run_twice = sum(runs[record.key] > 1 for record in self.records if record.kind.once)
        found.gets_run_again = sum(runs[record.key] > 1 for record in self.records if not record.kind.once)


def _text(found: Killing) -> str:
    answers = ", ".join(f"{count} x {what}" for what, count in sorted(found.answers.items()))
    slowest = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in sorted(found.slowest_s.items()))
    lines = [
        f"{found.kills} replicas killed during {sum(found.answers.values())} requests in {found.seconds:.0f} s",
        f"answers: {answers}; the slowest: {slowest}",
        f"{found.run_twice} POST requests ran twice; {found.gets_run_again} GET requests were run again",
    ]
    lines += [f"VIOLATION: {text}" for text in found.violations[:20]]
    return "\n".join([*lines, "no violation"] if not found.violations else lines)


def _data(found: Killing) -> dict[str, Any]:
    return {
        "seed": found.setting.seed,
        "kills": found.kills,
        "requests": sum(found.answers.values()),
        "seconds": round(found.seconds, 1),
        "answers": dict(sorted(found.answers.items())),
        "slowest_s": {method: round(seconds, 3) for method, seconds in found.slowest_s.items()},
        "run_twice": found.run_twice,
        "gets_run_again": found.gets_run_again,
        "violations": found.violations,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos.kills", description="kill -9 of replicas under load.")
    parser.add_argument("--kills", type=int, default=1000, help="how many replicas are killed (1000)")
    parser.add_argument("--requests", type=int, default=200_000, help="during how many requests (200000)")
    parser.add_argument("--replicas", type=int, default=40, help="how many there are (40)")
    parser.add_argument("--seed", type=int, default=1, help="which requests are POST (1)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on standard output")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="keep logs, ledgers and requests there")
    given = parser.parse_args()
    if given.kills < 1 or given.requests <= given.kills or given.replicas < 4:
        parser.error("--kills is 1 at the least, --requests more than that, --replicas 4 at the least")
    setting = Setting(given.kills, given.requests, given.replicas, given.seed)
    found = whole_run(
        "kills",
        given.kills,
        given.keep_logs,
        lambda folder, say, tick: kill_replicas(folder, setting, say, tick),
    )
    if found is None:
        return 1
    print(json.dumps(_data(found), indent=2) if given.json else _text(found))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())

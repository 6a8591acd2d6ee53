"""Requests at the moments that the seed says, whether earlier ones have been answered or not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from .client import Client
from .nodes import Node
from .requests import Record, draw

__all__ = ["Load"]

_LAG_S = 0.1


class Load:
    """*rate* requests a second through all *gateways*, until :meth:`stop`.

    lags: when and for how long (over 0.1 s) this process did not get to run, which makes everything look slower.
    """

    def __init__(self, gateways: Sequence[Node], rate: float, rng: random.Random, salt: str) -> None:
        self.client = Client(gateways)
        self.records: list[Record] = []
        self.lags: list[tuple[float, float]] = []
        self._rate = rate
        self._rng = rng
        self._salt = salt
        self._open: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def run(self) -> None:
        """Ask until stopped; then return once the last request has its answer."""
        due = time.monotonic()
        while not self._stopped:
            due += self._rng.expovariate(self._rate)
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            else:
                if now - due > _LAG_S:
                    self.lags.append((now, now - due))
                    due = now  # what could not be sent in time is not sent in a burst
                await asyncio.sleep(0)
            record = draw(self._rng, len(self.records), self._salt)
            self.records.append(record)
            task = asyncio.ensure_future(self.client.ask(record))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        while self._open:
            await asyncio.wait(self._open)
        self.client.close()

    @property
    def answered(self) -> int:
        return len(self.records) - len(self._open)

    def stop(self) -> None:
        self._stopped = True

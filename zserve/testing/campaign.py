"""Many seeds over several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import msgspec

from .simulate import Outcome, Scenario, simulate

__all__ = ["Totals", "command_of", "run_seeds"]

_CHUNK = 8


def run_seeds(
    seeds: Iterable[int], scenario: Scenario | None = None, *, processes: int = 0
) -> Iterator[Outcome]:
    """The outcome of each seed, as they are done.  *processes*: 0 for one a processor; 1 runs them in this one."""
    scenario = scenario or Scenario()
    waiting = iter(seeds)
    count = processes or os.cpu_count() or 1
    if count == 1:
        for seed in waiting:
            yield simulate(seed, scenario)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        running: set[Future[list[Outcome]]] = set()
        try:
            while True:
                while len(running) < 2 * count:
                    chunk = list(itertools.islice(waiting, _CHUNK))
                    if not chunk:
                        break
                    running.add(pool.submit(_run_chunk, chunk, scenario))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with(parent: int) -> None:
    """In a process of the pool: nothing is left behind when the one that started it is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="zserve-parent", daemon=True).start()


def _run_chunk(seeds: Sequence[int], scenario: Scenario) -> list[Outcome]:
    return [simulate(seed, scenario) for seed in seeds]


def command_of(seed: int, scenario: Scenario) -> str:
    """What reproduces a run, for people."""
    default = Scenario()
    options = []
    for name in ("faults", "routers", "gateways", "workers", "seconds"):
        value = getattr(scenario, name)
        if value != getattr(default, name):
            options.append(f" --{name} {value}")
    return f"tools/simulate --seed {seed}{''.join(options)}"


class Totals(msgspec.Struct):
    """Sums over many outcomes; slowest_* are seconds of virtual time."""

    seeds: int = 0
    failed: list[int] = []
    requests: int = 0
    runs: int = 0
    writes: int = 0
    messages: int = 0
    virtual_s: float = 0.0
    slowest_converged_s: float = 0.0
    slowest_placed_s: float = 0.0
    answers: dict[int, int] = {}

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        if not outcome.ok:
            self.failed.append(outcome.seed)
        self.requests += outcome.requests
        self.runs += outcome.runs
        self.writes += outcome.writes
        self.messages += outcome.messages
        self.virtual_s += outcome.virtual_s
        self.slowest_converged_s = max(self.slowest_converged_s, outcome.converged_s)
        self.slowest_placed_s = max(self.slowest_placed_s, outcome.placed_s)
        for status, count in outcome.answers.items():
            self.answers[status] = self.answers.get(status, 0) + count

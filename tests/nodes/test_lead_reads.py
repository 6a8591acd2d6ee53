"""However much there is to run, the handler's thread reads its sockets in between."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

import pytest

from nodes import lead as module
from nodes.lead import Lead
from zserve.cores.shortcuts import UNTOLD_S
from zserve.handler.runs import Run
from zserve.scheduling.credits import AHEAD_S

from ..handler.samples import run_of

RUN_S = 0.6 * AHEAD_S
RUNS = 10


class Site:
    """Hub, core, executor and loop in one, and a clock that only runs in user code."""

    def __init__(self) -> None:
        self.now = 1.0
        self.run_s = RUN_S
        self.descriptors = os.pipe()
        self.read_after: list[int] = []
        self.ran: list[Run] = []
        self.answered = 0
        self.reported: list[Any] = []
        self.runs = [run_of() for _ in range(RUNS)]
        self.waiting = [run_of() for _ in range(RUNS)]  # in the core, until there is room for them
        self.quick, self.busy, self.due = True, False, False
        self.threads, self.jobs = 1, deque[Any]()
        self.untold = False
        self.told = self.poked = 0
        self.lead = Lead(self, self, self, self, RLock(), busy_poll=False)  # type: ignore[arg-type]

    # the hub
    def lend(self, what: Callable[[], None] | None = None) -> list[int]:
        if what is not None:
            self.jobs.append(what)
        return [self.descriptors[0]]

    def read(self, ready: set[int]) -> bool:
        self.read_after.append(len(self.ran))
        return True

    def tell(self, event: Callable[..., None], *arguments: Any) -> None:
        event(*arguments)

    def take_back(self) -> None: ...

    def poke(self) -> None:
        self.poked += 1

    # the core
    def answer(self, done: list[Any], now: float) -> None:
        self.answered += len(done)

    def account(self, now: float, *, patient: bool) -> None:
        assert patient
        if self.waiting:
            self.runs.append(self.waiting.pop())
        if self.answered == 2 * RUNS:
            self.lead.end()

    def tell_routers(self, now: float) -> None:
        self.told += 1
        self.untold = False

    # the executor
    def execute(self, run: Run, on_stream: object) -> list[Any]:
        run.started = self.now
        self.now += self.run_s
        run.ended = self.now
        self.ran.append(run)
        return []

    def report(self, done: list[Any]) -> None:
        self.reported += done


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setattr(module, "monotonic", lambda: site.now)
    yield site
    site.lead.close()
    for descriptor in site.descriptors:
        os.close(descriptor)


def test_it_reads_every_two_milliseconds(site: Site) -> None:
    site.lead.offer()
    site.jobs.popleft()()
    assert site.read_after == list(range(0, 2 * RUNS, 2))
    assert len(set(site.ran)) == site.answered == 2 * RUNS


def test_what_it_had_when_the_lead_ended_is_run(site: Site) -> None:
    read = site.read

    def read_and_end(ready: set[int]) -> bool:
        if len(site.ran) == 4:
            site.lead.end()
        return read(ready)

    site.read = read_and_end  # type: ignore[method-assign]
    site.lead.offer()
    site.jobs.popleft()()
    assert site.read_after == [0, 2, 4]
    assert site.answered == 4
    assert [run for run, _ in site.reported] == site.ran[4:]
    assert len(site.reported) == RUNS, "those given to it, and no more"


@pytest.mark.parametrize(("count", "awake"), [(0, True), (1, True), (8, True), (9, False), (32, False)])
def test_after_a_crowd_it_sleeps_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, count: int, awake: bool
) -> None:
    told: list[bool] = []

    def wait(poll: object, policy: object, *, awake: bool, **rest: object) -> list[tuple[int, int]]:
        told.append(awake)
        site.lead.end()
        return []

    monkeypatch.setattr(module, "wait", wait)
    site.runs, site.waiting, site.run_s = [run_of() for _ in range(count)], [], 1e-6
    site.lead.offer()
    site.jobs.popleft()()
    assert told == [awake]
    assert site.answered == count


def answer_one(site: Site, monkeypatch: pytest.MonkeyPatch, wait: Callable[..., list[tuple[int, int]]]) -> None:
    """Lead for one run, whose answer the routers do not know of; *wait* in place of that of the module."""
    monkeypatch.setattr(module, "wait", wait)
    site.runs, site.waiting, site.untold = [run_of()], [], True
    site.lead.offer()
    site.jobs.popleft()()


def test_routers_are_told_of_answers_when_nothing_more_comes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[float, bool]] = []

    def wait(
        poll: object, policy: object, *, awake: bool, after_s: float, meanwhile: Callable[[], bool] | None
    ) -> list[tuple[int, int]]:
        waits.append((after_s, meanwhile is not None))
        if meanwhile is not None:
            assert not meanwhile()
        else:
            site.lead.end()
        return []

    answer_one(site, monkeypatch, wait)
    assert waits == [(UNTOLD_S, True), (UNTOLD_S, False)]
    assert site.told == 1


def test_what_comes_as_routers_are_told_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending looks at the socket, and takes the descriptor's signal away with that."""
    heard: list[bool] = []
    told = site.tell_routers

    def tell_routers(now: float) -> None:
        told(now)
        site.due = True

    def wait(
        poll: object, policy: object, *, meanwhile: Callable[[], bool] | None, **rest: object
    ) -> list[tuple[int, int]]:
        assert meanwhile is not None
        heard.append(meanwhile())
        return []

    def read_and_end(ready: set[int]) -> bool:
        if site.due:
            site.read_after.append(-1)
            site.lead.end()
        return True

    site.tell_routers, site.read = tell_routers, read_and_end  # type: ignore[method-assign]
    answer_one(site, monkeypatch, wait)
    assert heard == [True]
    assert site.read_after == [-1]


def test_whoever_ends_the_lead_tells_the_routers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(poll: object, policy: object, **rest: object) -> list[tuple[int, int]]:
        site.lead.end()
        return []

    answer_one(site, monkeypatch, wait)
    assert site.told == site.poked == 1

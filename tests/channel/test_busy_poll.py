"""How long a node stays awake for its next message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.channel.busy_poll import LONGEST_S, POLL_S, TAKEN_S, BusyPoll, Wakeful, wait

SHORT_S, LONG_S = POLL_S / 3, 10.0
FOUND = [(7, 1)]
LOOK_S = 2e-6


def polling(**settings: bool) -> BusyPoll:
    policy = BusyPoll(**settings)
    for _ in range(500):
        policy.waited(SHORT_S)
    return policy


# --- when it is worth it ---------------------------------------------------------------------------------------------


def test_at_first_and_where_waits_are_long_nothing_is_polled() -> None:
    policy = BusyPoll()
    for _ in range(1000):
        assert policy.limit_s == 0.0
        policy.waited(1.1 * POLL_S)


def test_it_takes_a_while_of_short_waits() -> None:
    policy = BusyPoll()
    count = 0
    while not policy.limit_s:
        policy.waited(SHORT_S)
        count += 1
    assert 50 < count < 200
    assert policy.limit_s == POLL_S


def test_one_long_silence_does_not_end_it_and_two_do() -> None:
    policy = polling()
    policy.waited(LONG_S)
    assert policy.limit_s == POLL_S
    policy.waited(LONG_S)
    assert policy.limit_s == 0.0
    for _ in range(32):
        policy.waited(SHORT_S)
    assert policy.limit_s == POLL_S, "and is soon worth it again"


def test_a_processor_that_others_want_ends_it_too() -> None:
    policy = polling()
    policy.crowded()
    policy.crowded()
    assert policy.limit_s == 0.0


def test_where_it_is_not_allowed_nothing_is_polled() -> None:
    assert polling(allowed=False).limit_s == 0.0


@given(burst=st.integers(1, 10), silence_s=st.floats(0.05, 10.0))
def test_bursts_with_silence_between_them_are_slept_through(burst: int, silence_s: float) -> None:
    """After the first few of them, whatever was before."""
    policy = polling()
    for number in range(20):
        for _ in range(burst):
            policy.waited(0.0)
        if number > 10:
            assert not policy.limit_s
        policy.waited(silence_s)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=300))
def test_it_polls_only_where_the_average_of_the_latest_waits_is_short(waits: list[float]) -> None:
    policy = BusyPoll()
    for wait_s in waits:
        policy.waited(wait_s)
    if policy.limit_s:
        # The latest thirty-two weigh two thirds.
        latest = [LONGEST_S] * 32 + [min(wait_s, LONGEST_S) for wait_s in waits]
        assert sum(latest[-32:]) / 32 <= 3 * POLL_S


# --- a thread that polls a descriptor --------------------------------------------------------------------------------


class Looks:
    """A ``poll`` object, and the clock beside it: something comes at *comes_at*, others take *others_s* when they are
    given the processor."""

    def __init__(self, comes_at: float, others_s: float = 0.0) -> None:
        self.time = 100.0
        self.looks = 0
        self.slept = False
        self._comes_at = self.time + comes_at
        self._others_s = others_s

    def now(self) -> float:
        return self.time

    def give_way(self) -> None:
        self.time += self._others_s

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        if timeout is None:
            assert not self.slept
            self.slept = True
            self.time = max(self.time, self._comes_at)
            return FOUND
        if timeout:
            self.time = min(max(self.time, self._comes_at), self.time + timeout / 1000.0)
            return FOUND if self.time >= self._comes_at else []
        self.looks += 1
        self.time += LOOK_S
        return FOUND if self.time >= self._comes_at else []


def test_who_is_told_to_sleeps_at_once_and_learns_all_the_same() -> None:
    policy = BusyPoll()
    for _ in range(500):
        looks = Looks(comes_at=SHORT_S)
        assert wait(looks, policy, looks.now, looks.give_way, awake=False) == FOUND
        assert looks.slept
        assert not looks.looks
    assert policy.limit_s == POLL_S


@pytest.mark.parametrize(("comes_at", "calls"), [(0.001, 0), (0.003, 1), (0.1, 1)])
def test_something_can_be_done_meanwhile(comes_at: float, calls: int) -> None:
    policy, looks, called = BusyPoll(), Looks(comes_at), []

    def meanwhile() -> bool:
        called.append(looks.time)
        return False

    assert wait(looks, policy, looks.now, looks.give_way, after_s=0.002, meanwhile=meanwhile) == FOUND
    assert called == [pytest.approx(100.002)] * calls
    assert looks.time == pytest.approx(100.0 + comes_at)


def test_who_hears_of_something_meanwhile_does_not_sleep_on() -> None:
    policy, looks = BusyPoll(), Looks(comes_at=1.0)
    assert wait(looks, policy, looks.now, looks.give_way, after_s=0.002, meanwhile=lambda: True) == []
    assert looks.time == pytest.approx(100.002)
    assert not looks.slept


def test_what_comes_soon_is_found_awake() -> None:
    policy = polling()
    for _ in range(100):
        looks = Looks(comes_at=SHORT_S)
        assert wait(looks, policy, looks.now, looks.give_way) == FOUND
        assert not looks.slept
        assert looks.time <= 100.0 + 1.01 * SHORT_S
    assert policy.limit_s == POLL_S


def test_what_does_not_come_soon_is_slept_for() -> None:
    policy = polling()
    looks = [Looks(comes_at=1.0) for _ in range(3)]
    for one in looks:
        assert wait(one, policy, one.now, one.give_way) == FOUND
        assert one.slept
    assert looks[0].looks == looks[1].looks == pytest.approx(POLL_S / LOOK_S, rel=0.02)
    assert looks[2].looks == 0


def test_who_has_to_wait_for_the_processor_goes_to_sleep() -> None:
    policy = polling()
    for expected in (1, 1, 0):
        looks = Looks(comes_at=2 * TAKEN_S, others_s=1.1 * TAKEN_S)
        assert wait(looks, policy, looks.now, looks.give_way) == FOUND
        assert (looks.looks, looks.slept) == (expected, True)


# --- an event loop that polls ----------------------------------------------------------------------------------------


class Loop:
    """An event loop in virtual time; what happens costs *work_s* of the processor, a round *round_s*, and others take
    *others_s* when they are given it."""

    def __init__(self, policy: BusyPoll, round_s: float = 4e-6, work_s: float = 1e-4, others_s: float = 0.0) -> None:
        self.time = self.used = 50.0
        self.rounds = 0
        self.round_s, self.work_s, self.others_s = round_s, work_s, others_s
        self._soon: list[Callable[..., object]] = []
        loop: Any = self
        self.wakeful = Wakeful(loop, policy, lambda: self.time, lambda: self.used, self.give_way)

    def give_way(self) -> None:
        self.time += self.others_s

    def call_soon(self, callback: Callable[..., object]) -> None:
        self._soon.append(callback)

    def run_until(self, when: float) -> bool:
        """Let time pass; true if the loop has not slept."""
        while self.time < when:
            if not self._soon:
                self.time = when
                return False
            callback = self._soon.pop()
            assert not self._soon
            callback()
            self.rounds += 1
            self.time += self.round_s
            self.used += self.round_s
        return True

    def happens(self, after_s: float) -> bool:
        awake = self.run_until(self.time + after_s)
        self.time += self.work_s
        self.used += self.work_s
        self.wakeful.happened()
        return awake


def test_a_loop_stays_awake_while_things_happen_soon() -> None:
    loop = Loop(BusyPoll())
    awake = [loop.happens(SHORT_S) for _ in range(400)]
    assert not any(awake[:50])
    assert all(awake[200:])


def test_a_loop_sleeps_when_nothing_happens() -> None:
    loop = Loop(polling())
    assert [loop.happens(SHORT_S) for _ in range(3)] == [False, True, True], "the first time it did not know of any"
    loop.rounds = 0
    assert not loop.happens(LONG_S)
    assert loop.rounds == pytest.approx(POLL_S / loop.round_s, rel=0.02)
    assert not loop.happens(LONG_S)
    assert not loop.happens(LONG_S)
    assert loop.rounds == pytest.approx(2 * POLL_S / loop.round_s, rel=0.02)


def test_the_work_itself_is_no_wait() -> None:
    loop = Loop(BusyPoll(), work_s=0.02)
    for _ in range(400):
        loop.happens(SHORT_S)
    assert loop.happens(SHORT_S)


def test_a_loop_that_has_to_wait_for_the_processor_goes_to_sleep() -> None:
    loop = Loop(polling(), others_s=1.1 * TAKEN_S)
    loop.happens(SHORT_S)
    assert [loop.happens(2 * TAKEN_S) for _ in range(4)] == [False] * 4
    assert loop.rounds == 2, "and soon does not try any more"


def test_where_it_is_not_allowed_a_loop_always_sleeps() -> None:
    loop = Loop(polling(allowed=False))
    assert not any(loop.happens(SHORT_S) for _ in range(100))
    assert loop.rounds == 0

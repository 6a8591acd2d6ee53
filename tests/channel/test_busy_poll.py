"""How long a thread stays awake for its next message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zserve.channel.busy_poll import POLL_S, SHORT_WAITS, TAKEN_S, BusyPoll, wait

LONG_S = 2 * POLL_S
FOUND = [(7, 1)]


def polling(**settings: bool) -> BusyPoll:
    policy = BusyPoll(**settings)
    for _ in range(100):
        policy.waited(POLL_S / 2)
    return policy


class Looks:
    """A ``poll`` object, and the clock beside it: each look takes *look_s*, and something comes at *comes_at*."""

    def __init__(self, comes_at: float, look_s: float = 1e-6) -> None:
        self.time = 100.0
        self.looks = 0
        self.slept = False
        self._comes_at = self.time + comes_at
        self._look_s = look_s

    def now(self) -> float:
        return self.time

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        if timeout is None:
            assert not self.slept
            self.slept = True
            self.time = max(self.time, self._comes_at)
            return FOUND
        assert timeout == 0
        self.looks += 1
        self.time += self._look_s
        return FOUND if self.time >= self._comes_at else []


def test_it_takes_a_number_of_short_waits() -> None:
    policy = BusyPoll()
    for _ in range(SHORT_WAITS):
        assert policy.limit_s == 0.0
        policy.waited(POLL_S)
    assert policy.limit_s == POLL_S


def test_one_long_wait_does_not_end_it_and_three_do() -> None:
    policy = polling()
    policy.waited(LONG_S)
    assert policy.limit_s == POLL_S
    policy.waited(60.0)
    assert policy.limit_s == POLL_S
    policy.waited(LONG_S)
    assert policy.limit_s == 0.0


def test_a_processor_that_others_want_ends_it_too() -> None:
    policy = polling()
    for _ in range(3):
        policy.waited(POLL_S / 2, crowded=True)
    assert policy.limit_s == 0.0


def test_where_it_is_not_allowed_nothing_is_polled() -> None:
    assert polling(allowed=False).limit_s == 0.0


@given(st.lists(st.floats(0.0, 0.01), max_size=400))
def test_each_poll_in_vain_is_paid_for_by_four_short_waits(waits: list[float]) -> None:
    policy = BusyPoll()
    in_vain = short = 0
    for wait_s in waits:
        if policy.limit_s and wait_s > policy.limit_s:
            in_vain += 1
        short += wait_s <= POLL_S
        policy.waited(wait_s)
    assert 4 * in_vain <= short


def test_what_comes_soon_is_found_awake() -> None:
    policy, looks = polling(), Looks(comes_at=0.5 * POLL_S)
    assert wait(looks, policy, looks.now) == FOUND
    assert not looks.slept
    assert looks.time <= 100.0 + 0.51 * POLL_S
    assert policy.limit_s == POLL_S


def test_what_does_not_come_soon_is_slept_for() -> None:
    policy, looks = polling(), Looks(comes_at=1.0)
    assert wait(looks, policy, looks.now) == FOUND
    assert looks.slept
    assert 0.9 * POLL_S / 1e-6 <= looks.looks <= 1.1 * POLL_S / 1e-6
    for _ in range(2):
        looks = Looks(comes_at=1.0)
        wait(looks, policy, looks.now)
    looks = Looks(comes_at=1.0)
    wait(looks, policy, looks.now)
    assert (looks.looks, looks.slept) == (0, True)


def test_who_has_to_wait_for_the_processor_goes_to_sleep() -> None:
    policy, looks = polling(), Looks(comes_at=0.9 * POLL_S, look_s=1.1 * TAKEN_S)
    assert wait(looks, policy, looks.now) == FOUND
    assert (looks.looks, looks.slept) == (1, True)
    for _ in range(2):
        looks = Looks(comes_at=0.9 * POLL_S, look_s=1.1 * TAKEN_S)
        wait(looks, policy, looks.now)
    assert policy.limit_s == 0.0, "its waits were short, and still not worth it"

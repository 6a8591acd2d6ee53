from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zserve.registry.clock import MAX_AHEAD_MS, HybridClock, stamp_ms

NOW = 1_700_000_000_000


def test_a_stamp_is_the_wall_clock_and_a_counter() -> None:
    clock = HybridClock()
    first = clock.tick(NOW)
    assert stamp_ms(first) == NOW
    assert clock.tick(NOW) == first + 1
    assert stamp_ms(clock.tick(NOW + 5)) == NOW + 5


def test_stamps_never_go_back_when_the_wall_clock_does() -> None:
    clock = HybridClock()
    first = clock.tick(NOW)
    assert clock.tick(NOW - 3_600_000) == first + 1


def test_a_remote_stamp_moves_the_clock_on() -> None:
    clock = HybridClock()
    remote = (NOW + 1000) << 16
    assert clock.observe(remote, NOW)
    assert clock.tick(NOW) == remote + 1


def test_a_stamp_from_the_far_future_is_refused_and_does_not_move_the_clock() -> None:
    clock = HybridClock()
    before = clock.tick(NOW)
    assert not clock.observe((NOW + MAX_AHEAD_MS + 1) << 16, NOW)
    assert clock.last == before
    assert clock.observe((NOW + MAX_AHEAD_MS) << 16, NOW)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10_000), st.integers(0, 200_000))))
def test_own_stamps_only_grow_and_stay_near_the_clock(events: list[tuple[bool, int, int]]) -> None:
    clock = HybridClock()
    latest = 0
    for own, wall_offset, remote_offset in events:
        wall = NOW + wall_offset
        if own:
            stamp = clock.tick(wall)
            assert stamp > latest
            assert stamp_ms(stamp) <= NOW + 10_000 + MAX_AHEAD_MS + 1
            latest = stamp
        else:
            clock.observe((NOW + remote_offset) << 16, wall)

from __future__ import annotations

import random
from collections import Counter

import pytest

from zserve.scheduling.entry import Entry
from zserve.scheduling.replicas import SLOW_START_S, Fleet, Replica


def fleet(count: int, *, credit: int = 100, latency: float = 0.01) -> Fleet:
    made = Fleet(random.Random(1))
    for index in range(count):
        replica = made.join(index.to_bytes(2, "big"), 0.0)
        made.grant(replica, 1, credit)
        replica.penalty = 1.0
        replica.finished(latency, True, 0.0)
    return made


def hold(made: Fleet, replica: Replica, count: int = 1) -> None:
    for _ in range(count):
        id_ = len(made.members).to_bytes(2, "big") + len(replica.held).to_bytes(4, "big")
        replica.held[id_] = Entry(id=id_)
    made.spend(replica, count)


def number(replica: Replica | None) -> int:
    assert replica is not None
    return int.from_bytes(replica.peer, "big")


def test_nobody_with_credit_is_nobody() -> None:
    assert Fleet(random.Random(1)).choose() is None
    assert fleet(3, credit=0).choose() is None


def test_least_in_flight_times_latency() -> None:
    made = fleet(3)
    replicas = list(made.members.values())
    replicas[1].finished(0.1, True, 0.0)  # ten times slower
    placed = Counter()
    for _ in range(21):
        chosen = made.choose()
        assert chosen is not None
        placed[number(chosen)] += 1
        hold(made, chosen)
    assert placed == {0: 10, 1: 1, 2: 10}


def test_credit_comes_and_goes() -> None:
    made = fleet(2, credit=1)
    first, second = made.members.values()
    hold(made, first)
    assert made.choose() is second
    assert made.credit == 1
    hold(made, second)
    assert made.choose() is None
    made.grant(first, 1, 2)
    assert made.choose() is first
    made.grant(first, 2, 1)  # recalled
    assert made.choose() is None
    assert made.credit == 0
    assert made.leave(second.peer) is second
    assert made.in_flight == 1
    assert made.leave(second.peer) is None


def test_latency_jumps_up_at_once_and_comes_down_with_time() -> None:
    replica = Replica(b"r", 0.0)
    replica.finished(0.01, True, 0.0)
    replica.finished(0.5, True, 0.1)
    assert replica.latency == 0.5
    replica.finished(0.01, True, 0.11)
    assert replica.latency > 0.45
    for step in range(1000):
        replica.finished(0.01, True, 0.11 + step * 0.01)
    assert replica.latency < 0.02


def test_failing_fast_does_not_look_fast() -> None:
    made = fleet(4)
    broken = next(iter(made.members.values()))
    for step in range(50):
        broken.finished(0.0001, False, step * 0.01)
    assert broken.latency == 0.01
    others = [replica for replica in made.members.values() if replica is not broken]
    for other in others:
        hold(made, other, 15)
    assert made.choose() is not broken
    for other in others:
        hold(made, other, 10)
    assert made.choose() is broken  # better than waiting for ever


def test_a_shunned_replica_is_tried_again() -> None:
    made = fleet(2)
    slow, _ = made.members.values()
    slow.finished(5.0, True, 0.0)
    assert made.choose() is not slow
    now = 0.0
    while made.choose() is not slow:
        now += 0.1
        for replica in made.members.values():
            if replica is not slow:
                replica.finished(0.01, True, now)
        made.refresh(now)
        assert now < 30.0
    assert now > 1.0


def test_slow_start() -> None:
    made = fleet(1)
    newcomer = made.join(b"new", 10.0)
    made.grant(newcomer, 1, 100)
    old = made.members[b"\0\0"]
    hold(made, old, 5)
    assert made.choose() is old
    made.refresh(10.0 + SLOW_START_S)
    assert newcomer.penalty == 1.0
    assert made.choose() is newcomer


def test_the_first_replicas_have_no_slow_start() -> None:
    made = Fleet(random.Random(1))
    assert [made.join(name, 0.0).penalty for name in (b"a", b"b")] == [1.0, 1.0]


def test_two_choices_beyond_the_full_scan() -> None:
    made = fleet(200)
    busy = Counter()
    for _ in range(4000):
        chosen = made.choose()
        assert chosen is not None
        hold(made, chosen)
        busy[number(chosen)] += 1
    assert len(busy) == 200
    assert max(busy.values()) <= 24  # 20 on average; one choice at random would give some 34


@pytest.mark.parametrize("count", [1, 64, 65])
def test_what_is_chosen_has_credit(count: int) -> None:
    made = fleet(count, credit=1)
    for _ in range(count):
        chosen = made.choose()
        assert chosen is not None
        assert chosen.credit == 1
        hold(made, chosen)
    assert made.choose() is None


def chosen(made: Fleet, times: int = 12) -> set[int]:
    return {number(made.choose()) for _ in range(times) if made.choose() is not None}


def test_a_doubted_replica_gets_nothing_while_others_are_heard() -> None:
    made = fleet(2, credit=5)
    quiet, heard = made.members.values()
    made.doubt(quiet.peer, True)
    assert (chosen(made), made.credit) == ({1}, 5)
    made.grant(quiet, 1, 8)  # a grant that was on its way
    assert (chosen(made), made.credit) == ({1}, 5)
    hold(made, heard, 5)
    assert made.choose() is None, "what waits can still go anywhere"
    made.doubt(quiet.peer, False)
    assert (chosen(made), made.credit) == ({0}, 8)


def test_where_all_are_doubted_none_is_set_aside() -> None:
    made = fleet(2, credit=5)
    for replica in list(made.members.values()):
        made.doubt(replica.peer, True)
    assert made.credit == 10
    assert {number(replica) for replica in made.ready} == {0, 1}
    third = made.join((7).to_bytes(2, "big"), 0.0)
    made.grant(third, 1, 2)
    assert ({number(replica) for replica in made.ready}, made.credit) == ({7}, 2)
    assert made.leave(third.peer) is third
    assert ({number(replica) for replica in made.ready}, made.credit) == ({0, 1}, 10)
    made.doubt(b"unknown", True)
    assert made.credit == 10

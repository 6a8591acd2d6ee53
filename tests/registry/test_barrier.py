from __future__ import annotations

from zserve.registry.barrier import WriteBarrier
from zserve.registry.record import Record

FIRST = Record("endpoint/e", 1, 5, b"a" * 16, 1, b"", b"{}")
LATER = Record("endpoint/e", 1, 6, b"a" * 16, 2, FIRST.stamp, b"{}")
OTHER = Record("backend/b", 1, 5, b"a" * 16, 1, b"", b"{}")
PEERS = {b"p": "gateway one", b"q": "gateway two"}


def test_it_is_over_when_all_have_confirmed_all() -> None:
    barrier = WriteBarrier([FIRST, OTHER], PEERS, 10.0)
    assert not barrier.confirmed(b"p", FIRST.key, FIRST.stamp)
    assert not barrier.confirmed(b"p", OTHER.key, OTHER.stamp)
    assert barrier.laggards() == ["gateway two"]
    assert not barrier.confirmed(b"q", FIRST.key, FIRST.stamp)
    assert barrier.confirmed(b"q", OTHER.key, OTHER.stamp)
    assert (barrier.done, barrier.laggards()) == (True, [])


def test_a_later_record_confirms_and_an_earlier_or_strange_one_does_not() -> None:
    barrier = WriteBarrier([LATER], {b"p": "gateway"}, 0.0)
    assert not barrier.confirmed(b"p", FIRST.key, FIRST.stamp)
    assert not barrier.confirmed(b"x", LATER.key, LATER.stamp)
    assert not barrier.confirmed(b"p", OTHER.key, OTHER.stamp)
    assert barrier.confirmed(b"p", LATER.key, b"\xff" * 32)


def test_the_dead_are_not_waited_for() -> None:
    barrier = WriteBarrier([FIRST], PEERS, 0.0)
    assert not barrier.lost(b"p")
    assert not barrier.lost(b"p")
    assert barrier.lost(b"q")
    assert barrier.laggards() == []


def test_it_names_those_who_are_late() -> None:
    barrier = WriteBarrier([FIRST], PEERS, 10.0, 5.0)
    barrier.confirmed(b"q", FIRST.key, FIRST.stamp)
    assert not barrier.tick(14.9)
    assert barrier.tick(15.0)
    assert barrier.laggards() == ["gateway one"]


def test_without_peers_or_records_there_is_nothing_to_wait_for() -> None:
    assert WriteBarrier([FIRST], {}, 0.0).done
    assert WriteBarrier([], PEERS, 0.0).done

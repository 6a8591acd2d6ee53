from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zserve.scheduling import priority_class
from zserve.scheduling.deadline_heap import FAIR_SHARE, FAIRNESS_BOUND_S, DeadlineHeap
from zserve.scheduling.entry import DONE, NO_DEADLINE, Entry


def entry(seq: int, deadline: float = NO_DEADLINE, *, priority: int = 0, arrived: float = 0.0, size: int = 1) -> Entry:
    return Entry(
        id=seq.to_bytes(16, "big"), seq=seq, deadline=deadline, priority=priority, arrived=arrived, size=size
    )


def filled(*entries: Entry, policy: str = "edf") -> DeadlineHeap:
    heap = DeadlineHeap(policy)
    for each in entries:
        heap.push(each)
    return heap


def order(heap: DeadlineHeap, now: float = 0.0) -> list[int]:
    taken = []
    while (head := heap.pop(now)) is not None:
        taken.append(head.seq)
    return taken


@pytest.mark.parametrize(
    ("policy", "deadlines", "expected"),
    [
        ("edf", [3.0, 1.0, 2.0], [2, 3, 1]),
        ("edf", [1.0, 1.0, 1.0], [1, 2, 3]),
        ("edf", [math.inf, 5.0, math.inf, 4.0], [4, 2, 1, 3]),
        ("fifo", [3.0, 1.0, math.inf, 2.0], [1, 2, 3, 4]),
    ],
)
def test_order(policy: str, deadlines: list[float], expected: list[int]) -> None:
    heap = filled(*(entry(seq, deadline) for seq, deadline in enumerate(deadlines, 1)), policy=policy)
    assert order(heap) == expected
    assert len(heap) == heap.size == 0


def test_a_priority_class_goes_before_every_deadline_of_the_next() -> None:
    heap = filled(entry(1, 1.0, priority=1), entry(2, 9.0, priority=0), entry(3, priority=0), entry(4, 5.0, priority=9))
    assert order(heap) == [2, 3, 1, 4]


def test_priorities_out_of_range_are_clamped() -> None:
    heap = filled(entry(1, 1.0, priority=10**9), entry(2, 1.0, priority=-5), entry(3, 1.0, priority=7))
    assert order(heap) == [2, 1, 3]


def test_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'lifo'"):
        DeadlineHeap("lifo")


def test_requests_without_a_deadline_get_every_fourth_turn_past_the_bound() -> None:
    heap = filled(*(entry(seq) for seq in range(1, 6)), *(entry(100 + seq, 1e6) for seq in range(100)))
    early = [heap.pop(FAIRNESS_BOUND_S - 0.01) for _ in range(20)]
    assert all(taken is not None and taken.deadline == 1e6 for taken in early)
    late = [heap.pop(FAIRNESS_BOUND_S) for _ in range(4 * FAIR_SHARE)]
    undated = [at for at, taken in enumerate(late) if taken is not None and taken.deadline == NO_DEADLINE]
    assert undated == [0, 4, 8, 12]


def test_the_fairness_bound_holds_against_a_higher_priority_too() -> None:
    heap = filled(entry(1, priority=3), *(entry(100 + seq, 1e6, priority=0) for seq in range(20)))
    taken = [heap.pop(FAIRNESS_BOUND_S + 1.0) for _ in range(FAIR_SHARE)]
    assert 1 in [each.seq for each in taken if each is not None]


def test_put_back_restores_the_place_with_and_without_a_deadline() -> None:
    heap = filled(*(entry(seq, 1.0 if seq < 4 else NO_DEADLINE) for seq in range(1, 7)))
    taken = [heap.pop(0.0) for _ in range(5)]
    for seq in (4, 1, 3, 0, 2):
        again = taken[seq]
        assert again is not None
        heap.put_back(again)
    assert order(heap) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("policy", ["edf", "fifo"])
def test_expiry_takes_exactly_what_is_due(policy: str) -> None:
    heap = filled(*(entry(seq, float(seq)) for seq in range(1, 11)), entry(11), policy=policy)
    assert heap.next_deadline() == 1.0
    assert [each.seq for each in heap.expired(4.0)] == [1, 2, 3, 4]
    assert heap.expired(4.5) == []
    assert heap.next_deadline() == 5.0
    assert len(heap) == 7
    assert order(heap) == [5, 6, 7, 8, 9, 10, 11]


def test_tombstones_never_outnumber_the_living_by_much() -> None:
    heap = DeadlineHeap()
    for seq in range(1, 100_001):
        one = entry(seq, 1e6 + seq if seq % 2 else NO_DEADLINE)
        heap.push(one)
        if seq > 10:
            heap.remove(one)
    place = heap._classes[0]
    assert len(heap) == 10
    assert len(place.heap) + place.far_size + len(place.line) < 300


def test_count_ahead_follows_deadline_priority_and_arrivals() -> None:
    heap = filled(entry(1, 1.0), entry(2, 2.0), entry(3, 3.0), entry(4), entry(5, 9.0, priority=1))
    assert heap.count_ahead(0, 3.5, 0.0) == 3  # all deadlines of the class are before it
    assert heap.count_ahead(0, 2.5, 0.0) == 2
    assert heap.count_ahead(0, 0.5, 0.0) == 0
    assert heap.count_ahead(0, NO_DEADLINE, 0.0) == 4
    assert heap.count_ahead(1, 0.5, 0.0) == 4
    heap.push(entry(6, 0.1))  # the index is kept while it is in use
    assert heap.count_ahead(0, 0.5, 0.0) == 1
    heap.rest(0.5)
    assert heap._index is not None
    heap.rest(1.5)
    assert heap._index is None
    assert heap.count_ahead(0, 0.5, 2.0) == 1


def test_deadlines_beyond_all_sense_are_kept_in_order() -> None:
    heap = DeadlineHeap()
    rng = random.Random(1)
    deadlines = [10.0 ** rng.uniform(-3, 300) for _ in range(5000)]
    for seq, deadline in enumerate(deadlines, 1):
        heap.push(entry(seq, deadline))
    heap.count_ahead(0, 1e299, 0.0)
    assert order(heap) == [seq for _, seq in sorted((deadline, seq) for seq, deadline in enumerate(deadlines, 1))]


def test_a_large_heap_of_equal_deadlines_is_not_sorted_at_every_push() -> None:
    heap = DeadlineHeap()
    for seq in range(1, 20_001):
        heap.push(entry(seq, 5.0))
    place = heap._classes[0]
    assert place.most >= 20_000
    for seq in range(20_001, 30_001):
        heap.push(entry(seq, 6.0))
    assert order(heap) == list(range(1, 30_001))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=300), st.floats(0.0, 30.0))
def test_the_index_counts_to_the_millisecond(deadlines: list[float], asked: float) -> None:
    heap = filled(*(entry(seq, deadline) for seq, deadline in enumerate(deadlines, 1)), entry(0, 1e5))
    counted = heap.count_ahead(0, asked, 0.0)
    assert sum(each <= asked for each in deadlines) <= counted <= sum(each <= asked + 0.001 for each in deadlines)


class HeapMachine(RuleBasedStateMachine):
    """Against a plain list: what is popped is the least by (priority, deadline, seq), whatever happened before."""

    policy = "edf"

    def __init__(self) -> None:
        super().__init__()
        self.most = priority_class.HEAP_MOST
        priority_class.HEAP_MOST = 4  # so that buckets come into play
        self.heap = DeadlineHeap(self.policy, fairness_s=1e9)
        self.model: list[Entry] = []
        self.out: list[Entry] = []
        self.seq = 0
        self.now = 0.0

    def teardown(self) -> None:
        priority_class.HEAP_MOST = self.most

    def key(self, one: Entry) -> tuple[int, float, int]:
        return (one.priority, one.deadline if self.policy == "edf" else 0.0, one.seq)

    @rule(
        deadline=st.one_of(st.just(NO_DEADLINE), st.sampled_from([0.1, 0.2, 1.0, 1.001, 1.002, 5.0, 1e300])),
        priority=st.sampled_from([0, 0, 0, 1, 2]),
        size=st.integers(0, 9),
    )
    def push(self, deadline: float, priority: int, size: int) -> None:
        self.seq += 1
        one = entry(self.seq, self.now + deadline, priority=priority, size=size, arrived=self.now)
        self.heap.push(one)
        self.model.append(one)

    @rule()
    def pop(self) -> None:
        one = self.heap.pop(self.now)
        if one is None:
            assert not self.model
            return
        assert one is min(self.model, key=self.key)
        self.model.remove(one)
        self.out.append(one)

    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        taken = self.heap.take(most, self.now)
        expected = sorted(self.model, key=self.key)[:most]
        assert [one.seq for one in taken] == [one.seq for one in expected]
        self.model = [one for one in self.model if one not in taken]
        self.out += taken

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.model))
        self.heap.remove(one)
        one.state = DONE
        self.model.remove(one)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        one = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.heap.put_back(one)
        self.model.append(one)

    @rule(step=st.sampled_from([0.05, 0.5, 2.0]))
    def expire(self, step: float) -> None:
        self.now += step
        gone = {one.seq for one in self.heap.expired(self.now)}
        assert gone == {one.seq for one in self.model if one.deadline <= self.now}
        self.model = [one for one in self.model if one.seq not in gone]

    @rule(deadline=st.sampled_from([0.05, 0.15, 1.0005, 3.0]), priority=st.sampled_from([0, 1]))
    def count(self, deadline: float, priority: int) -> None:
        counted = self.heap.count_ahead(priority, self.now + deadline, self.now)
        least = sum(self.before(one, priority, self.now + deadline) for one in self.model)
        most = sum(self.before(one, priority, self.now + deadline + 0.0011) for one in self.model)
        assert least <= counted <= most

    def before(self, one: Entry, priority: int, deadline: float) -> bool:
        if one.priority != priority:
            return one.priority < priority
        return self.policy == "fifo" or one.deadline <= deadline

    @rule()
    def rest(self) -> None:
        self.now += 1.5
        self.expire(0.0)
        self.heap.rest(self.now)

    @rule()
    def drain(self) -> None:
        assert {one.seq for one in self.heap.drain()} == {one.seq for one in self.model}
        self.model = []

    @invariant()
    def agrees(self) -> None:
        assert len(self.heap) == len(self.model)
        assert self.heap.size == sum(one.size for one in self.model)
        assert self.heap.next_deadline() == min((one.deadline for one in self.model), default=NO_DEADLINE)
        assert {one.seq for one in self.heap} == {one.seq for one in self.model}


class FifoMachine(HeapMachine):
    policy = "fifo"


TestHeapMachine = HeapMachine.TestCase
TestHeapMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestFifoMachine = FifoMachine.TestCase
TestFifoMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def test_another_order_holds_for_what_waits_already() -> None:
    heap = filled(entry(1, 3.0), entry(2), entry(3, 1.0), entry(4, 2.0))
    removed = entry(5, 0.5)
    heap.push(removed)
    heap.remove(removed)
    heap.follow("fifo")
    first = heap.pop(0.0)
    assert first is not None
    assert first.seq == 1
    heap.follow("edf")
    assert [one.seq for one in iter(lambda: heap.pop(0.0), None)] == [3, 4, 2]
    assert len(heap) == heap.size == 0
    with pytest.raises(ValueError, match="lifo"):
        heap.follow("lifo")

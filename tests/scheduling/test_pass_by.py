"""Requests leave past the heap just as they would through it; those answered together are as answered one by one."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue
from zserve.scheduling.entry import NO_DEADLINE, Entry

PEERS = (b"one", b"two", b"three")

REQUEST = st.tuples(
    st.one_of(st.just(NO_DEADLINE), st.floats(-0.01, 0.2), st.just(30.0), st.floats(29.0, 30.0)),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0, 10, 10_000]),
)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("requests"), st.lists(REQUEST, min_size=1, max_size=4)),
        st.tuples(st.just("answers"), st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.02)), min_size=1, max_size=4)),
        st.tuples(st.just("grant"), st.sampled_from(PEERS), st.integers(0, 3)),
        st.tuples(st.just("pause"), st.floats(0.0, 0.3)),
        st.tuples(st.just("cancel"), st.booleans()),
        st.tuples(st.just("doubt"), st.sampled_from(PEERS), st.booleans()),
        st.tuples(st.just("leave"), st.sampled_from(PEERS)),
    ),
    min_size=8,
    max_size=60,
)


class Side:
    """One queue, and everything that can be seen of it."""

    def __init__(self, config: BackendConfig, replicas: int, *, past: bool) -> None:
        self.queue = BackendQueue("b", config, random.Random(5))
        self.past = past
        self.seen: list[Any] = []
        self.passed = 0
        self.together = 0
        self.open: list[Entry] = []
        self.limits = dict.fromkeys(PEERS[:replicas], 3)
        for peer, limit in self.limits.items():
            self.queue.replica_joined(peer, 0.0)
            self.queue.grant(peer, 1, limit, 0.0)

    def step(self, number: int, step: tuple[Any, ...], now: float) -> None:
        kind = step[0]
        queue = self.queue
        if kind == "requests":
            self.requests([8 * number + index for index in range(len(step[1]))], step[1], now)
        elif kind == "answers":
            self.answers(step[1], now)
        elif kind == "grant" and step[1] in self.limits:
            self.limits[step[1]] += step[2]
            queue.grant(step[1], 1, self.limits[step[1]], now)
        elif kind == "cancel" and self.open:
            entry = self.open[-1]
            queue.cancel(entry.id, now)
            if step[1]:  # and its gateway sends it again
                self.requests([int.from_bytes(entry.id, "big")], [(NO_DEADLINE, 0, 10)], now)
        elif kind == "doubt":
            queue.replica_doubted(step[1], step[2], now)
        elif kind == "leave" and step[1] in self.limits:
            del self.limits[step[1]]
            gone = queue.replica_left(step[1], now)
            self.seen.append(sorted(entry.id for entry in gone))
            self.open = [entry for entry in self.open if entry.replica != step[1]]
        self.after(now)

    def requests(self, numbers: list[int], requests: list[tuple[float, int, int]], now: float) -> None:
        entries = [
            Entry(
                id=number.to_bytes(4, "big"), endpoint="e", deadline=now + left_s, priority=priority,
                method="", flags=0, size=size, head=b"", body=b"", gateway=b"g", arrived=now,
            )
            for number, (left_s, priority, size) in zip(numbers, requests, strict=True)
        ]  # fmt: skip
        self.open += entries
        if self.past:
            leaving = self.queue.pass_by(list(entries), now)
            for replica, together in leaving:
                for entry in together:
                    assert entry.replica == replica
                    self.passed += 1
                    self.seen.append((replica, entry.batch, [entry.id]))
            if leaving:
                return
        for entry in entries:
            refusal = self.queue.offer(entry, now)
            if refusal is not None:
                self.seen.append((entry.id, refusal.status))
                self.open.remove(entry)

    def answers(self, answers: list[tuple[bool, float]], now: float) -> None:
        """Of the replica that has the oldest request, to its oldest ones."""
        running = [entry for entry in self.open if entry.replica]
        ended = [entry for entry in running if entry.replica == running[0].replica][: len(answers)]
        if not ended:
            return
        self.open = [entry for entry in self.open if entry not in ended]
        replica, ids = ended[0].replica, [entry.id for entry in ended]
        done: list[Any] | None = None
        if self.past and all(ok for ok, _ in answers):
            before = self.queue.in_flight
            # Where all have just been answered, nobody need say so.
            ended = None if len(ids) % 2 else lambda number: now
            done = self.queue.answered(replica, ids, now, lambda number: answers[number][1], ended)
            if done is None:
                assert self.queue.in_flight == before
            else:
                self.together += 1
        if done is None:
            done = [
                self.queue.completed(replica, id_, now, ok=ok, run_s=run_s)
                for id_, (ok, run_s) in zip(ids, answers, strict=False)
            ]
        self.seen.append([None if entry is None else entry.id for entry in done])

    def after(self, now: float) -> None:
        for dispatch in self.queue.dispatch(now):
            self.seen.append((dispatch.replica, dispatch.batch_no, [entry.id for entry in dispatch.entries]))
        for entry, refusal in self.queue.expire(now):
            self.seen.append((entry.id, refusal.status))
            self.open.remove(entry)


@given(
    steps=STEPS,
    replicas=st.integers(1, 3),
    batch=st.sampled_from([None, None, 4]),
    order=st.sampled_from(["edf", "fifo"]),
    most=st.sampled_from([0, 2, 100]),
)
@settings(max_examples=400)
def test_past_the_heap_all_is_as_through_it(
    steps: list[tuple[Any, ...]], replicas: int, batch: int | None, order: str, most: int
) -> None:
    config = BackendConfig(max_batch_size=batch, queue_order=order, max_queued_requests=max(1, most))
    sides = [Side(config, replicas, past=past) for past in (False, True)]
    now = 1.0
    for number, step in enumerate(steps):
        now += step[1] if step[0] == "pause" else 0.001
        for side in sides:
            side.step(number, step, now)
    through, past = sides
    assert past.seen == through.seen
    assert past.queue.statistics() == through.queue.statistics()
    assert past.queue.next_wakeup() == through.queue.next_wakeup()
    assert past.queue.demand_due(now) == through.queue.demand_due(now)


def test_it_is_used_where_it_can_be() -> None:
    side = Side(BackendConfig(), 1, past=True)
    step = ("requests", [(NO_DEADLINE, 0, 10)])
    for number in range(4):
        side.step(number, step, 1.0 + number * 0.001)
    assert side.passed == 3  # there is no credit for the fourth
    assert len(side.queue) == 1


def test_so_it_is_for_requests_that_come_together() -> None:
    side = Side(BackendConfig(), 3, past=True)
    side.step(0, ("requests", [(30.0, 0, 10), (NO_DEADLINE, 0, 10), (29.0, 0, 10), (30.0, 0, 10)]), 1.0)
    assert side.passed == 0, "how long they have to wait is not known yet"
    for now in (1.001, 1.002):
        side.step(1, ("answers", [(True, 0.001)] * 2), now)
        side.step(1, ("grant", PEERS[0], 3), now)
    side.step(2, ("requests", [(30.0, 0, 10), (NO_DEADLINE, 0, 10), (29.0, 0, 10)]), 1.003)
    side.step(3, ("requests", [(30.0, 0, 10), (NO_DEADLINE, 0, 10), (29.0, 0, 10)]), 1.004)
    assert side.passed == 3
    first, second, third = side.seen[-3:]
    assert [one[2][0][-1] & 7 for one in (first, second, third)] == [2, 0, 1], "the most urgent first"
    assert side.together


def test_a_group_with_no_credit_for_all_goes_through_the_heap() -> None:
    side = Side(BackendConfig(), 1, past=True)
    side.step(0, ("requests", [(NO_DEADLINE, 0, 10)] * 4), 1.0)
    assert side.passed == 0
    assert len(side.queue) == 1


def test_an_id_that_is_answered_twice_at_a_time_is_looked_at_by_itself() -> None:
    side = Side(BackendConfig(), 1, past=True)
    side.step(0, ("requests", [(NO_DEADLINE, 0, 10)] * 2), 1.0)
    one = side.open[0]
    assert side.queue.answered(one.replica, [one.id, one.id], 1.1, lambda number: 0.1) is None
    assert side.queue.in_flight == 2
    assert side.queue.answered(one.replica, [one.id, b"unknown"], 1.1, lambda number: 0.1) is None
    assert side.queue.answered(b"stranger", [one.id], 1.1, lambda number: 0.1) is None
    assert side.queue.answered(one.replica, [one.id], 1.1, lambda number: 0.1) == [one]


def test_what_was_answered_a_while_ago_took_less_time() -> None:
    """Told 5 ms later, it is taken for as quick as when it is told at once."""
    for replicas in (1, 2):
        found = []
        for late_s in (0.0, 0.005):
            side = Side(BackendConfig(), replicas, past=True)
            for number in range(60):
                now = 1.0 + 0.02 * number
                side.step(number, ("requests", [(NO_DEADLINE, 0, 10)]), now)
                entry, ended = side.open.pop(), [now + 0.01]
                done = side.queue.answered(
                    entry.replica, [entry.id], now + 0.01 + late_s, lambda _: 0.01, ended.__getitem__
                )
                assert done == [entry]
                side.queue.grant(entry.replica, 1, 1000, now)
            found.append(side.queue.statistics())
        assert found[0] == found[1]

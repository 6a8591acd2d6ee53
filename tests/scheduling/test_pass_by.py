"""A request that comes by itself leaves past the heap just as it would through it."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue
from zserve.scheduling.entry import NO_DEADLINE, Entry

PEERS = (b"one", b"two", b"three")

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("request"),
            st.one_of(st.just(NO_DEADLINE), st.floats(-0.01, 0.2), st.just(30.0)),
            st.integers(0, 2),
            st.sampled_from([0, 10, 10_000]),
        ),
        st.tuples(st.just("answer"), st.booleans(), st.floats(0.0, 0.02)),
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
        self.open: list[Entry] = []
        self.limits = dict.fromkeys(PEERS[:replicas], 3)
        for peer, limit in self.limits.items():
            self.queue.replica_joined(peer, 0.0)
            self.queue.grant(peer, 1, limit, 0.0)

    def step(self, number: int, step: tuple[Any, ...], now: float) -> None:
        kind = step[0]
        queue = self.queue
        if kind == "request":
            self.request(number, step, now)
        elif kind == "answer":
            running = [entry for entry in self.open if entry.replica]
            if running:
                entry = running[0]
                self.open.remove(entry)
                queue.completed(entry.replica, entry.id, now, ok=step[1], run_s=step[2])
        elif kind == "grant" and step[1] in self.limits:
            self.limits[step[1]] += step[2]
            queue.grant(step[1], 1, self.limits[step[1]], now)
        elif kind == "cancel" and self.open:
            entry = self.open[-1]
            queue.cancel(entry.id, now)
            if step[1]:  # and its gateway sends it again
                self.request(int.from_bytes(entry.id, "big"), ("request", NO_DEADLINE, 0, 10), now)
        elif kind == "doubt":
            queue.replica_doubted(step[1], step[2], now)
        elif kind == "leave" and step[1] in self.limits:
            del self.limits[step[1]]
            gone = queue.replica_left(step[1], now)
            self.seen.append(sorted(entry.id for entry in gone))
            self.open = [entry for entry in self.open if entry.replica != step[1]]
        self.after(now)

    def request(self, number: int, step: tuple[Any, ...], now: float) -> None:
        entry = Entry(
            id=number.to_bytes(4, "big"), endpoint="e", deadline=now + step[1], priority=step[2], method="", flags=0,
            size=step[3], head=b"", body=b"", gateway=b"g", arrived=now,
        )  # fmt: skip
        self.open.append(entry)
        if self.past:
            replica = self.queue.pass_by(entry, now)
            if replica is not None:
                assert entry.replica == replica
                self.passed += 1
                self.seen.append((replica, entry.batch, [entry.id]))
                return
        refusal = self.queue.offer(entry, now)
        if refusal is not None:
            self.seen.append((entry.id, refusal.status))
            self.open.remove(entry)

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
    for number in range(4):
        side.step(number, ("request", NO_DEADLINE, 0, 10), 1.0 + number * 0.001)
    assert side.passed == 3  # there is no credit for the fourth
    assert len(side.queue) == 1

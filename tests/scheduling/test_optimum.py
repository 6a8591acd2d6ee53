"""Deadlines met, against the most that anyone could have met who knew the future.

The oracle tries every schedule of small instances; the queue decides on line and never idles while something waits.
Where all deadlines can be met without knowing the future it has to meet them all: always when everything is there from
the beginning or jobs take one tick, and else, for jobs of one length, when some schedule that never idles does.  (For a
job that comes at 0 and takes 3, the oracle can wait for a more urgent one that comes at 1.)  Otherwise it has to come
within 10% of the optimum on average.
"""

from __future__ import annotations

import functools
import random

import pytest

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue
from zserve.scheduling.entry import Entry

TICK_S = 0.01
SLACK_S = 1e-6  # floating point, not policy
Job = tuple[int, int]  # (arrival, deadline), ticks

REPLICA = b"replica"


def optimum(jobs: list[Job], slots: int, most: int, cost: tuple[int, int], *, may_idle: bool = True) -> int:
    """Most deadlines that can be met: *slots* servers, batches of up to *most*, taking a + b * n ticks."""
    fixed, each = cost
    deadlines = [deadline for _, deadline in jobs]

    @functools.cache
    def best(now: int, done: int, busy: tuple[int, ...]) -> int:
        """From *now* on: *done* is a bit mask of jobs begun, *busy* when the busy servers become free."""
        busy = tuple(end for end in busy if end > now)
        waiting = [
            job
            for job, (arrival, deadline) in enumerate(jobs)
            if not done >> job & 1 and arrival <= now and now + fixed + each <= deadline
        ]
        later = [arrival for job, (arrival, _) in enumerate(jobs) if not done >> job & 1 and arrival > now]
        # Wait for the next thing to happen ...
        events = [*later, *busy]
        idle = may_idle or len(busy) == slots or not waiting
        result = best(min(events), done, busy) if events and idle else 0
        # ... or start a batch of any of those that wait, in time for all of them (late ones gain nothing).
        if len(busy) < slots:
            for chosen in subsets(tuple(waiting), most):
                end = now + fixed + each * len(chosen)
                if all(end <= deadlines[job] for job in chosen):
                    mask = done
                    for job in chosen:
                        mask |= 1 << job
                    result = max(result, len(chosen) + best(now, mask, tuple(sorted((*busy, end)))))
        return result

    return best(0, 0, ())


@functools.cache
def subsets(items: tuple[int, ...], most: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for mask in range(1, 1 << len(items)):
        if mask.bit_count() <= most:
            found.append(tuple(item for index, item in enumerate(items) if mask >> index & 1))
    return found


def met(jobs: list[Job], slots: int, most: int, cost: tuple[int, int]) -> int:
    """Deadlines that the queue meets; it has seen what batches cost, and nothing else."""
    fixed, each = cost
    config = BackendConfig(max_batch_size=most if most > 1 else None, max_concurrent_queries=slots * most)
    queue = BackendQueue("b", config, random.Random(1), caution=1.0, margin_s=0.0)
    queue.replica_joined(REPLICA, -10.0)
    limit = slots * most
    queue.grant(REPLICA, 1, limit, -10.0)
    now = -TICK_S * sum(fixed + each * (index % most + 1) for index in range(80))
    for index in range(80):  # learn
        size = index % most + 1
        for item in range(size):
            queue.offer(Entry(id=bytes([200, index, item]), arrived=now), now)
        sent = queue.dispatch(now)
        assert sum(len(each.entries) for each in sent) == size
        now += (fixed + each * size) * TICK_S
        limit += size
        for dispatch in sent:
            for entry in dispatch.entries:
                queue.completed(REPLICA, entry.id, now, ok=True, run_s=(fixed + each * size) * TICK_S)
        queue.grant(REPLICA, 1, limit, now)
    running: list[tuple[int, list[Entry]]] = []
    count = 0
    for tick in range(max(deadline for _, deadline in jobs) + 1):
        now = tick * TICK_S
        for end, entries in [run for run in running if run[0] == tick]:
            running.remove((end, entries))
            for entry in entries:
                assert queue.completed(REPLICA, entry.id, now, ok=True, run_s=now - entry.sent_at) is entry
                count += now <= entry.deadline
            limit += len(entries)
            queue.grant(REPLICA, 1, limit, now)
        for index, (arrival, deadline) in enumerate(jobs):
            if arrival == tick:
                entry = Entry(id=bytes([index]), arrived=now, deadline=deadline * TICK_S + SLACK_S)
                queue.offer(entry, now)
        for dispatch in queue.dispatch(now):
            assert len(running) < slots
            running.append((tick + fixed + each * len(dispatch.entries), dispatch.entries))
        queue.expire(now)
    return count


def instances(count: int, seed: int, size: int, spread: int, budget: tuple[int, int]) -> list[list[Job]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        arrivals = sorted(rng.randint(0, spread) for _ in range(rng.randint(1, size)))
        made.append([(arrival, arrival + rng.randint(*budget)) for arrival in arrivals])
    return made


@pytest.mark.parametrize(
    ("slots", "most", "cost", "meets_all", "cases"),
    [
        pytest.param(1, 1, (0, 1), "always", instances(300, 1, 9, 5, (1, 6)), id="one server, unit jobs"),
        pytest.param(2, 1, (0, 1), "always", instances(250, 2, 9, 2, (1, 3)), id="two servers, unit jobs"),
        pytest.param(1, 1, (0, 3), "always", instances(200, 3, 8, 0, (2, 25)), id="all at once"),
        pytest.param(1, 1, (0, 3), "without idling", instances(300, 4, 8, 12, (3, 16)), id="jobs of three ticks"),
        pytest.param(1, 4, (4, 1), "always", instances(200, 5, 8, 0, (5, 22)), id="batches, all at once"),
        pytest.param(1, 4, (4, 1), "", instances(150, 6, 8, 12, (6, 20)), id="batches"),
    ],
)
def test_against_the_optimum(
    slots: int, most: int, cost: tuple[int, int], meets_all: str, cases: list[list[Job]]
) -> None:
    could, possible_in_all, met_in_all = 0, 0, 0
    for jobs in cases:
        possible, done = optimum(jobs, slots, most, cost), met(jobs, slots, most, cost)
        assert done <= possible, "the oracle is not one"
        if possible == len(jobs):
            if meets_all == "without idling":
                possible = optimum(jobs, slots, most, cost, may_idle=False)
            if meets_all and possible == len(jobs):
                could += 1
                assert done == possible, jobs
        else:
            possible_in_all += possible
            met_in_all += done
    assert could > 30 or not meets_all
    assert possible_in_all > 100
    assert met_in_all >= 0.9 * possible_in_all

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue, Entry
from zserve.scheduling.credits import RECALL_BITS
from zserve.scheduling.entry import NO_DEADLINE
from zserve.scheduling.room import Room

EPOCH = 1 << RECALL_BITS
R1, R2 = b"r1", b"r2"


def entry(number: int, deadline: float = NO_DEADLINE, *, now: float = 0.0, method: str = "", size: int = 10) -> Entry:
    return Entry(id=number.to_bytes(16, "big"), deadline=deadline, arrived=now, method=method, size=size)


def queue(*replicas: bytes, credit: int = 100, options: dict[str, Any] | None = None, **config: Any) -> BackendQueue:
    made = BackendQueue("b", BackendConfig(**config), random.Random(1), **(options or {}))
    for replica in replicas:
        made.replica_joined(replica, 0.0)
        made.grant(replica, EPOCH, credit, 0.0)
    return made


def numbers(entries: list[Entry]) -> list[int]:
    return [int.from_bytes(one.id, "big") for one in entries]


def sent(made: BackendQueue, now: float) -> list[tuple[bytes, list[int]]]:
    return [(each.replica, numbers(each.entries)) for each in made.dispatch(now)]


def offer(made: BackendQueue, *entries: Entry, now: float = 0.0) -> None:
    for one in entries:
        assert made.offer(one, now) is None


def teach(made: BackendQueue, replica: bytes, sizes: list[int], fixed: float, each: float, now: float = 0.0) -> float:
    """Let *replica* run batches of these sizes; returns the time at the end."""
    number = 1_000_000
    for size in sizes:
        batch = [entry(number + index, now=now) for index in range(size)]
        number += size
        offer(made, *batch, now=now)
        out = [one for dispatch in made.dispatch(now) for one in dispatch.entries]
        assert len(out) == size
        took = fixed + each * size
        now += took
        for one in out:
            assert made.completed(replica, one.id, now, ok=True, run_s=took) is one
    return now


def test_without_a_replica_requests_wait_until_their_deadline() -> None:
    made = queue()
    offer(made, entry(1, 0.5), entry(2))
    assert made.dispatch(0.1) == []
    assert made.next_wakeup() == 0.5
    assert made.expire(0.49) == []
    ((late, refusal),) = made.expire(0.5)
    assert (late.id[-1], refusal.status) == (1, 504)
    made.replica_joined(R1, 0.6)
    assert made.dispatch(0.6) == []  # no credit yet
    made.grant(R1, EPOCH, 1, 0.6)
    assert sent(made, 0.6) == [(R1, [2])]


@pytest.mark.parametrize("deadline", [0.0, -1.0, 9.999, -math.inf])
def test_a_deadline_in_the_past_is_refused(deadline: float) -> None:
    refusal = queue(R1).offer(entry(1, deadline), 10.0)
    assert refusal is not None
    assert refusal.status == 504


def test_a_deadline_that_is_no_number_is_refused() -> None:
    refusal = queue(R1).offer(entry(1, math.nan), 10.0)
    assert refusal is not None
    assert refusal.status == 400


def test_a_deadline_beyond_all_sense_is_as_good_as_none() -> None:
    made = queue(R1, credit=1)
    offer(made, entry(1, 1e300), entry(2, 5.0))
    assert sent(made, 0.0) == [(R1, [2])]
    made.grant(R1, EPOCH, 2, 0.0)
    assert sent(made, 0.0) == [(R1, [1])]


def test_an_urgent_request_overtakes_everything_that_is_not_sent() -> None:
    made = queue(R1, credit=1)
    offer(made, entry(1), entry(2), entry(3, 50.0))
    assert sent(made, 0.0) == [(R1, [3])]
    offer(made, entry(4, 1.0))
    made.grant(R1, EPOCH, 3, 0.0)
    assert sent(made, 0.0) == [(R1, [4]), (R1, [1])]


def test_the_queue_is_bounded_by_count_but_not_by_what_can_leave_at_once() -> None:
    made = queue(R1, credit=2, max_queued_requests=3)
    offer(made, *(entry(number) for number in range(5)))
    refusal = made.offer(entry(5), 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.retry_after_s) == (429, 1.0)
    assert "5 requests" in refusal.reason
    assert made.statistics()["refused"] == {"full": 1, "late_on_arrival": 0, "late_at_dequeue": 0}


def test_a_queue_of_zero_takes_what_can_be_sent_at_once() -> None:
    made = queue(R1, credit=1, max_queued_requests=0)
    offer(made, entry(1))
    assert made.offer(entry(2), 0.0) is not None
    assert sent(made, 0.0) == [(R1, [1])]


def test_the_queue_is_bounded_by_bytes() -> None:
    made = queue(options={"room": Room(100)})
    offer(made, entry(1, size=60))
    refusal = made.offer(entry(2, size=41), 0.0)
    assert refusal is not None
    assert refusal.status == 429
    assert "bytes" in refusal.reason
    offer(made, entry(3, size=40))
    made.cancel(entry(1).id, 0.0)
    offer(made, entry(4, size=60))


def test_a_request_that_cannot_be_in_time_is_refused_with_the_reason_and_when_to_come_back() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=4)
    now = teach(made, R1, [1, 2, 3, 4] * 10, 0.01, 0.0)
    offer(made, *(entry(number, now + 1.0, now=now) for number in range(40)), now=now)
    offer(made, *(entry(number, now + 0.015, now=now) for number in range(90, 94)), now=now)
    refusal = made.offer(entry(100, now + 0.015, now=now), now)
    assert refusal is not None, "the batch before it is full"
    assert refusal.status == 503
    assert "4 requests ahead" in refusal.reason
    assert refusal.retry_after_s == pytest.approx(0.01 + 0.11 * 1.25)
    refusal = made.offer(entry(101, now + 0.005, now=now), now)
    assert refusal is not None, "no batch is that fast"


def test_what_cannot_be_in_time_any_more_is_refused_when_its_turn_comes() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=4)
    now = teach(made, R1, [1, 2, 3, 4] * 10, 0.01, 0.0)
    offer(made, entry(1, now + 0.05, now=now), now=now)
    assert made.dispatch(now + 0.045) == []
    assert made.next_wakeup() == 0.0
    ((late, refusal),) = made.expire(now + 0.045)
    assert (late.id[-1], refusal.status) == (1, 503)
    assert made.expire(now + 0.1) == []
    assert made.statistics()["refused"]["late_at_dequeue"] == 1


def test_an_idle_backend_that_was_slow_is_tried_again() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=4)
    now = teach(made, R1, [1] * 20, 1.0, 0.0)
    assert made.offer(entry(1, now + 0.1, now=now), now) is not None
    now += 1.5
    offer(made, entry(2, now + 0.1, now=now), now=now)
    assert sent(made, now) == [(R1, [2])]
    refusal = made.offer(entry(3, now + 0.1, now=now), now)
    assert refusal is not None, "one is enough to learn from"


def test_a_hung_backend_refuses() -> None:
    made = queue(R1, credit=2)
    now = teach_single(made, 50)
    made.grant(R1, EPOCH, 54, now)
    offer(made, entry(1, now=now), entry(2, now=now), now=now)
    assert len(made.dispatch(now)) == 2
    made.grant(R1, EPOCH, 52, now)
    offer(made, *(entry(number, now + 10.0, now=now) for number in range(10, 20)), now=now)
    assert len(made.dispatch(now)) == 2
    now += 5.0
    refusal = made.offer(entry(3, now + 1.0, now=now), now)
    assert refusal is not None
    assert refusal.status == 503


def teach_single(made: BackendQueue, count: int) -> float:
    now = 0.0
    for number in range(count):
        made.grant(R1, EPOCH, number + 2, now)
        offer(made, entry(10_000 + number, now=now), now=now)
        assert len(made.dispatch(now)) == 1
        now += 0.01
        assert made.completed(R1, entry(10_000 + number).id, now, ok=True, run_s=0.01) is not None
    return now


def test_batches_share_a_method_and_leave_in_order() -> None:
    made = queue(R1, R2, max_batch_size=3)
    offer(made, entry(1, 9.0, method="a"), entry(2, 1.0, method="b"), entry(3, 5.0, method="a"), entry(4, method="b"))
    out = sent(made, 0.0)
    assert [batch for _, batch in out] == [[2, 4], [3, 1]]
    assert {replica for replica, _ in out} == {R1, R2}


def test_what_was_set_aside_for_its_method_comes_first_when_that_method_is_lost() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=2)
    now = teach(made, R1, [1, 2] * 20, 0.01, 0.0)
    lost = entry(1, now + 0.05, now=now, method="a")
    others = [entry(number, now + 10.0 + number, now=now, method="b") for number in range(2, 30)]
    offer(made, lost, *others, now=now)
    assert [batch for _, batch in sent(made, now + 0.045)] == [[2, 3]]
    assert [one.id for one, _ in made.expire(now + 0.045)] == [lost.id]


def test_a_batch_is_as_large_as_its_tightest_deadline_allows() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=32, options={"margin_s": 0.0})
    now = teach(made, R1, [size % 32 + 1 for size in range(64)], 0.005, 0.0001)
    offer(made, entry(1, now + 0.0060001, now=now), *(entry(number, now + 1.0, now=now) for number in range(2, 33)),
          now=now)  # fmt: skip
    assert sent(made, now) == [(R1, list(range(1, 11)))]


def test_a_batch_waits_for_more_only_when_told_to_and_from_its_first_request() -> None:
    made = queue(R1, max_batch_size=3, batch_wait_timeout=0.5)
    offer(made, entry(1, now=1.0), now=1.0)
    assert made.dispatch(1.0) == []
    assert made.next_wakeup() == 1.5
    offer(made, entry(2, now=1.4), now=1.4)
    assert made.dispatch(1.4) == []
    assert made.next_wakeup() == 1.5
    assert sent(made, 1.5) == [(R1, [1, 2])]
    assert made.next_wakeup() is None


def test_a_full_batch_and_a_tight_deadline_do_not_wait() -> None:
    made = queue(R1, max_batch_size=2, batch_wait_timeout=5.0)
    offer(made, entry(1), entry(2))
    assert sent(made, 0.0) == [(R1, [1, 2])]
    tight = queue(R2, max_batch_size=2, batch_wait_timeout=5.0)
    offer(tight, entry(3, 1.0))
    assert tight.dispatch(0.0) == []
    wakeup = tight.next_wakeup()
    assert wakeup is not None
    assert 0.9 < wakeup < 1.0
    assert sent(tight, wakeup) == [(R2, [3])]


def test_the_next_batch_is_sent_ahead_just_before_the_replica_is_free() -> None:
    made = queue(R1, credit=1_000_000, max_batch_size=4)
    now = teach(made, R1, [4] * 30, 0.1, 0.0)
    offer(made, *(entry(number, now=now) for number in range(12)), now=now)
    assert sent(made, now) == [(R1, [0, 1, 2, 3])]
    wakeup = made.next_wakeup()
    assert wakeup == pytest.approx(now + 0.1, abs=0.002)
    assert wakeup < now + 0.1
    assert made.dispatch(wakeup - 0.001) == []
    offer(made, entry(50, wakeup + 3.0, now=now), now=wakeup)
    assert sent(made, wakeup) == [(R1, [50, 4, 5, 6])]
    assert made.dispatch(wakeup) == [], "one ahead, not two"


def test_cancel_takes_a_queued_request_out_at_once() -> None:
    made = queue()
    offer(made, entry(1), entry(2, 5.0))
    gone = made.cancel(entry(2).id, 0.0)
    assert gone is not None
    assert gone.replica == b""
    assert len(made) == 1
    assert made.cancel(entry(2).id, 0.0) is None
    assert made.next_wakeup() is None


def test_cancel_in_flight_names_the_replica_and_its_completion_is_nobodys() -> None:
    made = queue(R1)
    offer(made, entry(1))
    made.dispatch(0.0)
    gone = made.cancel(entry(1).id, 0.0)
    assert gone is not None
    assert gone.replica == R1
    assert made.in_flight == 1
    assert made.completed(R1, entry(1).id, 0.1, ok=True, run_s=0.1) is None
    assert made.in_flight == 0
    assert made.completed(R1, entry(1).id, 0.1, ok=True, run_s=0.1) is None


def test_answers_from_the_wrong_replica_are_nobodys() -> None:
    made = queue(R1, R2, credit=1)
    offer(made, entry(1))
    ((replica, _),) = sent(made, 0.0)
    other = R2 if replica == R1 else R1
    assert made.completed(other, entry(1).id, 0.1, ok=True, run_s=0.1) is None
    assert made.completed(b"stranger", entry(1).id, 0.1, ok=True, run_s=0.1) is None
    assert made.completed(replica, entry(1).id, 0.1, ok=True, run_s=0.1) is not None


def test_what_a_dead_replica_had_goes_back_to_its_own_place() -> None:
    made = queue(R1, credit=2, max_batch_size=2)
    offer(made, *(entry(number) for number in range(1, 5)))
    assert sent(made, 0.0) == [(R1, [1, 2])]
    lost = made.replica_left(R1, 0.0)
    assert numbers(lost) == [1, 2]
    for one in reversed(lost):
        made.requeue(one, 0.0)
    made.replica_joined(R2, 0.0)
    made.grant(R2, EPOCH, 4, 0.0)
    assert sent(made, 0.0) == [(R2, [1, 2])]
    assert made.completed(R1, entry(1).id, 0.1, ok=True, run_s=0.1) is None
    assert made.statistics()["retried"] == 2
    assert made.statistics()["lost"] == 2


def test_what_is_handed_back_frees_the_replica() -> None:
    made = queue(R1, max_batch_size=2)
    offer(made, entry(1), entry(2), entry(3))
    assert sent(made, 0.0) == [(R1, [1, 2])]
    for number in (1, 2):
        back = made.returned(R1, entry(number).id, 0.1)
        assert back is not None
        made.requeue(back, 0.1)
    assert made.returned(R1, entry(1).id, 0.1) is None
    assert sent(made, 0.1) == [(R1, [1, 2])]
    assert made.statistics()["service_time"]["samples"] == 0


def test_drain_gives_back_what_waits_and_keeps_what_runs() -> None:
    made = queue(R1, credit=1)
    offer(made, *(entry(number, 9.0 if number % 2 else NO_DEADLINE) for number in range(1, 6)))
    assert sent(made, 0.0) == [(R1, [1])]
    assert numbers(made.drain()) == [2, 3, 4, 5]
    assert len(made) == 0
    assert made.in_flight == 1
    assert made.next_wakeup() is None


def test_demand_is_told_when_it_changes_and_answers_recalls() -> None:
    made = queue(R1, credit=1)
    assert made.demand_due(0.0) == [R1]
    assert made.demand(R1, 0.0) == (EPOCH, 0, 0, -1)
    assert made.demand_due(0.0) == []
    offer(made, entry(1, 5.0), entry(2, 0.25))
    assert made.demand_due(0.0) == [R1]
    assert made.demand(R1, 0.0) == (EPOCH, 0, 2, 250_000)
    assert made.demand_due(0.4) == []
    assert made.demand_due(0.6) == [R1]
    made.dispatch(0.0)
    made.grant(R1, EPOCH + 1, 0, 0.0)
    assert made.demand_due(0.0) == [R1]
    assert made.demand(R1, 0.0)[:3] == (EPOCH + 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"max_batch_size": 0}, "max_batch_size.*0"),
        ({"max_queued_requests": -1}, "max_queued_requests.*-1"),
        ({"batch_wait_timeout": math.nan}, "batch_wait_timeout.*nan"),
        ({"max_concurrent_queries": 0}, "max_concurrent_queries.*0"),
    ],
)
def test_a_bad_config_changes_nothing(config: dict[str, Any], says: str) -> None:
    made = queue(R1, max_batch_size=2)
    before = made.config
    with pytest.raises(ValueError, match=says):
        made.configure(BackendConfig(**config), 0.0)
    assert made.config == before
    offer(made, entry(1), entry(2), entry(3))
    assert sent(made, 0.0) == [(R1, [1, 2])]


def test_a_config_change_is_in_force_with_the_next_dispatch_and_runs_out_what_runs() -> None:
    made = queue(R1, max_batch_size=2)
    offer(made, *(entry(number) for number in range(1, 6)))
    assert sent(made, 0.0) == [(R1, [1, 2])]
    made.configure(BackendConfig(), 0.0)
    assert sent(made, 0.0) == [(R1, [3]), (R1, [4]), (R1, [5])]
    for number in range(1, 6):
        assert made.completed(R1, entry(number).id, 0.1, ok=True, run_s=0.1) is not None
    made.configure(BackendConfig(max_batch_size=8), 0.2)
    offer(made, entry(6), entry(7), now=0.2)
    assert sent(made, 0.2) == [(R1, [6, 7])]


def test_the_same_id_twice_is_a_mistake_of_the_caller() -> None:
    made = queue()
    offer(made, entry(1))
    with pytest.raises(ValueError, match="waits already"):
        made.offer(entry(1), 0.0)
    made.replica_joined(R1, 0.0)
    with pytest.raises(ValueError, match="joined already"):
        made.replica_joined(R1, 0.0)


def test_every_decision_is_counted() -> None:
    made = queue(R1, credit=2, max_queued_requests=4)
    offer(made, entry(1), entry(2), entry(3), entry(4, 0.5))
    assert made.offer(entry(9, -1.0), 0.0) is not None
    assert len(made.dispatch(0.0)) == 2
    made.completed(R1, made_in_flight(made)[0], 0.1, ok=True, run_s=0.1)
    made.cancel(entry(2).id, 0.2)
    made.expire(0.6)
    figures = made.statistics()
    assert figures["admitted"] == 4
    assert figures["completed"] == 1
    assert figures["cancelled"] == 1
    assert figures["expired"] == 1
    assert figures["sent"] == 2
    assert figures["batches"] == 2
    assert figures["batch_size"] == {"mean": 1.0, "max": 1, "histogram": {1: 2}}
    assert figures["replicas"][R1.hex()]["latency_s"] == 0.1


def made_in_flight(made: BackendQueue) -> list[bytes]:
    return [id_ for member in made._fleet.members.values() for id_ in member.held]


def test_a_late_answer_counts_as_a_missed_deadline() -> None:
    made = queue(R1)
    offer(made, entry(1, 1.0))
    made.dispatch(0.0)
    assert made.completed(R1, entry(1).id, 1.5, ok=True, run_s=1.5) is not None
    assert made.statistics()["missed"] == 1


def test_a_cancelled_twin_does_not_hide_the_one_that_runs() -> None:
    """A gateway's link broke and came back: the same id again, while the first run has not ended yet."""
    queue = BackendQueue("b", BackendConfig(), random.Random(1))
    for replica in (b"r1", b"r2"):
        queue.replica_joined(replica, 0.0)
        queue.grant(replica, 1, 1, 0.0)
    first, second = Entry(id=b"k" * 16), Entry(id=b"k" * 16)
    assert queue.offer(first, 0.0) is None
    assert len(queue.dispatch(0.0)) == 1
    assert queue.cancel(first.id, 0.1) is first
    assert queue.offer(second, 0.2) is None
    assert len(queue.dispatch(0.2)) == 1
    assert second.replica != first.replica
    assert queue.get(second.id) is second
    assert queue.cancel(second.id, 0.3) is second
    assert queue.get(second.id) is None


@pytest.mark.parametrize("batch", [None, 4])
def test_a_request_that_comes_again_while_its_replica_has_it_cancelled_leaves_nothing_behind(batch: int | None) -> None:
    made = queue(R1, max_batch_size=batch)
    began = teach(made, R1, [1] * 8, 0.01, 0.0)
    offer(made, entry(1, now=began), now=began)
    assert sent(made, began) == [(R1, [1])]
    assert made.cancel(entry(1).id, began) is not None
    again = began + 0.1  # by now its turn at the replica should be over
    offer(made, entry(1, now=again), now=again)
    assert sent(made, again) == [(R1, [1])]
    assert made.in_flight == 1
    assert made.completed(R1, entry(1).id, again + 0.1, ok=True, run_s=0.01) is not None
    assert made.completed(R1, entry(1).id, again + 0.1, ok=True, run_s=0.01) is None
    assert made.in_flight == 0
    assert made._ghosts == 0
    assert not made._members[R1].batches
    offer(made, entry(2, now=again + 0.2), now=again + 0.2)
    assert sent(made, again + 0.2) == [(R1, [2])], "its slot is free"


def test_ghosts_are_counted_out_however_they_end() -> None:
    made = queue(R1, R2)
    offer(made, entry(1), entry(2), entry(3))
    where = {numbers_[0]: replica for replica, numbers_ in sent(made, 0.0)}
    for number in where:
        assert made.cancel(entry(number).id, 0.1) is not None
    assert made._ghosts == 3
    first, *others = where
    assert made.returned(where[first], entry(first).id, 0.2) is None
    for replica in {where[number] for number in others}:
        assert made.replica_left(replica, 0.3) == []
    assert made._ghosts == 0


def test_the_queueing_policy_may_change_while_requests_wait() -> None:
    made = queue(R1, credit=1)
    offer(made, entry(1, 9.0), entry(2, 5.0), entry(3, 7.0))
    made.configure(BackendConfig(queue_order="fifo"), 0.0)
    assert sent(made, 0.0) == [(R1, [1])]
    made.configure(BackendConfig(queue_order="edf"), 0.1)
    made.grant(R1, EPOCH, 3, 0.1)
    assert [number for _, numbers_ in sent(made, 0.1) for number in numbers_] == [2, 3]

"""The replica's core, driven by events with invented times."""

from __future__ import annotations

import gc
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.cores.replica import PATIENCE_S, SETTLE_S, ReplicaCore
from zserve.handler.pace import ASYNC_DEFAULT
from zserve.handler.recent import RecentAnswers
from zserve.handler.runs import Run
from zserve.http.answers import KIND_TEXT, ORIGIN_CODE, ORIGIN_REPLICA
from zserve.registry.registry import Registry
from zserve.registry.sync import ConfigSync
from zserve.registry.values import BackendValue, encode_value
from zserve.wire.messages import (
    FLAG_IDEMPOTENT,
    FLAG_WEB,
    Call,
    Cancel,
    Demand,
    Goodbye,
    Grant,
    Hello,
    NodeInfo,
    Records,
    Result,
    Return,
)

A, B = b"router-a", b"router-b"


def hello(role: str = "router") -> Hello:
    return Hello(1, 1, NodeInfo(b"n" * 16, b"b" * 8, role))


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def call(
    number: int,
    *,
    batch: int | None = None,
    size: int = 1,
    budget_s: float | None = None,
    flags: int = FLAG_WEB,
    method: str = "",
) -> tuple[Call, bytes, bytes]:
    budget_us = -1 if budget_s is None else int(budget_s * 1e6)
    message = Call(request_id(number), number if batch is None else batch, size, "e", budget_us, flags, method)
    return message, b"head", b"body"


class Bench:
    """A core with links, and everything that it sent, sorted by kind."""

    def __init__(self, config: BackendConfig | None = None, routers: tuple[bytes, ...] = (A,), **options: Any) -> None:
        self.core = ReplicaCore("b", config, **options)
        self.now = 100.0
        self.results: list[tuple[bytes, Result, bytes]] = []
        self.returns: list[tuple[bytes, Return]] = []
        self.grants: dict[bytes, Grant] = {}
        self.runs: list[Run] = []
        self.running: set[Run] = set()
        for router in routers:
            self.core.link_up(router, hello(), self.now)
        self.take()

    def take(self) -> None:
        for peer, parcels in self.core.out.take().items():
            for message, _head, body in parcels:
                if isinstance(message, Result):
                    self.results.append((peer, message, body))
                elif isinstance(message, Return):
                    self.returns.append((peer, message))
                elif isinstance(message, Grant):
                    self.grants[peer] = message
        self.runs += self.core.runs
        self.core.runs = []

    def receive(self, *parcels: Any, peer: bytes = A) -> None:
        self.core.receive(peer, [p if isinstance(p, tuple) else (p, b"", b"") for p in parcels], self.now)
        self.take()

    def settle(self, sent: int, peer: bytes = A) -> None:
        """A router says how many calls it has sent in all."""
        self.receive(Demand(self.grants[peer].epoch, sent, 0), peer=peer)

    def start(self, run: Run) -> bool:
        """What the executor does first; False when the core has taken the run back."""
        if run not in self.running and not run.claim():
            return False
        self.running.add(run)
        run.started = run.started or self.now
        return True

    def finish(self, run: Run, *answers: Any, run_s: float = 0.001) -> None:
        if not self.start(run):
            self.core.finished([(run, None)], self.now)
            self.take()
            return
        self.now += run_s
        run.ended = self.now
        given = list(answers) or [(200, KIND_TEXT, b"", b"ok", ORIGIN_CODE)] * len(run.calls)
        self.core.finished([(run, given)], self.now)
        self.take()

    def skip(self, run: Run) -> None:
        """The executor comes to the run too late."""
        run.claim()
        self.core.finished([(run, None)], self.now)
        self.take()

    def tick(self, later_s: float = 0.0) -> None:
        self.now += later_s
        self.core.tick(self.now)
        self.take()

    @property
    def statuses(self) -> list[tuple[int, int]]:
        """(number of the request, status) of all results."""
        return [(int.from_bytes(result.id, "big"), result.status) for _, result, _ in self.results]

    @property
    def returned(self) -> list[int]:
        return [int.from_bytes(one, "big") for _, message in self.returns for one in message.ids]


def numbers(run: Run) -> list[int]:
    return [int.from_bytes(one.id, "big") for one in run.calls]


# --- the way of a call ------------------------------------------------------------------------------------------------


def test_a_call_is_run_and_answered_on_its_link() -> None:
    bench = Bench()
    bench.receive(call(1))
    assert [numbers(run) for run in bench.runs] == [[1]]
    bench.now += 0.002
    bench.finish(bench.runs[0], (201, KIND_TEXT, b"h", b"made", ORIGIN_CODE), run_s=0.003)
    peer, result, body = bench.results[0]
    assert (peer, result.status, result.kind, result.origin, body) == (A, 201, KIND_TEXT, ORIGIN_CODE, b"made")
    assert (result.queue_us, result.batch_us, result.run_us) == pytest.approx((0, 2000, 3000), abs=1)
    assert bench.core.held == 0


def test_queue_time_is_what_the_call_waited_for_its_turn() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8), routers=(A,))
    bench.core._pace.run_s = 1.0  # long runs: nothing is given ahead
    bench.core._pace.threads = 1
    bench.receive(call(1), call(2))
    bench.finish(bench.runs[0], run_s=0.5)
    bench.finish(bench.runs[1], run_s=0.25)
    assert bench.results[1][1].queue_us == pytest.approx(500_000, abs=2)


def test_calls_of_one_batch_become_one_run() -> None:
    bench = Bench(BackendConfig(max_batch_size=4), accepts_batch=True)
    bench.receive(*(call(n, batch=7, size=3) for n in (1, 2, 3)), *(call(n, batch=8, size=2) for n in (4, 5)))
    assert [numbers(run) for run in bench.runs] == [[1, 2, 3], [4, 5]]
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 200), (2, 200), (3, 200)]
    assert bench.core.largest_batch == 3


def test_a_batch_larger_than_the_config_is_cut() -> None:
    bench = Bench(BackendConfig(max_batch_size=2), accepts_batch=True)
    bench.receive(*(call(n, batch=7, size=5) for n in range(5)))
    for index in range(3):
        bench.finish(bench.runs[index])
    assert [numbers(run) for run in bench.runs] == [[0, 1], [2, 3], [4]]
    assert bench.core.held == 0


def test_methods_are_not_mixed_in_a_run() -> None:
    bench = Bench(BackendConfig(max_batch_size=4), accepts_batch=True)
    bench.receive(call(1, batch=7, size=2, method="a"), call(2, batch=7, size=2, method="b"))
    assert [(run.method, numbers(run)) for run in bench.runs] == [("a", [1]), ("b", [2])]


def test_without_accept_batch_each_call_is_a_run() -> None:
    bench = Bench(BackendConfig(max_batch_size=4))
    bench.receive(call(1, batch=7, size=2), call(2, batch=7, size=2))
    assert [numbers(run) for run in bench.runs] == [[1], [2]]


def test_the_earliest_deadline_runs_first_and_no_deadline_waits_a_second_at_most() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    bench.receive(call(0))
    bench.receive(call(1, budget_s=PATIENCE_S + 9), call(2), call(3, budget_s=0.5))
    for index in range(4):
        bench.finish(bench.runs[index], run_s=0.01)
        bench.core._pace.run_s = 1.0
    assert [numbers(run) for run in bench.runs] == [[0], [3], [2], [1]]


def test_short_runs_are_given_ahead_and_long_ones_are_not() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=100))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 0.0001
    bench.receive(*(call(n) for n in range(50)))
    assert len(bench.runs) == 1 + 21
    slow = Bench(BackendConfig(max_concurrent_queries=100))
    slow.core._pace.threads = 1
    slow.core._pace.run_s = 0.1
    slow.receive(*(call(n) for n in range(50)))
    assert len(slow.runs) == 1


def test_explicit_concurrency_gives_as_many_threads() -> None:
    assert ReplicaCore("b", BackendConfig(max_concurrent_queries=8)).threads == 8
    batching = BackendConfig(max_concurrent_queries=8, max_batch_size=4)
    assert ReplicaCore("b", batching, accepts_batch=True).threads == 2
    assert ReplicaCore("b", BackendConfig()).threads == 1
    assert ReplicaCore("b", BackendConfig(max_concurrent_queries=1_000_000)).threads == 512


def test_wrong_number_of_answers_answers_every_call() -> None:
    bench = Bench(BackendConfig(max_batch_size=4), accepts_batch=True)
    bench.receive(call(1, batch=7, size=2), call(2, batch=7, size=2))
    bench.finish(bench.runs[0], (200, KIND_TEXT, b"", b"", ORIGIN_CODE))
    assert bench.statuses == [(1, 500), (2, 500)]
    assert b"1 answers for 2 calls" in bench.results[0][2]


def test_a_run_reported_twice_is_answered_once() -> None:
    bench = Bench()
    bench.receive(call(1))
    bench.finish(bench.runs[0])
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 200)]


def test_what_has_been_answered_is_freed_without_the_collector() -> None:
    bench = Bench(BackendConfig(max_batch_size=4), accepts_batch=True)
    gc.collect()
    gc.disable()
    try:
        bench.receive(call(1, batch=7, size=2), call(2, batch=7, size=2))
        bench.finish(bench.runs[0])
        bench.receive(call(3, budget_s=0.0), call(4))
        bench.receive(Cancel([request_id(4)]))
        bench.skip(bench.runs[1])
        bench.runs.clear()
        bench.running.clear()
        assert gc.collect() == 0
    finally:
        gc.enable()


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_us", [0, -2, -(2**63)])
def test_expired_on_arrival(budget_us: int) -> None:
    bench = Bench()
    bench.receive((Call(request_id(1), 1, 1, "e", budget_us), b"", b""))
    assert bench.statuses == [(1, 504)]
    assert bench.results[0][1].origin == ORIGIN_REPLICA
    assert not bench.runs
    assert bench.core.held == 0


def test_expired_while_it_waits() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    bench.receive(call(1, budget_s=9.0))
    bench.receive(call(2, budget_s=0.25), call(3, budget_s=0.5), call(4))
    assert bench.core.next_wakeup() == pytest.approx(bench.now + 0.25) or bench.core.next_wakeup() <= bench.now
    bench.tick(0.3)
    assert bench.statuses == [(2, 504)]
    assert bench.core.next_wakeup() == pytest.approx(bench.now + 0.2)
    bench.tick(0.2)
    assert bench.statuses == [(2, 504), (3, 504)]
    bench.finish(bench.runs[0])
    assert numbers(bench.runs[-1]) == [4]


def test_the_expired_are_taken_out_of_a_batch() -> None:
    bench = Bench(BackendConfig(max_batch_size=4, max_concurrent_queries=4), accepts_batch=True)
    bench.core._pace.run_s = 1.0
    bench.receive(call(0))
    bench.receive(call(1, batch=7, size=2, budget_s=0.1), call(2, batch=7, size=2))
    bench.now += 0.2
    bench.finish(bench.runs[0])
    assert numbers(bench.runs[1]) == [2]
    assert (1, 504) in bench.statuses


def test_a_run_that_the_executor_did_not_start_in_time_is_answered() -> None:
    bench = Bench()
    bench.receive(call(1, budget_s=0.1))
    bench.now += 0.2
    bench.skip(bench.runs[0])
    assert bench.statuses == [(1, 504)]


def test_what_was_given_ahead_behind_a_stuck_run_is_answered() -> None:
    bench = Bench()
    bench.receive(call(1), call(2, budget_s=0.5))
    bench.start(bench.runs[0])
    bench.tick(1.5)
    assert bench.statuses == [(2, 504)]
    assert not bench.start(bench.runs[1])


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_cancel_before_it_started() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    bench.receive(call(1), call(2))
    bench.start(bench.runs[0])
    bench.receive(Cancel([request_id(2), request_id(99)]))
    assert bench.statuses == [(2, 499)]
    bench.finish(bench.runs[0])
    assert len(bench.runs) == 1
    assert bench.core.held == 0


def test_cancel_in_the_message_of_the_call() -> None:
    bench = Bench(BackendConfig(max_batch_size=4, max_concurrent_queries=4), accepts_batch=True)
    bench.receive(call(1, batch=7, size=2), call(2, batch=7, size=2), Cancel([request_id(1)]))
    assert [numbers(run) for run in bench.runs] == [[2]]
    assert bench.statuses == [(1, 499)]


def test_cancel_of_a_running_coroutine_aborts_it_once() -> None:
    bench = Bench(asynchronous=True)
    bench.receive(call(1))
    bench.start(bench.runs[0])
    bench.receive(Cancel([request_id(1)]))
    bench.receive(Cancel([request_id(1)]))
    assert bench.core.aborts == bench.runs
    assert not bench.results
    bench.finish(bench.runs[0], (499, KIND_TEXT, b"", b"cancelled", ORIGIN_REPLICA))
    assert bench.statuses == [(1, 499)]


def test_a_batch_is_aborted_when_all_of_it_is_cancelled() -> None:
    bench = Bench(BackendConfig(max_batch_size=4), accepts_batch=True, asynchronous=True)
    bench.receive(call(1, batch=7, size=2), call(2, batch=7, size=2))
    bench.start(bench.runs[0])
    bench.receive(Cancel([request_id(1)]))
    assert not bench.core.aborts
    bench.receive(Cancel([request_id(2)]))
    assert bench.core.aborts == bench.runs


def test_cancel_of_a_running_sync_call_keeps_its_slot_until_it_ends() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=1))
    bench.receive(call(1))
    bench.start(bench.runs[0])
    before = bench.grants[A].limit
    bench.receive(Cancel([request_id(1)]))
    assert not bench.core.aborts
    assert not bench.results
    assert bench.grants[A].limit == before
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 200)]
    assert bench.grants[A].limit == before + 1


def test_a_run_given_ahead_is_taken_back_when_it_is_cancelled() -> None:
    bench = Bench()
    bench.receive(call(1), call(2))
    bench.receive(Cancel([request_id(2)]))
    assert bench.statuses == [(2, 499)]
    assert not bench.start(bench.runs[1])
    bench.finish(bench.runs[1])
    assert bench.statuses == [(2, 499)]


def test_an_abandoned_coroutine_is_aborted_after_its_deadline() -> None:
    bench = Bench(asynchronous=True)
    bench.receive(call(1, budget_s=2.0))
    bench.start(bench.runs[0])
    bench.tick(1.0)
    assert not bench.core.aborts
    bench.tick(2.0)
    bench.tick(2.0)
    assert bench.core.aborts == bench.runs


# --- the same request again -------------------------------------------------------------------------------------------


def test_a_repeated_request_is_answered_from_memory() -> None:
    bench = Bench(routers=(A, B))
    bench.receive(call(1))
    bench.finish(bench.runs[0])
    bench.receive(call(1), peer=B)
    assert [(peer, result.status, body) for peer, result, body in bench.results] == [(A, 200, b"ok"), (B, 200, b"ok")]
    assert len(bench.runs) == 1
    assert bench.core.repeated == 1


def test_a_repeated_request_joins_the_running_one() -> None:
    bench = Bench(routers=(A, B))
    bench.receive(call(1))
    bench.receive(call(1), peer=B)
    bench.finish(bench.runs[0])
    assert sorted(peer for peer, _, _ in bench.results) == [A, B]
    assert len(bench.runs) == 1


def test_the_second_router_takes_over_when_the_first_dies() -> None:
    bench = Bench(routers=(A, B), asynchronous=True)
    bench.receive(call(1))
    bench.start(bench.runs[0])
    bench.core.link_down(A, "died", bench.now)
    bench.take()
    assert not bench.core.aborts
    bench.receive(call(1), peer=B)
    bench.tick(30.0)
    assert not bench.core.aborts
    bench.finish(bench.runs[0])
    assert [(peer, result.status) for peer, result, _ in bench.results] == [(B, 200)]


def test_what_a_dead_router_asked_for_and_nobody_else_is_dropped() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8), routers=(A, B))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    bench.receive(call(1), call(2))
    bench.start(bench.runs[0])
    bench.core.link_down(A, "died", bench.now)
    bench.take()
    assert bench.core.held == 1  # the running one
    bench.finish(bench.runs[0])
    assert not bench.results
    assert bench.core.held == 0
    bench.receive(call(1), peer=B)
    assert bench.results[0][0] == B


def test_an_orphaned_coroutine_is_aborted_after_the_grace() -> None:
    bench = Bench(asynchronous=True)
    bench.receive(call(1))
    bench.start(bench.runs[0])
    bench.core.link_down(A, "died", bench.now)
    bench.tick(5.0)
    assert not bench.core.aborts
    bench.tick(6.0)
    assert bench.core.aborts == bench.runs


def test_an_answer_too_large_to_remember() -> None:
    bench = Bench(recent=RecentAnswers(max_entries=8, max_bytes=8000))
    bench.receive(call(1), call(2, flags=FLAG_IDEMPOTENT))
    for run in list(bench.runs):
        bench.finish(run, (200, KIND_TEXT, b"", b"x" * 2000, ORIGIN_CODE))
    bench.receive(call(1))
    assert bench.statuses[-1] == (1, 502)
    bench.receive(call(2, flags=FLAG_IDEMPOTENT))
    assert numbers(bench.runs[-1]) == [2]  # declared harmless: it runs again


# --- credits ----------------------------------------------------------------------------------------------------------


def test_the_first_grant_is_the_capacity() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=5))
    assert bench.grants[A].limit == 5


def test_capacity_is_split_between_routers() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8), routers=(A,))
    bench.core.link_up(B, hello(), bench.now)
    bench.take()
    # The first has all until it answers the recall with what it has used.
    bench.receive(Demand(bench.grants[A].epoch, 0, 0))
    assert bench.grants[A].limit + bench.grants[B].limit == 8


def test_a_finished_call_frees_its_credit_and_a_dead_router_all_of_its() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=2), routers=(A,))
    bench.receive(call(1), call(2))
    assert bench.grants[A].limit == 2
    bench.start(bench.runs[1])
    bench.finish(bench.runs[0])
    assert bench.grants[A].limit == 3
    bench.core.link_down(A, "died", bench.now)
    bench.core.link_up(B, hello(), bench.now)
    bench.take()
    assert bench.grants[B].limit == 1  # one still runs
    bench.finish(bench.runs[1])
    assert bench.grants[B].limit == 2


def test_the_grant_rides_on_the_heartbeat() -> None:
    bench = Bench()
    bench.grants.clear()
    ping = bench.core.ping(A, bench.now)
    bench.take()
    assert bench.grants[A].limit >= 1
    assert (ping.progress_us, ping.leaving) == (-1, False)


def test_progress_tells_for_how_long_nothing_was_finished() -> None:
    bench = Bench()
    bench.now += 50.0
    bench.receive(call(1), call(2))
    assert bench.core.ping(A, bench.now + 2.0).progress_us == pytest.approx(2_000_000, abs=2)
    bench.finish(bench.runs[0])
    assert bench.core.ping(A, bench.now + 0.5).progress_us == pytest.approx(500_000, abs=2)


def test_a_replica_that_has_a_place_for_more_is_not_held_up() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=2))
    bench.receive(call(1))
    assert bench.core.ping(A, bench.now + 20.0).progress_us == -1
    bench.receive(call(2))
    assert bench.core.ping(A, bench.now + 20.0).progress_us == pytest.approx(20_000_000, abs=2)
    bench.finish(bench.runs[0])
    assert bench.core.ping(A, bench.now + 20.0).progress_us == -1


def test_calls_far_beyond_the_grant_come_back() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=1))
    bench.receive(*(call(n) for n in range(100)))
    assert len(bench.returned) == 100 - 1 - 16
    assert bench.core.held == 17


def test_capacity_follows_the_service_time() -> None:
    bench = Bench()
    slow = bench.core.capacity
    bench.receive(call(1))
    bench.finish(bench.runs[0], run_s=0.00001)
    assert bench.core.capacity > 50 > slow
    for n in range(2, 100):
        bench.receive(call(n))
        bench.finish(bench.runs[-1], run_s=0.1)
    assert bench.core.capacity == slow


def test_async_capacity() -> None:
    assert ReplicaCore("b", asynchronous=True).capacity == ASYNC_DEFAULT
    assert ReplicaCore("b", BackendConfig(max_concurrent_queries=3), asynchronous=True).capacity == 3
    bench = Bench(BackendConfig(max_concurrent_queries=3), asynchronous=True)
    bench.receive(*(call(n) for n in range(8)))
    assert len(bench.runs) == 3


def test_config_change_takes_effect_at_once() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=1))
    bench.receive(call(1), call(2), call(3))
    assert len(bench.runs) == 2  # one, and one ahead
    bench.core.apply_config(BackendConfig(max_concurrent_queries=4), bench.now)
    bench.take()
    assert bench.core.threads == 4
    assert len(bench.runs) == 3
    assert bench.grants[A].limit == 4


def test_the_registry_tells_of_a_new_config() -> None:
    info = NodeInfo(b"r" * 16, b"b" * 8, "replica")
    sync = ConfigSync(info, lambda: 1_000)
    bench = Bench(sync=sync)
    writer = Registry(b"w" * 16)
    for limit in (7, 9):
        value = encode_value(BackendValue(code="m:f", version="1", config=BackendConfig(max_concurrent_queries=limit)))
        held = writer.get("backend/b")
        record = writer.write("backend/b", value, held.stamp if held else None, 1_000 + limit)
        bench.receive(Records([record]))
        assert bench.core.config.max_concurrent_queries == limit
        assert bench.core.threads == limit
    assert bench.grants[A].limit == 9
    assert bench.core.ping(A, bench.now).digest == writer.digest()


# --- drain and exit ---------------------------------------------------------------------------------------------------


def test_drain_returns_the_unstarted_and_finishes_the_rest() -> None:
    bench = Bench(BackendConfig(max_concurrent_queries=8))
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    bench.receive(call(1), call(2), call(3))
    bench.start(bench.runs[0])
    bench.core.drain(bench.now)
    bench.take()
    assert sorted(bench.returned) == [2, 3]
    assert not bench.core.drained
    assert bench.core.ping(A, bench.now).leaving
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 200)]
    assert bench.grants[A].limit == 3  # what was sent, and nothing more
    bench.settle(3)
    assert bench.core.drained


def test_drain_takes_back_what_was_given_ahead() -> None:
    bench = Bench()
    bench.receive(call(1), call(2))
    assert len(bench.runs) == 2
    bench.start(bench.runs[0])
    bench.core.drain(bench.now)
    bench.take()
    assert bench.returned == [2]
    assert not bench.start(bench.runs[1])
    bench.finish(bench.runs[1])
    bench.finish(bench.runs[0])
    assert bench.returned == [2]
    assert bench.statuses == [(1, 200)]


def test_calls_that_arrive_while_draining_come_back() -> None:
    bench = Bench()
    bench.core.drain(bench.now)
    bench.take()
    bench.settle(1)
    assert not bench.core.drained, "the router has sent one that has not arrived: it would be lost"
    bench.receive(call(1))
    assert bench.returned == [1]
    assert bench.core.drained


def granted_to_two() -> Bench:
    bench = Bench(BackendConfig(max_concurrent_queries=8), (A, B))
    bench.receive(Demand(bench.grants[B].epoch, 0, 4), peer=B)
    bench.settle(0)
    assert bench.grants[A].limit
    assert bench.grants[B].limit
    return bench


def test_an_idle_replica_is_drained_when_its_routers_have_said_that_nothing_is_on_its_way() -> None:
    bench = granted_to_two()
    assert not bench.core.drained
    bench.core.drain(bench.now)
    bench.take()
    bench.settle(0)
    assert not bench.core.drained
    bench.settle(0, B)
    assert bench.core.drained


def test_a_router_that_does_not_answer_or_goes_holds_no_drain_up() -> None:
    bench = granted_to_two()
    bench.core.drain(bench.now)
    bench.take()
    bench.core.link_down(B, "gone", bench.now)
    assert not bench.core.drained
    assert bench.core.next_wakeup() <= bench.now + SETTLE_S
    bench.tick(SETTLE_S)
    assert bench.core.drained


def test_fail_drains_and_asks_for_the_exit() -> None:
    bench = Bench()
    bench.core.fail("sys.exit(3)", bench.now)
    assert bench.core.exits == ["sys.exit(3)"]
    assert bench.core.draining


def test_a_stuck_sync_call_that_nobody_waits_for_asks_for_the_exit() -> None:
    bench = Bench(stuck_after_s=30.0)
    bench.receive(call(1, budget_s=1.0))
    bench.start(bench.runs[0])
    bench.tick(29.0)
    assert not bench.core.exits
    bench.tick(3.0)
    bench.tick(3.0)
    assert len(bench.core.exits) == 1
    assert "'b'" in bench.core.exits[0]


def test_a_long_call_that_somebody_waits_for_is_left_alone() -> None:
    bench = Bench(stuck_after_s=30.0)
    bench.receive(call(1))
    bench.start(bench.runs[0])
    bench.tick(3600.0)
    assert not bench.core.exits
    bench.receive(Cancel([request_id(1)]))
    bench.tick(31.0)
    assert len(bench.core.exits) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_ids_are_answered() -> None:
    bench = Bench()
    bench.receive((Call(b"short", 1, 1, "e"), b"", b""))
    assert [(result.id, result.status) for _, result, _ in bench.results] == [(b"short", 400)]
    assert bench.core.malformed == 1


def test_calls_from_no_router_and_messages_of_no_concern_are_ignored() -> None:
    bench = Bench()
    bench.core.link_up(b"worker", hello("worker"), bench.now)
    bench.receive(call(1), peer=b"worker")
    bench.receive(call(2), peer=b"unknown")
    bench.receive(Goodbye(), Result(request_id(1)), Demand(99, -5, -7, -9), Cancel([b""]))
    assert not bench.runs
    assert not bench.results
    assert not bench.returns
    bench.core.link_down(b"unknown", "", bench.now)
    bench.core.link_down(b"worker", "", bench.now)


def test_the_same_id_twice_in_one_message_is_answered_twice() -> None:
    bench = Bench()
    bench.receive(call(1), call(1))
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 200), (1, 200)]
    assert len(bench.runs) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("batching", [False, True])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_call_gets_exactly_one_answer(asynchronous: bool, batching: bool, data: st.DataObject) -> None:
    """Whatever the order of events: one Result or Return for each call on each link that lives, and no credit lost."""
    config = BackendConfig(max_batch_size=3 if batching else None, max_concurrent_queries=4)
    bench = Bench(config, routers=(A, B), accepts_batch=batching, asynchronous=asynchronous, rng=random.Random(1))
    core = bench.core
    sent: Counter[tuple[bytes, int]] = Counter()
    dead: set[bytes] = set()
    open_runs: list[Run] = []
    for _ in range(data.draw(st.integers(1, 40))):
        bench.now += data.draw(st.sampled_from([0.0, 0.01, 0.4]))
        event = data.draw(
            st.sampled_from(["call", "call", "call", "cancel", "finish", "finish", "start", "skip", "tick", "down"])
        )
        peer = data.draw(st.sampled_from([A, B]))
        if event == "call" and peer not in dead:
            group = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
            budget = data.draw(st.sampled_from([None, 0.0, 0.02, 5.0]))
            for number in group:
                sent[peer, number] += 1
            bench.receive(*(call(n, batch=1, size=len(group), budget_s=budget) for n in group), peer=peer)
        elif event == "cancel":
            bench.receive(Cancel([request_id(data.draw(st.integers(0, 12)))]), peer=peer)
        elif event in ("finish", "skip", "start") and open_runs:
            run = open_runs.pop(data.draw(st.integers(0, len(open_runs) - 1)))
            if event == "skip" and run not in bench.running and run.last_deadline <= bench.now:
                bench.skip(run)
            elif event == "start":
                bench.start(run)
                open_runs.append(run)
            else:
                bench.finish(run)
        elif event == "tick":
            bench.tick(data.draw(st.sampled_from([0.0, 1.0])))
        elif event == "down" and peer not in dead and data.draw(st.booleans()):
            dead.add(peer)
            core.link_down(peer, "died", bench.now)
        bench.take()
        open_runs += bench.runs
        bench.runs.clear()
    if data.draw(st.booleans()):
        core.drain(bench.now)
    while True:
        bench.take()
        open_runs += bench.runs
        bench.runs.clear()
        if not open_runs:
            break
        bench.finish(open_runs.pop())
    assert core.held == 0
    answered: Counter[tuple[bytes, int]] = Counter()
    for peer, result, _ in bench.results:
        answered[peer, int.from_bytes(result.id, "big")] += 1
    for peer, message in bench.returns:
        for one in message.ids:
            answered[peer, int.from_bytes(one, "big")] += 1
    for key, count in sent.items():
        if key[0] not in dead:
            assert answered[key] == count, key
    bench.tick(10.0)
    assert core._credits.statistics()["running"] == 0
    assert core.statistics()["running"] == 0


def quick_run(bench: Bench, *numbers: int) -> None:
    """These calls come together, and end together."""
    bench.receive(*[call(number) for number in numbers])
    runs, bench.runs = bench.runs, []
    done = []
    for run in runs:
        assert bench.start(run)
        run.ended = run.started + 0.0001
        done.append((run, [(200, KIND_TEXT, b"", b"ok", ORIGIN_CODE)]))
    bench.core.finished(done, bench.now)
    bench.take()


def test_calls_are_quick_when_they_are_short_however_many_there_are() -> None:
    bench = Bench()
    for number in range(100):
        quick_run(bench, number)
    assert bench.core.quick
    assert not bench.core.busy
    quick_run(bench, *range(100, 120))
    assert bench.core.quick
    bench.receive(call(300))
    assert bench.core.busy
    bench.core.drain(bench.now)
    assert not bench.core.quick

"""Requests that were sent before, through a router that is gone: found where they run, or dispatched once it is certain
that they do not."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.cores.inquiries import ANSWER_WITHIN_S, SETTLED_AFTER_S, UNREACHABLE_S
from zserve.wire.messages import (
    FLAG_AGAIN,
    FLAG_IDEMPOTENT,
    STREAM_DONE,
    Call,
    Cancel,
    Chunk,
    Grant,
    Hello,
    Recall,
    Recalled,
    ReplicaStatus,
    Report,
    Request,
    Result,
    Return,
)

from .test_router import GATEWAY, WORKER, Bench, info

OTHER = b"other-gateway-link"


@pytest.fixture
def bench() -> Bench:
    """A router that has been up for long enough, with two replicas."""
    bench = Bench()
    bench.serve("b")
    bench.now = 100.0
    bench.tell(GATEWAY)
    return bench


def replica(bench: Bench, name: str, **more: Any) -> bytes:
    peer = b"replica-link-" + name.encode()
    bench.up(peer, info("replica", name.encode(), worker=b"worker".ljust(16, b"."), **more), "b", "1")
    bench.tell(peer, Grant(1, 10))
    return peer


def again(bench: Bench, number: int, age_s: float = 1.0, **fields: Any) -> bytes:
    return bench.request(number, flags=FLAG_AGAIN, age_us=int(age_s * 1e6), attempt=1, **fields)


def wait(bench: Bench, seconds: float) -> None:
    end = bench.now + seconds
    while bench.now < end:
        bench.now += 1.0
        bench.router.tick(bench.now)


def taken(bench: Bench, kind: type) -> list[tuple[bytes, Any]]:
    """All messages of that kind that were sent since the last look, to whom they went."""
    return [
        (peer, message)
        for peer, parcels in bench.router.out.take().items()
        for message, _, _ in parcels
        if type(message) is kind
    ]


def test_all_replicas_are_asked_and_it_is_dispatched_when_none_has_it(bench: Bench) -> None:
    peers = [replica(bench, "r1"), replica(bench, "r2")]
    bench.router.out.take()
    keys = [again(bench, 1, 2.0)]
    assert taken(bench, Recall) == [(peer, Recall(keys, 2_000_000)) for peer in peers]
    bench.tell(peers[0], Recalled(keys))
    assert taken(bench, Call) == []
    bench.tell(peers[1], Recalled(keys))
    ((peer, call),) = taken(bench, Call)
    assert call.id == keys[0]
    bench.tell(peer, Result(keys[0], 200))
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [200]


def test_the_answer_of_the_one_that_has_it_is_the_answer(bench: Bench) -> None:
    first, second = replica(bench, "r1"), replica(bench, "r2")
    key = again(bench, 1)
    bench.tell(first, Recalled([key]))
    bench.tell(second, Recalled([], [key]), Result(key, 201))
    assert [(result.id, result.status) for result in bench.sent(GATEWAY, Result)] == [(key, 201)]
    bench.tell(first, Recalled([key]))
    assert taken(bench, Call) == []
    assert bench.router.queues["b"].in_flight == 0


def test_what_is_found_running_is_like_any_other_request(bench: Bench) -> None:
    peer = replica(bench, "r1")
    keys = [again(bench, number) for number in range(4)]
    bench.tell(peer, Recalled([], keys))
    assert bench.router.queues["b"].in_flight == 4
    bench.router.out.take()
    bench.tell(GATEWAY, Cancel([keys[0]]))
    assert bench.sent(peer, Cancel) == [Cancel([keys[0]])]
    bench.tell(peer, Result(keys[1], 200, streams=True), Chunk(keys[1], 1), Chunk(keys[1], 2, STREAM_DONE))
    assert [type(message) for message in bench.sent(GATEWAY, Result, Chunk)] == [Result, Chunk, Chunk]
    bench.tell(peer, Return([keys[2]], "draining"))
    assert [call.id for call in bench.sent(peer, Call)] == [keys[2]], "not started there, and nowhere else"
    bench.router.link_down(peer, "killed by signal 9", bench.now)
    assert sorted((result.id, result.status) for result in bench.sent(GATEWAY, Result)) == [
        (keys[2], 502), (keys[3], 502)
    ]  # fmt: skip


def test_one_that_has_run_and_lost_its_answer_is_502(bench: Bench) -> None:
    peer = replica(bench, "r1")
    key = again(bench, 1)
    bench.tell(peer, Recalled([], [], [key]))
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]
    assert len(bench.router.inquiries) == 0


def test_what_may_run_twice_is_dispatched_at_once(bench: Bench) -> None:
    peer = replica(bench, "r1")
    bench.router.out.take()
    bench.request(1, flags=FLAG_IDEMPOTENT, attempt=1)
    assert [type(message) for message in bench.sent(peer, Recall, Call)] == [Call]


def test_without_replicas_it_waits_like_any_other(bench: Bench) -> None:
    again(bench, 1)
    assert bench.router.queues["b"].statistics()["queued"] == 1


def test_requests_that_come_together_are_asked_about_together(bench: Bench) -> None:
    peer = replica(bench, "r1")
    bench.router.out.take()
    keys = [number.to_bytes(16, "big") for number in (1, 2)]
    ages = dict(zip(keys, (5, 9), strict=True))
    bench.tell(GATEWAY, *(Request(key, "e", flags=FLAG_AGAIN, age_us=age) for key, age in ages.items()))
    assert taken(bench, Recall) == [(peer, Recall(keys, 9))]


# --- who cannot be asked ----------------------------------------------------------------------------------------------


def test_a_replica_that_dies_meanwhile_makes_it_502(bench: Bench) -> None:
    first, second = replica(bench, "r1"), replica(bench, "r2")
    key = again(bench, 1)
    bench.tell(first, Recalled([key]))
    bench.router.link_down(second, "killed by signal 9", bench.now)
    wait(bench, 1.0)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]


@pytest.mark.parametrize(
    ("ago_s", "reported", "status"),
    [(3.0, True, 502), (30.0, True, 0), (30.0, False, 502), (UNREACHABLE_S + 2.0, False, 0)],
)
def test_one_that_went_away_counts_if_it_may_have_had_it(
    bench: Bench, ago_s: float, reported: bool, status: int
) -> None:
    first, second = replica(bench, "r1"), replica(bench, "r2")
    bench.router.link_down(second, "silent", bench.now)
    if reported:
        bench.tell(WORKER, Report([ReplicaStatus(b"r1".ljust(16, b"."), "b", 0, "1", "ready")]))
    wait(bench, ago_s)
    bench.router.out.take()
    key = again(bench, 1, age_s=1.0)
    bench.tell(first, Recalled([key]))
    found = bench.sent(GATEWAY, Result)
    assert [result.status for result in found] == [status] * bool(status)
    assert len(bench.router.inquiries) == 0


def test_one_that_came_back_is_asked(bench: Bench) -> None:
    peer = replica(bench, "r1")
    bench.router.link_down(peer, "connection lost", bench.now)
    key = again(bench, 1, age_s=10.0)
    assert len(bench.router.inquiries) == 0, "it may have been there"
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]
    replica(bench, "r1")
    bench.router.out.take()
    key = again(bench, 2, age_s=10.0)
    assert taken(bench, Recall) == [(peer, Recall([key], 10_000_000))]


def test_one_that_only_others_know_is_waited_for(bench: Bench) -> None:
    bench.tell(WORKER, Report([ReplicaStatus(b"r1".ljust(16, b"."), "b", 0, "1", "ready")]))
    key = again(bench, 1)
    wait(bench, 2.0)
    assert len(bench.router.inquiries) == 1
    peer = replica(bench, "r1")
    assert Recall([key], 3_000_000) in [message for _, message in taken(bench, Recall)]
    bench.tell(peer, Recalled([key]))
    assert [call.id for call in bench.sent(peer, Call)] == [key]
    again(bench, 2)
    bench.tell(WORKER, Report([ReplicaStatus(b"r9".ljust(16, b"."), "b", 1, "1", "ready")]))
    wait(bench, ANSWER_WITHIN_S + 2.0)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]


def test_one_that_does_not_answer_makes_it_502(bench: Bench) -> None:
    replica(bench, "r1")
    again(bench, 1)
    wait(bench, ANSWER_WITHIN_S)
    assert bench.sent(GATEWAY, Result) == []
    wait(bench, 2.0)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]


def test_one_that_speaks_protocol_1_cannot_be_asked(bench: Bench) -> None:
    old = b"replica-link-old"
    node = info("replica", b"old")
    bench.router.link_up(old, Hello(1, 1, node, "b", "1"), bench.now)
    bench.router.out.take()
    again(bench, 1)
    assert taken(bench, Recall) == []
    wait(bench, ANSWER_WITHIN_S + 2.0)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]


def test_a_router_that_has_just_started_waits_for_replicas_to_come() -> None:
    bench = Bench()
    bench.serve("b")
    key = again(bench, 1)
    wait(bench, 1.0)
    peer = replica(bench, "r1")
    assert [type(message) for message in bench.sent(peer, Recall, Call)] == [Recall]
    bench.tell(peer, Recalled([key]))
    assert bench.sent(peer, Call) == []
    wait(bench, SETTLED_AFTER_S)
    assert [call.id for call in bench.sent(peer, Call)] == [key]


# --- who asks ---------------------------------------------------------------------------------------------------------


def test_time_that_asking_took_counts(bench: Bench) -> None:
    peer = replica(bench, "r1")
    key = again(bench, 1, budget_us=5_000_000)
    bench.now += 2.0
    bench.tell(peer, Recalled([key]))
    assert [call.budget_us for call in bench.sent(peer, Call)] == [3_000_000]


def test_nobody_is_answered_who_has_gone(bench: Bench) -> None:
    peer = replica(bench, "r1")
    first, second = again(bench, 1), again(bench, 2)
    bench.tell(GATEWAY, Cancel([first]))
    bench.router.link_down(GATEWAY, "connection lost", bench.now)
    bench.tell(peer, Recalled([first, second]))
    assert taken(bench, Call) == []
    assert len(bench.router.inquiries) == 0


def test_a_gateway_with_a_new_link_gets_the_answer_there(bench: Bench) -> None:
    peer = replica(bench, "r1")
    running = bench.request(1)
    asked = again(bench, 2)
    bench.up(OTHER, info("gateway", b"gateway"))
    bench.router.out.take()
    for number in (1, 2):
        key = number.to_bytes(16, "big")
        bench.tell(OTHER, Request(key, "e", flags=FLAG_AGAIN))
    bench.router.link_down(GATEWAY, "connection lost", bench.now)
    bench.tell(peer, Result(running, 200), Recalled([], [asked]), Result(asked, 200))
    assert [result.id for result in bench.sent(OTHER, Result)] == [running, asked]


def test_a_router_that_drains_hands_it_back(bench: Bench) -> None:
    replica(bench, "r1")
    key = again(bench, 1)
    bench.router.drain(bench.now)
    assert [back.ids for back in bench.sent(GATEWAY, Return)] == [[key]]
    assert bench.router.drained


def test_what_runs_once_is_not_stopped_when_its_gateways_link_breaks(bench: Bench) -> None:
    peer = replica(bench, "r1")
    once, often, streams = bench.request(1), bench.request(2, flags=FLAG_IDEMPOTENT), bench.request(3)
    bench.tell(peer, Result(streams, 200, streams=True))
    bench.router.out.take()
    bench.router.link_down(GATEWAY, "connection lost", bench.now)
    assert sorted(key for cancel in bench.sent(peer, Cancel) for key in cancel.ids) == sorted([often, streams])
    bench.up(GATEWAY, info("gateway", b"gateway"))
    assert again(bench, 1) == once
    bench.tell(peer, Recalled([], [once]), Result(once, 200))
    assert [result.id for result in bench.sent(GATEWAY, Result)] == [once]
    bench.tell(peer, Result(often, 499), Chunk(streams, 1, STREAM_DONE))
    assert bench.router.queues["b"].in_flight == 0


def test_a_stream_that_nobody_came_back_for_is_stopped_when_it_begins(bench: Bench) -> None:
    peer = replica(bench, "r1")
    key = bench.request(1)
    bench.router.link_down(GATEWAY, "connection lost", bench.now)
    bench.router.out.take()
    bench.tell(peer, Result(key, 200, streams=True))
    assert bench.sent(peer, Cancel) == [Cancel([key])]

"""The gateway's core, driven by events alone."""

from __future__ import annotations

import math

import pytest

from zserve.cores.gateway import NO_ROUTER_WAIT_S, SLACK_S, Flight, GatewayCore, GatewayLimits
from zserve.errors import Refusal
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import (
    FLAG_IDEMPOTENT,
    VERSION,
    Cancel,
    Hello,
    NodeInfo,
    Ping,
    Request,
    Result,
    Return,
    Shutdown,
    View,
)

R1, R2 = b"link-with-router-1", b"link-with-router-2"


def hello(node: bytes) -> Hello:
    return Hello(VERSION, VERSION, NodeInfo(node * 16, node * 8, "router"))


def core(routers: int = 2, limits: GatewayLimits | None = None) -> GatewayCore:
    sync = ConfigSync(NodeInfo(b"g" * 16, b"g" * 8, "gateway"), lambda: 1_700_000_000_000)
    gateway = GatewayCore(sync, b"prefix__", limits)
    for peer, node in [(R1, b"1"), (R2, b"2")][:routers]:
        gateway.link_up(peer, hello(node), 0.0)
    gateway.out.take()
    return gateway


def opened(
    gateway: GatewayCore, token: str = "t", *, deadline: float = 10.0, flags: int = 0, now: float = 0.0
) -> Flight:
    flight = gateway.open("e", b"head", b"body", deadline, token, now, flags=flags)
    assert isinstance(flight, Flight)
    return flight


def requests(gateway: GatewayCore) -> list[tuple[bytes, Request]]:
    return [
        (peer, message)
        for peer, parcels in gateway.out.take().items()
        for message, _, _ in parcels
        if isinstance(message, Request)
    ]


def answers(gateway: GatewayCore) -> list[tuple[object, int]]:
    taken = [(token, result.status) for token, result, _, _ in gateway.answers]
    gateway.answers = []
    return taken


def test_a_request_goes_to_the_router_that_owes_least_and_its_result_comes_back() -> None:
    gateway = core()
    first, second = opened(gateway, "a"), opened(gateway, "b")
    assert {peer for peer, _ in requests(gateway)} == {R1, R2}
    gateway.receive(first.router, [(Result(first.message.id, 201), b"h", b"x")], 1.0)
    assert [(token, result.status, head, body) for token, result, head, body in gateway.answers] == [
        ("a", 201, b"h", b"x")
    ]
    third = opened(gateway, "c")
    assert third.router == first.router
    assert second.router != first.router
    assert gateway.in_flight == 2


def test_ids_are_unique_and_the_budget_is_what_remains() -> None:
    gateway = core(1)
    one = opened(gateway, deadline=2.5, now=1.0)
    two = opened(gateway, deadline=math.inf, now=1.0)
    assert one.message.id != two.message.id
    assert len(one.message.id) == 16
    assert one.message.budget_us == 1_500_000
    assert two.message.budget_us == -1


def test_a_second_result_for_the_same_request_is_counted_and_dropped() -> None:
    gateway = core(1)
    flight = opened(gateway)
    gateway.receive(R1, [(Result(flight.message.id), b"", b""), (Result(flight.message.id), b"", b"")], 1.0)
    assert answers(gateway) == [("t", 200)]
    assert gateway.late_results == 1


def test_a_deadline_is_answered_504_and_the_work_cancelled() -> None:
    gateway = core(1)
    flight = opened(gateway, deadline=2.0)
    gateway.out.take()
    gateway.tick(1.99)
    assert answers(gateway) == []
    assert gateway.next_wakeup() <= 2.0 + SLACK_S
    gateway.tick(2.0 + SLACK_S)
    assert answers(gateway) == [("t", 504)]
    assert [message for message, _, _ in gateway.out.take()[R1] if isinstance(message, Cancel)] == [
        Cancel([flight.message.id])
    ]
    gateway.receive(R1, [(Result(flight.message.id), b"", b"")], 3.0)
    assert answers(gateway) == []


def test_a_client_that_goes_cancels_its_request_and_gets_no_answer() -> None:
    gateway = core(1)
    flight = opened(gateway)
    gateway.out.take()
    gateway.abandon(flight)
    gateway.abandon(flight)
    assert [message for message, _, _ in gateway.out.take()[R1]] == [Cancel([flight.message.id])]
    assert answers(gateway) == []
    assert gateway.in_flight == 0


@pytest.mark.parametrize(("flags", "resent"), [(FLAG_IDEMPOTENT, True), (0, False)])
def test_when_a_router_dies_what_may_run_twice_goes_to_another_and_the_rest_gets_502(flags: int, resent: bool) -> None:
    gateway = core(1)
    flight = opened(gateway, flags=flags)
    key = flight.message.id
    gateway.out.take()
    gateway.link_up(R2, hello(b"2"), 1.0)
    gateway.out.take()
    gateway.link_down(R1, "connection lost", 1.0)
    sent = requests(gateway)
    if resent:
        assert [(peer, message.id, message.attempt) for peer, message in sent] == [(R2, key, 1)]
        assert answers(gateway) == []
    else:
        assert sent == []
        assert answers(gateway) == [("t", 502)]


def test_a_draining_router_hands_back_and_gets_nothing_new() -> None:
    gateway = core()
    flights = [opened(gateway, str(number)) for number in range(4)]
    gateway.out.take()
    returned = [flight.message.id for flight in flights if flight.router == R1]
    gateway.receive(R1, [(Return(returned, "shutting down"), b"", b"")], 1.0)
    assert {peer for peer, _ in requests(gateway)} == {R2}
    assert all(flight.router == R2 for flight in flights)
    opened(gateway, "new")
    assert {peer for peer, _ in requests(gateway)} == {R2}


def test_without_a_router_a_request_waits_for_one_and_then_gets_503() -> None:
    gateway = core(0)
    opened(gateway, "waits", deadline=60.0)
    gateway.link_up(R1, hello(b"1"), 1.0)
    assert [peer for peer, _ in requests(gateway)] == [R1]

    gateway = core(0)
    opened(gateway, "late", deadline=60.0)
    gateway.tick(NO_ROUTER_WAIT_S + 0.5)
    assert answers(gateway) == [("late", 503)]
    assert gateway.in_flight == 0


def test_limits_are_refused_with_429() -> None:
    gateway = core(1, GatewayLimits(max_requests=1, max_bytes=100))
    opened(gateway)
    refusal = gateway.open("e", b"", b"", 10.0, "u", 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 429
    gateway = core(1, GatewayLimits(max_requests=10, max_bytes=100))
    refusal = gateway.open("e", b"", b"x" * 101, 10.0, "u", 0.0)
    assert isinstance(refusal, Refusal)
    assert "bytes" in refusal.reason
    assert gateway.in_flight == 0


def test_readiness_is_what_a_request_would_find() -> None:
    gateway = core(0)
    assert gateway.readiness() == (False, "not linked with any router")
    gateway.link_up(R1, hello(b"1"), 0.0)
    assert gateway.readiness()[0] is False
    gateway.receive(R1, [(Ping(unready=["digits (backend SVM:v1)"]), b"", b"")], 1.0)
    ready, reason = gateway.readiness()
    assert not ready
    assert "SVM:v1" in reason
    gateway.receive(R1, [(Ping(), b"", b"")], 2.0)
    assert gateway.readiness() == (True, "ok")
    gateway.leaving = True
    assert gateway.readiness()[0] is False


def test_the_word_to_shut_down_is_kept_for_the_shell() -> None:
    gateway = core(1)
    gateway.receive(R1, [(Shutdown("operator"), b"", b"")], 1.0)
    assert gateway.shutdown_reason == "operator"


def test_every_request_has_exactly_one_answer_whatever_happens() -> None:
    gateway = core()
    flights = [opened(gateway, str(n), deadline=5.0 + n % 3, flags=n % 2) for n in range(60)]
    for number, flight in enumerate(flights):
        if number % 5 == 0:
            gateway.receive(flight.router, [(Result(flight.message.id), b"", b"")], 1.0)
    gateway.link_down(R1, "connection lost", 2.0)
    gateway.receive(R2, [(Return([f.message.id for f in flights[:20]], "drain"), b"", b"")], 3.0)
    gateway.link_down(R2, "goodbye: drain", 4.0)
    for step in range(100):
        gateway.tick(4.0 + step * 0.1)
    tokens = [token for token, _ in answers(gateway)]
    assert sorted(tokens, key=str) == sorted((str(n) for n in range(60)), key=str)
    assert gateway.in_flight == 0


def test_of_many_routers_a_gateway_dials_a_few() -> None:
    def known(max_routers: int) -> list[str]:
        sync = ConfigSync(NodeInfo(b"g" * 16, b"g" * 8, "gateway"), lambda: 1_700_000_000_000)
        gateway = GatewayCore(sync, b"prefix__", max_routers=max_routers)
        gateway.link_up(R1, hello(b"1"), 0.0)
        members = [NodeInfo(bytes([n]) * 16, b"b" * 8, "router", address=f"tcp://r{n}:1") for n in range(1, 9)]
        gateway.receive(R1, [(View(b"1" * 16, b"1" * 8, 1, members), b"", b"")], 0.0)
        return list(gateway.routers_known())

    assert len(known(0)) == 8
    few = known(3)
    assert len(few) == 3
    assert set(few) < set(known(0))
    assert set(few) < set(known(5))

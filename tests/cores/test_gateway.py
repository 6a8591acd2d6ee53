"""The gateway's core, driven by events alone."""

from __future__ import annotations

import math

import pytest

from zserve.cores.gateway import IN_QUESTION_S, NO_ROUTER_WAIT_S, SLACK_S, Flight, GatewayCore, GatewayLimits
from zserve.errors import Refusal
from zserve.registry.neighbours import Neighbours
from zserve.registry.sync import ConfigSync
from zserve.security.roles import may_send
from zserve.wire.messages import (
    FLAG_AGAIN,
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

from ..wire.samples import samples

REPLICA = b"link-with-a-replica"
R1, R2, R3 = b"link-with-router-1", b"link-with-router-2", b"link-with-router-3"


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


@pytest.mark.parametrize("routers", [0, 1, 2])
def test_each_of_thousands_has_its_deadline(routers: int) -> None:
    """However often what is over is thrown out of the list of deadlines meanwhile."""
    gateway = core(routers)
    for number in range(5000):
        opened(gateway, str(number), deadline=2.0)
    gateway.tick(2.0 + SLACK_S)
    assert sorted(answers(gateway)) == sorted((str(number), 504) for number in range(5000))


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


@pytest.mark.parametrize("flags", [FLAG_IDEMPOTENT, 0])
def test_when_a_router_dies_its_requests_go_to_another_one(flags: int) -> None:
    gateway = core(1)
    flight = opened(gateway, flags=flags)
    key = flight.message.id
    gateway.out.take()
    gateway.link_up(R2, hello(b"2"), 1.0)
    gateway.out.take()
    gateway.link_down(R1, "connection lost", 1.5)
    ((peer, message),) = requests(gateway)
    assert (peer, message.id, message.attempt, message.age_us) == (R2, key, 1, 1_500_000)
    assert bool(message.flags & FLAG_AGAIN) is (flags == 0), "what must not run twice says so"
    assert answers(gateway) == []
    gateway.receive(R2, [(Result(key, 200), b"", b"")], 2.0)
    assert answers(gateway) == [("t", 200)]


def test_what_must_not_run_twice_goes_to_the_router_with_the_oldest_link() -> None:
    gateway = core(2)
    flights = [opened(gateway) for _ in range(4)]
    gateway.link_up(R3, hello(b"3"), 1.0)
    gateway.out.take()
    gateway.link_down(R1, "connection lost", 1.5)
    assert [peer for peer, _ in requests(gateway)] == [R2, R2], "although the new one has nothing to do"
    assert {flight.router for flight in flights} == {R2}


def test_handed_back_by_the_second_router_it_is_still_not_to_be_run_twice() -> None:
    gateway = core(2)
    flight = opened(gateway)
    first = flight.router
    gateway.link_up(R3, hello(b"3"), 0.5)
    gateway.link_down(first, "connection lost", 1.0)
    second = flight.router
    gateway.out.take()
    gateway.receive(second, [(Return([flight.message.id], "draining"), b"", b"")], 1.5)
    ((peer, message),) = requests(gateway)
    assert peer == R3
    assert message.flags & FLAG_AGAIN
    fresh = opened(gateway, now=2.0)
    gateway.receive(R3, [(Return([fresh.message.id], "draining"), b"", b"")], 2.0)
    assert not fresh.message.flags & FLAG_AGAIN, "a router that hands back has not sent it on"


def test_with_no_other_router_it_waits_for_one_and_is_502_then() -> None:
    gateway = core(1)
    opened(gateway, "must", deadline=60.0)
    opened(gateway, "may", deadline=60.0, flags=FLAG_IDEMPOTENT)
    gateway.link_down(R1, "killed", 30.0)
    gateway.tick(30.0 + NO_ROUTER_WAIT_S)
    assert answers(gateway) == [], "counted from when it had none"
    gateway.tick(31.1 + NO_ROUTER_WAIT_S)
    found = {token: (result.status, body) for token, result, _, body in gateway.answers}
    assert found["may"][0] == 503
    assert found["must"] == (502, b"the router that had this request is gone (killed); the request may have run")


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


def test_a_silent_router_gets_nothing_new_while_another_one_is_heard() -> None:
    gateway = core()
    first = opened(gateway)
    gateway.out.take()
    silent, heard = (R1, R2) if first.router == R1 else (R2, R1)
    gateway.link_doubted(silent, "its process 7 is stopped (SIGSTOP)", 1.0)
    assert first.router == silent, "what it has stays there"
    for _ in range(4):
        opened(gateway)
    assert {peer for peer, _ in requests(gateway)} == {heard}
    gateway.link_doubted(silent, "", 2.0)
    for _ in range(4):
        opened(gateway)
    assert [peer for peer, _ in requests(gateway)].count(silent) >= 3, "at once, for it owes less"


def test_where_all_routers_are_silent_they_are_used_and_it_is_said() -> None:
    gateway = core()
    for peer in (R1, R2):
        gateway.receive(peer, [(Ping(), b"", b"")], 0.0)
    assert gateway.readiness() == (True, "ok")
    for peer in (R1, R2):
        gateway.link_doubted(peer, "host h is not heard: it may be down or cut off", 1.0)
    assert gateway.readiness() == (
        False,
        "nothing is heard from the router: host h is not heard: it may be down or cut off",
    )
    for _ in range(2):
        opened(gateway)
    assert {peer for peer, _ in requests(gateway)} == {R1, R2}
    gateway.link_doubted(b"not a router", "silent", 1.0)
    assert gateway.in_flight == 2


def test_a_request_that_was_lost_with_a_silent_router_says_what_the_matter_was() -> None:
    gateway = core(1)
    opened(gateway, deadline=60.0)
    gateway.link_doubted(R1, "host h is not heard", 3.0)
    gateway.link_down(R1, "silent for 5.1 s: host h is down", 5.1)
    gateway.tick(5.1 + NO_ROUTER_WAIT_S + 0.1)
    gateway.tick(5.1 + NO_ROUTER_WAIT_S + 1.2)
    assert [(result.status, body) for _, result, _, body in gateway.answers] == [
        (502, b"the router that had this request is gone (silent for 5.1 s: host h is down); the request may have run")
    ]


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


def test_not_found_is_said_by_one_who_knows_what_there_is() -> None:
    gateway = core(1)
    assert gateway.no_endpoint("/x").status == 503, "the router has not told what there is"
    gateway.receive(R1, [(View(b"1" * 16, b"1" * 8, 1, []), b"", b"")], 0.0)
    gateway.tick(1.0)
    gateway.link_down(R1, "silent", 2.0)
    refusal = gateway.no_endpoint("/x")
    assert refusal.status == 404
    assert "/x" in refusal.reason
    assert gateway.no_endpoint("/" + "x" * 1000).reason == refusal.reason.replace("/x;", "/" + "x" * 199 + ";")


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
        gateway = GatewayCore(sync, b"prefix__", neighbours=Neighbours(sync.info.node, max_routers))
        gateway.link_up(R1, hello(b"1"), 0.0)
        members = [NodeInfo(bytes([n]) * 16, b"b" * 8, "router", address=f"tcp://r{n}:1") for n in range(1, 9)]
        gateway.receive(R1, [(View(b"1" * 16, b"1" * 8, 1, members), b"", b"")], 0.0)
        return list(gateway.routers_known())

    assert len(known(0)) == 8
    few = known(3)
    assert len(few) == 3
    assert set(few) < set(known(0))
    assert set(few) < set(known(5))


# --- replicas that bring their answers themselves ---------------------------------------------------------------------


def with_replica(routers: int = 1) -> GatewayCore:
    gateway = core(routers)
    gateway.link_up(REPLICA, Hello(VERSION, VERSION, NodeInfo(b"s" * 16, b"s" * 8, "replica"), "b", "1"), 0.0)
    gateway.out.take()
    return gateway


def test_an_answer_may_come_from_a_replica() -> None:
    gateway = with_replica()
    flight = opened(gateway)
    gateway.receive(REPLICA, [(Result(flight.message.id), b"", b"answer")], 1.0)
    assert [(token, body) for token, _, _, body in gateway.answers] == [("t", b"answer")]
    assert gateway.in_flight == gateway._routers[R1].outstanding == 0
    gateway.receive(R1, [(Result(flight.message.id, 502), b"", b"lost")], 1.1)
    assert (gateway.late_results, len(gateway.answers)) == (1, 1), "whatever the router thinks of it"


def test_nothing_else_may() -> None:
    gateway = with_replica()
    flight = opened(gateway)
    for message in samples():
        if type(message) in may_send("replica", "gateway"):
            continue
        if hasattr(message, "id") and isinstance(message.id, bytes):
            message.id = flight.message.id
        before = gateway.misplaced
        gateway.receive(REPLICA, [(message, b"", b"")], 1.0)
        assert gateway.misplaced == before + 1, message
    gateway.receive(REPLICA, [(Result(flight.message.id, streams=True), b"", b"first")], 1.0)
    assert gateway.misplaced > 20
    gateway.receive(REPLICA, [(Ping(), b"", b""), (Result(bytes(16)), b"", b"")], 1.0)
    assert gateway.late_results == 1
    assert not gateway.answers
    assert not gateway.pieces
    assert not gateway.shutdown_reason
    assert gateway.in_flight == 1


def test_a_replica_is_no_router() -> None:
    gateway = with_replica(routers=0)
    opened(gateway)
    assert requests(gateway) == []
    assert not gateway.readiness()[0]


@pytest.mark.parametrize("flags", [0, FLAG_IDEMPOTENT])
def test_what_may_be_lost_with_a_replica_is_asked_for_at_its_router(flags: int) -> None:
    """The router does nothing if it has it still, and asks the replicas if it takes it for answered."""
    gateway = with_replica()
    first, second = opened(gateway, "first", flags=flags), opened(gateway, "second", flags=flags)
    requests(gateway)
    gateway.link_down(REPLICA, "silent for 6 s", 1.0)
    later = opened(gateway, "later", flags=flags, now=1.5)
    requests(gateway)
    gateway.receive(R1, [(Result(first.message.id), b"", b"")], 2.0)
    gateway.tick(1.0 + IN_QUESTION_S - 0.1)
    assert requests(gateway) == []
    gateway.tick(1.0 + IN_QUESTION_S + 1.0)
    sent = requests(gateway)
    assert [(peer, message.id) for peer, message in sent] == [(R1, second.message.id)]
    assert bool(sent[0][1].flags & FLAG_AGAIN) is (not flags)
    assert sent[0][1].age_us == pytest.approx((1.0 + IN_QUESTION_S + 1.0) * 1e6)
    assert gateway._routers[R1].outstanding == 2, "of which it owes one answer each"
    gateway.tick(20.0)
    assert requests(gateway) == []
    for flight in (second, later):
        gateway.receive(R1, [(Result(flight.message.id), b"", b"")], 5.0)
    assert gateway._routers[R1].outstanding == 0


def test_what_is_streamed_or_homeless_is_not_in_question() -> None:
    gateway = with_replica(routers=1)
    streamed = opened(gateway, "streamed")
    gateway.receive(R1, [(Result(streamed.message.id, streams=True), b"", b"")], 0.5)
    gateway.link_down(REPLICA, "silent", 1.0)
    requests(gateway)
    gateway.tick(6.0)
    assert requests(gateway) == []

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.security.guard import Guard
from zserve.security.known_keys import KnownKeys, known_line, owner_of, parse_known_keys
from zserve.wire.messages import (
    VERSION,
    Call,
    Control,
    ControlReply,
    Grant,
    Hello,
    NodeInfo,
    Ping,
    Records,
    ReplicaStatus,
    Report,
    Request,
    Reset,
    Result,
    Shutdown,
    View,
)

ROLES = {"router": "router", "gateway": "gateway", "worker": "worker", "caller": "caller", "boss": "operator"}
KEYS = {name: os.urandom(32) for name in ROLES}
LINES = {name: known_line([ROLES[name]], KEYS[name], name) for name in ROLES}
PEER = b"p" * 28


def known_without(*names: str) -> KnownKeys:
    return parse_known_keys("\n".join(line for name, line in LINES.items() if name not in names))


def node_of(name: str, rest: bytes = b"12345678") -> bytes:
    return owner_of(KEYS[name]) + rest


def hello(role: str, node: bytes, **more: Any) -> Hello:
    return Hello(VERSION, 1, NodeInfo(node, b"b" * 8, role, **more))


def parcels(*messages: Any) -> list[Any]:
    return [(message, b"", b"") for message in messages]


class Bench:
    """A guard of a router, and the keys that it knows."""

    def __init__(self, role: str = "router") -> None:
        self.known = known_without()
        self.guard = Guard(role, lambda: self.known)

    def say(self, name: str, *messages: Any, peer: bytes = PEER, key: bytes | None = None) -> Any:
        return self.guard.judge(peer, KEYS[name] if key is None else key, parcels(*messages))

    def greet(self, name: str, role: str, peer: bytes = PEER, **more: Any) -> None:
        verdict = self.say(name, hello(role, node_of(name), **more), peer=peer)
        assert [type(message) for message, _, _ in verdict.admitted] == [Hello], verdict.refused


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("first", [Ping(), Request(b"1" * 16, "e"), Control(1, "status", b"{}"), Shutdown("now")])
def test_nothing_before_hello(bench: Bench, first: Any) -> None:
    verdict = bench.say("gateway", first, hello("gateway", node_of("gateway")))
    assert verdict.admitted == []
    assert isinstance(verdict.answers[0], Reset)
    assert bench.guard.refused == 2


def test_an_unknown_key_and_no_key_get_nothing(bench: Bench) -> None:
    for key in (os.urandom(32), b""):
        verdict = bench.say("gateway", hello("gateway", owner_of(key) + b"x" * 8), key=key)
        assert verdict.admitted == []
        assert verdict.refused == "this key is not known here"
    verdict = bench.guard.judge(PEER, None, parcels(hello("gateway", node_of("gateway"))))
    assert verdict.admitted == []


@pytest.mark.parametrize("role", ["router", "gateway", "client", "", "nonsense"])
def test_a_role_that_the_key_does_not_allow_is_refused(bench: Bench, role: str) -> None:
    name = "worker" if role != "client" else "gateway"
    verdict = bench.say(name, hello(role, node_of(name)))
    assert verdict.admitted == []
    assert f"the key of {name} is for {name}, not for a {role}" in verdict.refused


def test_the_id_of_a_node_with_another_key_is_refused(bench: Bench) -> None:
    verdict = bench.say("gateway", hello("gateway", node_of("router")))
    assert verdict.admitted == []
    assert "node id is not one of the key of gateway" in verdict.refused


def test_a_replica_belongs_to_a_worker_node_with_the_same_key(bench: Bench) -> None:
    bench.greet("worker", "replica", worker=node_of("worker", b"87654321"))
    verdict = bench.say("worker", hello("replica", node_of("worker"), worker=node_of("gateway")), peer=b"q" * 28)
    assert verdict.admitted == []


def test_each_message_is_looked_at(bench: Bench) -> None:
    bench.greet("worker", "worker")
    verdict = bench.say("worker", Ping(), Request(b"1" * 16, "e"), Records([]), Shutdown("now"), Result(b"2" * 16))
    assert [type(message) for message, _, _ in verdict.admitted] == [Ping]
    assert bench.guard.refused == 4


def test_a_replica_can_answer_and_not_ask(bench: Bench) -> None:
    bench.greet("worker", "replica", worker=node_of("worker"))
    verdict = bench.say("worker", Grant(1, 2), Result(b"1" * 16), Request(b"2" * 16, "e"), Report([]))
    assert [type(message) for message, _, _ in verdict.admitted] == [Grant, Result]


def test_a_worker_node_reports_on_its_own_replicas_only(bench: Bench) -> None:
    bench.greet("worker", "worker")
    own = ReplicaStatus(node_of("worker", b"replica1"), "b", 0, "c", "ready")
    other = ReplicaStatus(node_of("gateway"), "b", 0, "c", "dead")
    assert len(bench.say("worker", Report([own])).admitted) == 1
    assert bench.say("worker", Report([own, other])).admitted == []
    assert bench.say("worker", Report([own], node_of("gateway"))).admitted == []


def test_a_router_passes_on_what_others_reported(bench: Bench) -> None:
    bench.greet("router", "router")
    report = Report([ReplicaStatus(node_of("worker"), "b", 0, "c", "ready")], node_of("worker"))
    assert len(bench.say("router", report, View(b"r" * 16, b"b" * 8, 1, [])).admitted) == 2


@pytest.mark.parametrize(("name", "writes"), [("boss", True), ("caller", False), ("worker", False)])
def test_control_calls_that_change_something_need_an_operator(bench: Bench, name: str, writes: bool) -> None:
    bench.greet(name, "client")
    assert len(bench.say(name, Control(1, "list_endpoints", b"{}")).admitted) == 1
    verdict = bench.say(name, Control(7, "create_endpoint", b"{}"), Control(8, "shutdown", b"{}"))
    assert len(verdict.admitted) == (2 if writes else 0)
    if not writes:
        reply = verdict.answers[0]
        assert isinstance(reply, ControlReply)
        assert (reply.id, reply.ok) == (7, False)
        assert "needs an operator's key" in orjson.loads(reply.payload)["message"]


def test_a_link_is_bound_to_its_key(bench: Bench) -> None:
    bench.greet("gateway", "gateway")
    for name in ("worker", "boss"):
        assert bench.say(name, Request(b"1" * 16, "e")).admitted == []
    assert len(bench.say("gateway", Request(b"1" * 16, "e")).admitted) == 1


def test_hello_said_again_with_another_role_is_judged_again(bench: Bench) -> None:
    bench.greet("worker", "worker")
    assert bench.say("worker", hello("router", node_of("worker"))).admitted == []
    bench.greet("worker", "client")
    assert bench.say("worker", Report([])).admitted == []
    smuggled = bench.say("worker", Ping(), hello("worker", node_of("worker")))
    assert [type(message) for message, _, _ in smuggled.admitted] == [Ping]


def test_a_router_that_was_dialled_has_to_be_the_one(bench: Bench) -> None:
    bench = Bench("gateway")
    assert bench.guard.dialled(PEER, KEYS["router"])
    assert not bench.guard.dialled(b"q" * 28, KEYS["gateway"])
    assert bench.say("router", Result(b"1" * 16)).admitted == []
    assert bench.say("router", hello("router", node_of("gateway"))).admitted == []
    bench.greet("router", "router")
    verdict = bench.say("router", Result(b"1" * 16), Records([]), Call(b"2" * 16, 1, 1, "e"), Request(b"3" * 16, "e"))
    assert [type(message) for message, _, _ in verdict.admitted] == [Result, Records]


def test_a_router_that_turns_us_away_is_heard(bench: Bench) -> None:
    bench = Bench("gateway")
    bench.guard.dialled(PEER, KEYS["router"])
    verdict = bench.say("router", Reset("not you"))
    assert [type(message) for message, _, _ in verdict.admitted] == [Reset]
    assert verdict.answers == []


def test_publications_are_config_and_nothing_else(bench: Bench) -> None:
    bench = Bench("gateway")
    bench.guard.dialled(PEER, KEYS["router"])
    admitted = bench.guard.published(PEER, parcels(Records([]), Result(b"1" * 16), Shutdown("now")))
    assert [type(message) for message, _, _ in admitted] == [Records]
    assert bench.guard.published(b"stranger", parcels(Records([]))) == []


def test_a_key_that_is_gone_or_may_less_is_revoked_and_no_other(bench: Bench) -> None:
    bench.greet("gateway", "gateway", peer=b"g" * 28)
    bench.greet("worker", "worker", peer=b"w" * 28)
    assert bench.guard.revoked() == []
    bench.known = known_without("gateway")
    assert bench.guard.revoked() == [b"g" * 28]
    less = LINES["worker"].replace("worker ", "caller ", 1)
    bench.known = parse_known_keys(LINES["router"] + "\n" + less)
    assert set(bench.guard.revoked()) == {b"g" * 28, b"w" * 28}
    bench.guard.forget(b"g" * 28)
    bench.guard.forget(b"w" * 28)
    assert bench.guard.revoked() == []
    assert bench.say("gateway", hello("gateway", node_of("gateway")), peer=b"g" * 28).admitted == []


def test_a_key_that_may_more_keeps_its_link(bench: Bench) -> None:
    bench.greet("caller", "client")
    assert bench.say("caller", Control(1, "shutdown", b"{}")).admitted == []
    more = known_line(["caller", "operator"], KEYS["caller"], "caller")
    bench.known = parse_known_keys(LINES["router"] + "\n" + more)
    assert bench.guard.revoked() == []
    assert len(bench.say("caller", Control(1, "shutdown", b"{}")).admitted) == 1


MESSAGES = st.sampled_from(
    [
        Ping(),
        Reset("r"),
        Request(b"1" * 16, "e"),
        Result(b"1" * 16),
        Control(1, "shutdown", b"{}"),
        Records([]),
        Shutdown("now"),
        Grant(1, 1),
        Report([]),
        *[hello(role, node_of(name)) for role in ("router", "gateway", "client", "worker") for name in KEYS],
    ]
)


@given(st.lists(st.tuples(st.sampled_from(["gateway", "worker", "caller"]), MESSAGES), max_size=30))
def test_no_order_of_messages_gets_a_router_or_an_operator_out_of_other_keys(said: list[tuple[str, Any]]) -> None:
    bench = Bench()
    for name, message in said:
        for admitted, _, _ in bench.say(name, message, peer=name.encode() * 4).admitted:
            assert type(admitted) not in (Records, Shutdown)
            assert not (type(admitted) is Control and admitted.op == "shutdown")
            if type(admitted) is Hello:
                assert admitted.info.role != "router"
                assert admitted.info.node == node_of(name)

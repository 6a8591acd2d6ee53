from __future__ import annotations

import random
import typing

import pytest

from zserve.cores.router import RouterCore
from zserve.registry.changes import CHANGES
from zserve.registry.operations import OPERATIONS
from zserve.registry.sync import ConfigSync
from zserve.security.roles import KEY_ROLES, READS, may_be, may_send
from zserve.wire.messages import (
    Call,
    Chunk,
    Control,
    Message,
    NodeInfo,
    Records,
    Report,
    Request,
    Result,
    Shutdown,
    View,
)

PEERS = ("router", "gateway", "caller", "worker", "replica", "client")


def test_every_message_is_somebodys_to_send() -> None:
    """A new message that the table does not know would not get through a fabric with keys."""
    sent = set().union(
        *(may_send(peer, "router") for peer in PEERS), *(may_send("router", peer) for peer in PEERS)
    )
    assert sent == set(typing.get_args(Message))


@pytest.mark.parametrize(
    ("kind", "senders"),
    [
        (Request, {"gateway", "caller"}),
        (Result, {"replica"}),
        (Report, {"worker", "router"}),
        (Control, {"client"}),
        (Records, {"router"}),
        (View, {"router"}),
        (Shutdown, {"router"}),
        (Call, set()),
    ],
)
def test_who_may_send_what_to_a_router(kind: type, senders: set[str]) -> None:
    assert {peer for peer in PEERS if kind in may_send(peer, "router")} == senders


def test_only_routers_talk_to_those_that_are_not_but_a_replica_may_answer_a_gateway() -> None:
    for sender in PEERS[1:]:
        for receiver in PEERS[1:]:
            if (sender, receiver) == ("replica", "gateway"):
                assert Result in may_send(sender, receiver)
                assert not may_send(sender, receiver) & {Chunk, Records, Shutdown, View, Report}
            else:
                assert may_send(sender, receiver) == frozenset()


@pytest.mark.parametrize(
    ("key", "roles"),
    [
        ("router", {"router"}),
        ("gateway", {"gateway"}),
        ("worker", {"worker", "replica", "caller", "client"}),
        ("caller", {"caller", "client"}),
        ("operator", {"client"}),
    ],
)
def test_what_the_holder_of_a_key_may_be(key: str, roles: set[str]) -> None:
    assert key in KEY_ROLES
    assert {peer for peer in (*PEERS, "", "root") if may_be(frozenset((key,)), peer)} == roles


def test_calls_that_only_look_are_all_known_and_no_other_does() -> None:
    own = NodeInfo(b"r" * 16, b"b" * 8, "router")
    desk = RouterCore(ConfigSync(own, lambda: 0), random.Random(1), lambda: 0).control
    calls = {*desk._questions, *OPERATIONS, *CHANGES}
    assert calls >= READS
    assert calls - READS >= {"shutdown", "create_endpoint", "update_backend", "set_traffic", "apply_changes"}
    assert not [name for name in calls - READS if name.startswith(("get_", "list_", "wait_", "stat"))]

"""A backend is refused only by a router that can tell that it fits nowhere."""

from __future__ import annotations

from typing import Any

import orjson

from zserve.cores.placing import QUIET_S, WAIT_S
from zserve.wire.messages import Control, ControlReply, Pull, View, ViewChange

from .test_router import CLIENT, WORKER, Bench, info

OTHER = b"link-with-router"
BIG = {"name": "big", "code": "m:f", "version": "1", "config": {"num_replicas": 100}}


def ask(bench: Bench) -> None:
    bench.tell(CLIENT, Control(1, "create_backend", orjson.dumps(BIG)))


def replies(bench: Bench) -> list[dict[str, Any]]:
    return [orjson.loads(reply.payload) for reply in bench.sent(CLIENT, ControlReply)]


def test_a_call_waits_for_the_worker_nodes_that_are_still_joining() -> None:
    bench = Bench()
    ask(bench)
    assert replies(bench) == [], "the one worker node has 64 slots, and this router has just begun"
    bench.now = 1.0
    bench.up(b"worker-link-2", info("worker", b"worker2", slots=64))
    assert bench.router.sync.registry.backend("big") is not None


def test_when_no_worker_node_has_come_for_a_while_the_call_is_refused() -> None:
    bench = Bench()
    ask(bench)
    for _ in range(20):
        bench.now += 0.1
        bench.router.tick(bench.now)
    assert replies(bench) == []
    bench.now = QUIET_S + 1.1
    bench.router.tick(bench.now)
    (reply,) = replies(bench)
    assert reply["error"] == "ServeError"
    assert "64 slots" in reply["message"]
    ask(bench)
    assert len(replies(bench)) == 1, "at once, from now on"


def test_other_routers_are_asked_whom_they_see() -> None:
    bench = Bench()
    other = info("router", b"other", address="tcp://o:1")
    bench.up(OTHER, other)
    bench.tell(OTHER, View(other.node, other.boot, 1, [other]))
    bench.now = 10.0
    bench.router.out.take()
    ask(bench)
    sent = bench.router.out.take()
    assert CLIENT not in sent
    (pull,) = [message for message, _, _ in sent[OTHER] if isinstance(message, Pull)]
    assert (pull.view, pull.records) == (True, False)
    worker = info("worker", b"worker2", slots=64)
    bench.tell(OTHER, ViewChange(other.node, other.boot, 1, 2, [worker], []))
    assert bench.router.sync.registry.backend("big") is not None


def test_a_router_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    bench = Bench()
    bench.up(OTHER, info("router", b"other", address="tcp://o:1"))
    bench.now = 10.0
    bench.router.out.take()
    ask(bench)
    bench.now += WAIT_S - 0.1
    bench.router.tick(bench.now)
    assert replies(bench) == []
    bench.now += 1.2
    bench.router.tick(bench.now)
    assert "Cannot place" in replies(bench)[0]["message"]


def test_who_has_gone_gets_no_answer() -> None:
    bench = Bench()
    ask(bench)
    bench.router.link_down(CLIENT, "connection lost", 0.5)
    bench.router.out.take()
    bench.now = 20.0
    bench.router.tick(bench.now)
    assert replies(bench) == []
    assert bench.router.sync.registry.backend("big") is None


def test_a_backend_that_came_before_the_worker_nodes_is_refused_when_they_are_there() -> None:
    bench = Bench()
    bench.router.link_down(WORKER, "gone", bench.now)
    bench.control("create_backend", **BIG)  # a worker node may be about to join
    bench.tell(CLIENT, Control(2, "wait_backend", b'{"name": "big"}'))
    bench.now = 30.0
    bench.router.tick(bench.now)
    assert replies(bench) == [], "there is none yet"
    bench.up(b"worker-link-2", info("worker", b"worker2", slots=64))
    bench.router.tick(bench.now)
    bench.now += QUIET_S - 0.1
    bench.router.tick(bench.now)
    assert replies(bench) == [], "another one may come"
    bench.now += 1.0
    bench.router.tick(bench.now)
    (reply,) = replies(bench)
    assert reply["message"] == "Cannot place backend 'big': 64 of 100 replicas fit: 1 worker node with 64 slots in all"

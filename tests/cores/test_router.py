"""The router's core, driven by events alone."""

from __future__ import annotations

import math
import random
from typing import Any

import orjson
import pytest

from zserve.config import BackendConfig, user_config_digest
from zserve.cores.intake import SLACK_S
from zserve.cores.parking import PARK_S
from zserve.cores.retries import BACK_OFF_S, MAX_ATTEMPTS
from zserve.cores.router import RouterCore
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import (
    FLAG_DEFAULT_DEADLINE,
    FLAG_IDEMPOTENT,
    VERSION,
    Call,
    Cancel,
    Confirm,
    Confirmed,
    Control,
    ControlReply,
    Grant,
    Hello,
    NodeInfo,
    Ping,
    ReplicaStatus,
    Report,
    Request,
    Result,
    Return,
    Shutdown,
    View,
)

GATEWAY, CLIENT, WORKER = b"gateway-link", b"client-link", b"worker-link"
WALL_MS = 1_700_000_000_000


def info(role: str, node: bytes, **more: Any) -> NodeInfo:
    return NodeInfo(node.ljust(16, b"."), node.ljust(8, b".")[:8], role, **more)


class Bench:
    """A router core with one gateway, one client and one worker node linked, and what they were sent."""

    def __init__(self) -> None:
        own = info("router", b"router")
        self.router = RouterCore(ConfigSync(own, lambda: WALL_MS), random.Random(7), lambda: WALL_MS)
        self.now = 0.0
        self.replicas: dict[bytes, bytes] = {}
        self.up(GATEWAY, info("gateway", b"gateway"))
        self.up(CLIENT, info("client", b"client"))
        self.up(WORKER, info("worker", b"worker", slots=64))
        self._calls = 0

    def up(self, peer: bytes, node: NodeInfo, backend: str = "", code: str = "") -> None:
        self.router.link_up(peer, Hello(VERSION, VERSION, node, backend, code), self.now)

    def tell(self, peer: bytes, *messages: Any, body: bytes = b"") -> None:
        self.router.receive(peer, [(message, b"", body) for message in messages], self.now)
        self.check_wakeup()

    def check_wakeup(self) -> None:
        wakes = [queue.next_wakeup() for queue in self.router.queues.values()]
        assert self.router.next_wakeup() <= min([at for at in wakes if at is not None], default=math.inf)

    def sent(self, peer: bytes, *kinds: type) -> list[Any]:
        """What was sent to *peer* since the last look; everything else is forgotten."""
        found = self.router.out.take().get(peer, [])
        return [message for message, _, _ in found if not kinds or type(message) in kinds]

    def control(self, op: str, **args: Any) -> Any:
        """A control call whose write the gateway confirms."""
        self._calls += 1
        self.tell(CLIENT, Control(self._calls, op, orjson.dumps(args)))
        pending = self.router.out.take()
        for message, _, _ in pending.get(GATEWAY, []):
            if isinstance(message, Confirm):
                self.tell(GATEWAY, Confirmed(message.key, message.stamp))
        replies = [m for m, _, _ in pending.get(CLIENT, []) if isinstance(m, ControlReply)]
        replies += self.sent(CLIENT, ControlReply)
        assert len(replies) == 1, op
        reply = replies[0]
        assert reply.id == self._calls
        return orjson.loads(reply.payload)["result"] if reply.ok else orjson.loads(reply.payload)

    def serve(self, *backends: str, **config: Any) -> None:
        for backend in backends:
            self.control("create_backend", name=backend, code="m:f", version="1", config=config)
        self.control("create_endpoint", name="e", route="/e", methods=["GET"])
        self.control("set_traffic", endpoint="e", traffic={name: 1 / len(backends) for name in backends})

    def replica(self, name: str, backend: str = "b", limit: int = 10) -> bytes:
        peer = b"replica-link-" + name.encode()
        self.up(peer, info("replica", name.encode()), backend, "1")
        self.tell(peer, Grant(1, limit))
        return peer

    def request(self, number: int, **fields: Any) -> bytes:
        key = number.to_bytes(16, "big")
        self.tell(GATEWAY, Request(key, fields.pop("endpoint", "e"), **fields), body=b"body")
        return key


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_request_goes_to_a_replica_and_its_answer_back(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1")
    bench.router.out.take()
    key = bench.request(1, budget_us=1_000_000)
    parcels = bench.router.out.take()[replica]
    calls = [(message, body) for message, _, body in parcels if isinstance(message, Call)]
    assert len(calls) == 1
    call, body = calls[0]
    assert (call.id, call.endpoint, body) == (key, "e", b"body")
    assert 0 < call.budget_us <= 1_000_000
    bench.now = 0.25
    bench.tell(replica, Result(key, 200, run_us=1000), body=b"answer")
    back = [(m.id, m.status, body) for m, _, body in bench.router.out.take()[GATEWAY] if isinstance(m, Result)]
    assert back == [(key, 200, b"answer")]


def test_it_wakes_up_for_what_waits_in_any_queue(bench: Bench) -> None:
    bench.serve("b")
    bench.router.tick(bench.now)
    idle = bench.router.next_wakeup()
    bench.request(1, budget_us=5_000)
    assert bench.router.next_wakeup() == pytest.approx(bench.now + 0.005)
    bench.now += 0.005
    bench.router.tick(bench.now)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [504]
    assert bench.router.next_wakeup() == idle
    bench.replica("r1", limit=1)
    bench.request(2, budget_us=900_000)
    bench.request(3, budget_us=6_000)
    assert bench.router.next_wakeup() == pytest.approx(bench.now + 0.006)


def test_requests_wait_for_the_first_replica(bench: Bench) -> None:
    bench.serve("b")
    for number in range(3):
        bench.request(number)
    replica = bench.replica("r1")
    assert len(bench.sent(replica, Call)) == 3


def test_nothing_is_sent_beyond_the_credit(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1", limit=2)
    for number in range(5):
        bench.request(number)
    calls = bench.sent(replica, Call)
    assert len(calls) == 2
    bench.tell(replica, Result(calls[0].id), Grant(1, 3))
    assert len(bench.sent(replica, Call)) == 1


def test_the_most_urgent_leaves_first(bench: Bench) -> None:
    bench.serve("b")
    bench.request(1, budget_us=9_000_000)
    bench.request(2, budget_us=5_000_000)
    bench.request(3, budget_us=7_000_000)
    replica = bench.replica("r1")
    assert [int.from_bytes(call.id, "big") for call in bench.sent(replica, Call)] == [2, 3, 1]


def test_traffic_is_split_by_weight(bench: Bench) -> None:
    bench.serve("a", "b")
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.2, "b": 0.8})
    bench.replica("ra", "a", limit=10_000)
    replica = bench.replica("rb", "b", limit=10_000)
    bench.router.out.take()
    for number in range(2000):
        bench.request(number)
    assert 1500 < len(bench.sent(replica, Call)) < 1700


def test_an_endpoint_without_traffic_says_what_to_do(bench: Bench) -> None:
    bench.control("create_endpoint", name="e", route="/e", methods=["GET"])
    bench.request(1)
    assert [(m.status) for m in bench.sent(GATEWAY, Result)] == [503]


def test_a_request_for_an_endpoint_not_heard_of_waits_for_the_news(bench: Bench) -> None:
    bench.request(1)
    assert bench.sent(GATEWAY, Result) == []
    bench.serve("b")
    replica = bench.replica("r1")
    bench.router.out.take()
    bench.request(2, endpoint="nowhere")
    bench.now = PARK_S + 1.5
    bench.router.tick(bench.now)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [404]
    assert replica is not None


@pytest.mark.parametrize(("flags", "retried"), [(FLAG_IDEMPOTENT, True), (0, False)])
def test_a_replica_that_dies(bench: Bench, flags: int, retried: bool) -> None:
    bench.serve("b")
    first = bench.replica("r1")
    key = bench.request(1, flags=flags, budget_us=10_000_000)
    assert len(bench.sent(first, Call)) == 1
    second = bench.replica("r2")
    bench.router.out.take()
    bench.router.link_down(first, "connection lost", 1.0)
    parcels = bench.router.out.take()
    if retried:
        assert [m.id for m, _, _ in parcels[second] if isinstance(m, Call)] == [key]
    else:
        results = [(m, body) for m, _, body in parcels[GATEWAY] if isinstance(m, Result)]
        assert [(m.id, m.status) for m, _ in results] == [(key, 502)]
        assert b"may have run" in results[0][1]


def test_a_silent_replica_gets_nothing_new_until_it_is_heard_again(bench: Bench) -> None:
    bench.serve("b")
    silent, heard = bench.replica("r1"), bench.replica("r2", limit=1)
    bench.router.link_doubted(silent, "its process 7 is stopped (SIGSTOP)", bench.now)
    bench.router.link_doubted(GATEWAY, "host h is not heard: it may be down or cut off", bench.now)
    assert bench.router.doubts == {
        silent: "its process 7 is stopped (SIGSTOP)",
        GATEWAY: "host h is not heard: it may be down or cut off",
    }
    keys = [bench.request(number) for number in range(3)]
    calls = {
        peer: [m.id for m, _, _ in parcels if isinstance(m, Call)] for peer, parcels in bench.router.out.take().items()
    }
    assert calls[heard] == keys[:1]
    assert calls.get(silent, []) == []
    status = bench.control("status")
    assert {node["role"]: node["suspect"] for node in status["nodes"]} == {
        "gateway": "host h is not heard: it may be down or cut off",
        "router": "",
        "worker": "",
    }
    bench.router.link_doubted(silent, "", bench.now)
    assert [call.id for call in bench.sent(silent, Call)] == keys[1:], "at once"
    bench.router.link_down(GATEWAY, "silent for 5.1 s", bench.now)
    assert bench.router.doubts == {}


def told_unready(bench: Bench) -> list[str]:
    found = bench.router.ping(GATEWAY, bench.now).unready
    assert bench.router.ping(WORKER, bench.now).unready == [], "nobody else asks"
    return found


def test_the_heartbeat_names_what_would_not_be_served(bench: Bench) -> None:
    bench.serve("b")
    assert told_unready(bench) == ["e (backend b)"]
    one, other = bench.replica("r1"), bench.replica("r2")
    assert told_unready(bench) == []
    bench.router.link_doubted(one, "its process 7 is stopped (SIGSTOP)", bench.now)
    assert told_unready(bench) == [], "there is another one"
    bench.router.link_doubted(other, "host h is not heard", bench.now)
    (text,) = told_unready(bench)
    assert text.startswith("e (backend b: replica ")
    assert "its process 7 is stopped (SIGSTOP)" in text
    assert "host h is not heard" in text
    bench.router.link_doubted(one, "", bench.now)
    assert told_unready(bench) == []


def test_a_replica_that_finishes_nothing_is_named(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1")
    bench.now += 100.0
    bench.tell(replica, Ping(progress_us=9_000_000))
    assert told_unready(bench) == []
    assert bench.control("status")["replicas"] == [], "its worker node has not reported it"
    bench.now += 2.0
    (text,) = told_unready(bench)
    assert "has finished nothing for 11 s, and has no place for more" in text
    bench.tell(replica, Ping(progress_us=500_000))
    assert told_unready(bench) == []
    bench.tell(replica, Ping(progress_us=30_000_000))
    assert told_unready(bench) != []
    bench.tell(replica, Ping())
    assert told_unready(bench) == [], "it has a place for more"


def test_calls_that_take_long_are_given_their_time(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1")
    key = bench.request(1, budget_us=60_000_000)
    bench.now += 8.0
    bench.tell(replica, Result(key, run_us=8_000_000))
    bench.tell(replica, Ping(progress_us=30_000_000))
    assert told_unready(bench) == []
    bench.now += 15.0
    assert "has finished nothing for 45 s" in told_unready(bench)[0]


def test_a_request_that_kills_every_replica_is_given_up(bench: Bench) -> None:
    bench.serve("b")
    bench.request(1, flags=FLAG_IDEMPOTENT, budget_us=10_000_000)
    for attempt in range(MAX_ATTEMPTS):
        replica = bench.replica(f"r{attempt}")
        if attempt == 2:
            assert bench.sent(replica, Call) == [], "it has met two that died: not at once again"
            assert bench.router.next_wakeup() <= bench.now + 1.5 * BACK_OFF_S
            bench.now += 1.5 * BACK_OFF_S
            bench.router.tick(bench.now)
        assert len(bench.sent(replica, Call)) == 1
        bench.router.link_down(replica, "killed by signal 9", bench.now)
    assert [result.status for result in bench.sent(GATEWAY, Result)] == [502]


@pytest.mark.parametrize("how", ["cancelled", "drained", "endpoint deleted", "backend deleted"])
def test_one_that_backs_off_may_not_be_wanted_any_more(bench: Bench, how: str) -> None:
    bench.serve("b")
    key = bench.request(1, flags=FLAG_IDEMPOTENT)
    for attempt in range(2):
        bench.router.link_down(bench.replica(f"r{attempt}"), "killed by signal 9", bench.now)
    bench.router.out.take()
    if how == "cancelled":
        bench.tell(GATEWAY, Cancel([key]))
    elif how == "drained":
        bench.router.drain(bench.now)
        assert [back.ids for back in bench.sent(GATEWAY, Return)] == [[key]]
    else:
        bench.control("delete_endpoint", name="e")
        if how == "backend deleted":
            bench.control("delete_backend", name="b")
    left = bench.replica("r9")
    bench.now += 2.0
    bench.router.tick(bench.now)
    assert bench.sent(left, Call) == []
    assert bench.router.entries == {}


def test_retries_have_a_budget(bench: Bench) -> None:
    bench.serve("b")
    bench.router.retries.tokens = 3.0
    replica = bench.replica("r1")
    for number in range(10):
        bench.request(number, flags=FLAG_IDEMPOTENT, budget_us=10_000_000)
    bench.router.out.take()
    bench.router.link_down(replica, "gone", 1.0)
    failed = bench.sent(GATEWAY, Result)
    assert {result.status for result in failed} == {502}
    assert 5 <= len(failed) <= 7


def test_a_cancelled_request_leaves_the_queue_or_is_cancelled_at_its_replica(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1", limit=1)
    running, waiting = bench.request(1), bench.request(2)
    bench.router.out.take()
    bench.tell(GATEWAY, Cancel([running, waiting]))
    assert bench.sent(replica, Cancel) == [Cancel([running])]
    bench.tell(replica, Result(running), Grant(1, 2))
    parcels = bench.router.out.take()
    assert [m for m, _, _ in parcels.get(GATEWAY, []) if isinstance(m, Result)] == []
    assert [m for m, _, _ in parcels.get(replica, []) if isinstance(m, Call)] == []


def test_when_a_gateway_goes_its_requests_are_dropped(bench: Bench) -> None:
    bench.serve("b")
    for number in range(5):
        bench.request(number)
    bench.router.link_down(GATEWAY, "connection lost", 1.0)
    assert bench.router.queues["b"].statistics()["queued"] == 0


def test_a_draining_router_hands_back_what_it_has_not_started(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1", limit=1)
    running, waiting = bench.request(1), bench.request(2)
    bench.router.out.take()
    bench.router.drain(1.0)
    assert bench.sent(GATEWAY, Return)[0].ids == [waiting]
    assert not bench.router.drained
    late = bench.request(3)
    assert bench.sent(GATEWAY, Return)[0].ids == [late]
    bench.tell(replica, Result(running))
    assert bench.router.drained


def test_what_a_replica_hands_back_goes_to_another(bench: Bench) -> None:
    bench.serve("b")
    first = bench.replica("r1")
    key = bench.request(1)
    second = bench.replica("r2")
    bench.router.out.take()
    bench.tell(first, Grant(2, 0), Return([key], "draining"))  # a recall begins a new epoch
    assert [call.id for call in bench.sent(second, Call)] == [key]


@pytest.mark.parametrize("own", [False, True], ids=["by slo_ms", "of its own"])
def test_what_runs_past_the_deadline_that_its_backend_gives_it(bench: Bench, own: bool) -> None:
    bench.serve("b", slo_ms=200.0)
    replica = bench.replica("r1")
    budget = {"budget_us": 10_000_000} if own else {"budget_us": 30_000_000, "flags": FLAG_DEFAULT_DEADLINE}
    key = bench.request(1, **budget)
    assert [call.id for call in bench.sent(replica, Call)] == [key]
    assert own or bench.router.next_wakeup() <= 0.2 + SLACK_S
    bench.router.tick(0.2 + SLACK_S)
    parcels = bench.router.out.take()
    results = [message for message, _, _ in parcels.get(GATEWAY, []) if isinstance(message, Result)]
    cancelled = [message.ids for message, _, _ in parcels.get(replica, []) if isinstance(message, Cancel)]
    if own:  # the gateway sees to it
        assert (results, cancelled) == ([], [])
        return
    assert [(result.id, result.status) for result in results] == [(key, 504)]
    assert cancelled == [[key]]
    bench.tell(replica, Result(key, 200))
    assert bench.sent(GATEWAY, Result) == [], "one answer only"


@pytest.mark.parametrize(("deleted", "status"), [("endpoint", 404), ("backend", 503)])
@pytest.mark.parametrize("handed_back", [False, True])
def test_what_comes_back_after_a_delete_is_answered_at_once(
    bench: Bench, deleted: str, status: int, handed_back: bool
) -> None:
    bench.serve("b", "c")
    replica = bench.replica("r1")
    bench.control("set_traffic", endpoint="e", traffic={"b": 1.0})
    key = bench.request(1, flags=FLAG_IDEMPOTENT, budget_us=10_000_000)
    if deleted == "endpoint":
        bench.control("delete_endpoint", name="e")
    else:
        bench.control("set_traffic", endpoint="e", traffic={"c": 1.0})
        bench.control("delete_backend", name="b")
    bench.router.out.take()
    if handed_back:
        bench.tell(replica, Grant(2, 0), Return([key], "draining"))
    else:
        bench.router.link_down(replica, "died", 0.0)
    assert [(result.id, result.status) for result in bench.sent(GATEWAY, Result)] == [(key, status)]


def test_a_worker_that_reports_a_dead_replica_ends_its_link(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1")
    node = b"r1".ljust(16, b".")
    bench.tell(WORKER, Report([ReplicaStatus(node, "b", 0, "1", "dead", reason="killed by signal 9 (SIGKILL)")]))
    assert bench.router.out.take_closed() == [(replica, "killed by signal 9 (SIGKILL)")]


def test_wait_backend_ends_when_replicas_are_up_or_have_failed(bench: Bench) -> None:
    bench.control("create_backend", name="b", code="m:f", version="1")
    bench.tell(CLIENT, Control(99, "wait_backend", b'{"name": "b"}'))
    assert bench.sent(CLIENT, ControlReply) == []
    bench.replica("r1")
    assert [reply.ok for reply in bench.sent(CLIENT, ControlReply)] == [True]

    bench.control("create_backend", name="c", code="m:g", version="1")
    bench.tell(CLIENT, Control(100, "wait_backend", b'{"name": "c"}'))
    bench.tell(WORKER, Report([ReplicaStatus(b"x" * 16, "c", 0, "1", "failed", reason="ValueError: no model")]))
    reply = bench.sent(CLIENT, ControlReply)[0]
    assert not reply.ok
    assert orjson.loads(reply.payload)["error"] == "ApplicationError"
    assert "no model" in orjson.loads(reply.payload)["message"]


def test_wait_configured_ends_when_running_replicas_have_the_user_config_or_refuse_it(bench: Bench) -> None:
    old, new = (user_config_digest(BackendConfig(user_config={"n": n})) for n in (1, 2))
    node = b"r1".ljust(16, b".")

    def ask(number: int) -> None:
        bench.tell(CLIENT, Control(number, "wait_configured", b'{"name": "b"}'))

    def report(**more: bytes | str) -> list[ControlReply]:
        starting = ReplicaStatus(b"r2".ljust(16, b"."), "b", 1, "1", "starting", configured=old)
        bench.tell(WORKER, Report([ReplicaStatus(node, "b", 0, "1", "ready", **more), starting]))  # type: ignore[arg-type]
        return bench.sent(CLIENT, ControlReply)

    bench.control("create_backend", name="b", code="m:C", version="1", is_class=True, config={"user_config": {"n": 2}})
    assert report(configured=old) == []
    ask(1)
    assert bench.sent(CLIENT, ControlReply) == []
    assert [reply.ok for reply in report(configured=new)] == [True]
    report(configured=old)
    ask(2)
    (refused,) = report(configured=old, refused=new, reason="reconfigure() failed:\nValueError: n")
    assert orjson.loads(refused.payload) == {
        "error": "ApplicationError",
        "message": "reconfigure() failed:\nValueError: n",
    }
    (replica,) = [one for one in bench.control("status")["replicas"] if one["state"] == "ready"]
    assert replica["reason"].endswith("ValueError: n"), "for as long as it is refused"


def test_a_write_is_answered_once_the_gateway_has_it_or_named_as_late(bench: Bench) -> None:
    bench.tell(
        CLIENT, Control(1, "create_endpoint", b'{"name": "e", "route": "/e", "methods": ["GET"], "backend": null}')
    )
    parcels = bench.router.out.take()
    assert [m for m, _, _ in parcels.get(CLIENT, [])] == []
    confirm = next(m for m, _, _ in parcels[GATEWAY] if isinstance(m, Confirm))
    bench.tell(GATEWAY, Confirmed(confirm.key, confirm.stamp))
    assert [reply.ok for reply in bench.sent(CLIENT, ControlReply)] == [True]

    bench.tell(CLIENT, Control(2, "delete_endpoint", b'{"name": "e"}'))
    bench.router.out.take()
    bench.now = 6.0
    bench.router.tick(6.0)
    reply = orjson.loads(bench.sent(CLIENT, ControlReply)[0].payload)
    assert "gateway" in reply["warnings"][0]


@pytest.mark.parametrize(
    ("op", "args", "error"),
    [
        ("nonsense", b"{}", "ValueError"),
        ("create_endpoint", b"not json", "ValueError"),
        ("create_endpoint", b"[]", "ValueError"),
        ("set_traffic", b'{"endpoint": "e", "traffic": {"b": 0.5}}', "ValueError"),
        ("set_traffic", b'{"endpoint": "x", "traffic": {"b": 1.0}}', "ValueError"),
        ("delete_backend", b'{"name": "b"}', "ValueError"),
        ("wait_backend", b'{"name": "unknown"}', "KeyError"),
        ("wait_backend", b'{"name": 7}', "TypeError"),
        ("update_backend_config", b'{"name": "b", "config": {"max_batch_size": 0}}', "ValueError"),
        (
            "create_backend",
            b'{"name": "h", "code": "m:f", "version": "1", "config": {"num_replicas": 9999}}',
            "ServeError",
        ),
    ],
)
def test_a_bad_control_call_gets_its_error_and_changes_nothing(bench: Bench, op: str, args: bytes, error: str) -> None:
    bench.serve("b")
    bench.now += 2.0  # long enough for all worker nodes to have come
    before = bench.router.sync.registry.digest()
    bench.tell(CLIENT, Control(500, op, args))
    reply = bench.sent(CLIENT, ControlReply)[0]
    assert not reply.ok
    assert orjson.loads(reply.payload)["error"] == error
    assert orjson.loads(reply.payload)["message"]
    assert bench.router.sync.registry.digest() == before


def test_only_clients_may_control_and_only_gateways_may_request(bench: Bench) -> None:
    bench.serve("b")
    replica = bench.replica("r1")
    bench.router.out.take()
    bench.tell(GATEWAY, Control(1, "delete_endpoint", b'{"name": "e"}'))
    bench.tell(replica, Control(1, "delete_endpoint", b'{"name": "e"}'))
    assert bench.router.sync.registry.endpoint("e") is not None
    bench.tell(replica, Request(b"k" * 16, "e"))
    assert bench.router.misplaced >= 1
    assert bench.sent(replica, Call) == []


def test_deleting_an_endpoint_answers_what_waits_for_it(bench: Bench) -> None:
    bench.serve("b")
    bench.request(1)
    bench.control("delete_endpoint", name="e")
    bench.request(2)
    bench.now = PARK_S + 1.1
    bench.router.tick(bench.now)
    assert bench.router.queues["b"].statistics()["queued"] == 0


def test_shutdown_is_told_to_everyone_once(bench: Bench) -> None:
    bench.control("shutdown", reason="test")
    assert bench.router.shutdown_reason == "test"
    bench.router.shut_down("again")
    assert bench.router.shutdown_reason == "test"
    bench.tell(GATEWAY, Shutdown("not from a router"))
    assert bench.router.shutdown_reason == "test"


def test_a_router_that_drains_tells_the_gateways_in_the_order_of_their_joining() -> None:
    bench = Bench()
    links = [b"gateway-%d" % number for number in range(40)]
    for link in links:
        bench.up(link, info("gateway", link))
    bench.router.out.take()
    bench.router.drain(bench.now)
    told = [link for link, parcels in bench.router.out.take().items() if type(parcels[0][0]) is Return]
    assert told == [GATEWAY, *links]


def test_a_request_that_came_again_while_it_ran_is_cancelled_wherever_it_runs(bench: Bench) -> None:
    """Found by the simulator: the second cancel met the entry that the first one had cancelled, and the answer to the
    other one, which came later, was for a request that the router had forgotten."""
    bench.serve("b")
    first = bench.replica("r1", limit=1)
    key = bench.request(1, flags=FLAG_IDEMPOTENT)
    assert [call.id for call in bench.sent(first, Call)] == [key]
    bench.router.link_down(GATEWAY, "connection lost", bench.now)
    bench.up(GATEWAY, info("gateway", b"gateway"))
    second = bench.replica("r2")
    bench.router.out.take()
    bench.request(1, flags=FLAG_IDEMPOTENT)
    assert [call.id for call in bench.sent(second, Call)] == [key]
    bench.tell(GATEWAY, Cancel([key]))
    assert [cancel.ids for cancel in bench.sent(second, Cancel)] == [[key]]
    for replica in (second, first):
        bench.tell(replica, Result(key, 200), body=b"late")
        assert bench.sent(GATEWAY, Result) == []
    assert bench.router.queues["b"].in_flight == 0


def test_a_router_in_doubt_about_its_records_takes_no_writes(bench: Bench) -> None:
    bench.router.sync.begin_in_doubt([], WALL_MS - 1, 10.0)
    told = bench.control("create_endpoint", name="e")
    assert told["error"] == "ServeError"
    assert "away" in told["message"]
    assert "endpoints" in bench.control("status"), "questions are answered"
    for at in (1.0, 12.0):
        bench.now = at
        bench.router.tick(at)
    assert bench.control("create_endpoint", name="e") is None


def test_reports_come_from_the_worker_node_or_by_way_of_another_router(bench: Bench) -> None:
    other = info("router", b"other", address="tcp://o:1")
    bench.up(b"other-link", other)
    far = info("worker", b"far", slots=4)
    bench.tell(b"other-link", View(other.node, other.boot, 1, [other, far]))
    status = ReplicaStatus(b"x" * 16, "b", 0, "1", "ready")
    bench.tell(b"other-link", Report([status], far.node, far.boot, 2))
    bench.tell(b"other-link", Report([], far.node, far.boot, 1))
    bench.tell(CLIENT, Report([], far.node, far.boot, 9))
    (replica,) = bench.control("status")["replicas"]
    assert (replica["node"], replica["state"]) == (far.node.hex(), "ready")
    (node,) = [node for node in bench.control("status")["nodes"] if node["id"] == far.node.hex()]
    assert node["routers"] == [other.node.hex()]
    bench.tell(b"other-link", View(other.node, other.boot, 2, [other]))
    bench.now = 2.0
    bench.router.tick(bench.now)
    assert bench.control("status")["replicas"] == []

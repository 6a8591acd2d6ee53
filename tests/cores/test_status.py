"""What a router tells of itself, and the control calls that ``zserve deploy`` makes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from zserve.cores.router import RouterCore
from zserve.registry.registry import Registry
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import Records, Result

from .test_router import WALL_MS, Bench, info


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_errors_of_handlers_are_counted_by_backend(bench: Bench) -> None:
    bench.serve("b", "c")
    replica = bench.replica("r1")
    bench.control("set_traffic", endpoint="e", traffic={"b": 1.0})
    for number, status in enumerate((200, 500, 404, 503), 1):
        key = bench.request(number)
        bench.tell(replica, Result(key, status))
    backends = bench.control("status")["backends"]
    assert backends["b"]["counters"]["errors"] == 2
    assert backends["b"]["counters"]["completed"] == 4
    assert backends["c"]["counters"]["errors"] == 0
    stat = bench.control("stat")
    assert stat["backends"]["b"]["errors"] == 2
    assert (stat["endpoints"]["e"]["answered"], stat["endpoints"]["e"]["errors"]) == (4, 2)


def test_the_settings_are_told_in_full(bench: Bench) -> None:
    bench.serve("b", max_queued_requests=7)
    told = bench.control("status")
    assert told["backends"]["b"]["config"]["max_queued_requests"] == 7
    assert told["backends"]["b"]["config"]["num_replicas"] == 1
    assert told["backends"]["b"]["batchable"] is False
    assert told["endpoints"]["e"]["policy"] == "random"
    assert told["versions"] == {"backend/b": 1, "endpoint/e": 2}


def test_the_write_that_lost_is_told_field_by_field(bench: Bench) -> None:
    bench.serve("b")
    elsewhere = Registry(b"elsewhere".ljust(16, b"."))
    for record in bench.router.sync.registry.records():
        elsewhere.merge(record, WALL_MS)
    bench.control("set_traffic", endpoint="e", traffic={"b": 1.0}, policy="round_robin")
    lost = bench.router.sync.registry.get("endpoint/e")
    before = elsewhere.get("endpoint/e")
    assert lost is not None
    assert before is not None
    later = elsewhere.write("endpoint/e", None, before.stamp, WALL_MS + 1000)
    bench.up(b"other-link", info("router", b"elsewhere"))
    bench.tell(b"other-link", Records([later]))
    (conflict,) = bench.control("status")["conflicts"]
    assert conflict["key"] == "endpoint/e"
    assert conflict["lost"]["policy"] == "round_robin"
    assert conflict["kept"] is None
    assert conflict["differs"]["policy"] == ["round_robin", None]
    assert (conflict["loser"], conflict["winner"]) == (lost.stamp.hex(), later.stamp.hex())
    assert conflict["writer"] == b"router".ljust(16, b".").hex()
    assert conflict["written_ms"] == WALL_MS


def test_endpoints_that_name_no_policy_get_the_router_s() -> None:
    bench = Bench()
    bench.router = RouterCore(
        ConfigSync(info("router", b"router"), lambda: WALL_MS),
        random.Random(7),
        lambda: WALL_MS,
        policy="fixed_packing",
        policy_kwargs={"packing_num": 3},
    )
    bench.up(b"client-link", info("client", b"client"))
    bench.control("create_endpoint", name="e", route="/e")
    bench.control("create_endpoint", name="f", route="/f", policy="random")
    endpoints: dict[str, Any] = bench.control("status")["endpoints"]
    assert (endpoints["e"]["policy"], endpoints["e"]["policy_kwargs"]) == ("fixed_packing", {"packing_num": 3})
    assert (endpoints["f"]["policy"], endpoints["f"]["policy_kwargs"]) == ("random", {})
    assert bench.control("status")["router"]["policy"] == "fixed_packing"


def change(name: str, parent: str | None = None, **config: Any) -> dict[str, Any]:
    return {
        "key": f"backend/{name}",
        "value": {"code": "m:f", "version": "1", "config": config},
        "parent": parent,
    }


def test_changes_that_do_not_fit_together_are_refused(bench: Bench) -> None:
    """The one worker node has 64 slots."""
    bench.now += 2.0  # long enough for others to have come
    told = bench.control("apply_changes", changes=[change("a", num_replicas=40), change("b", num_replicas=30)])
    assert told["error"] == "ServeError"
    assert "Cannot place backend" in told["message"]
    assert bench.control("list_records") == {}
    fits = bench.control("apply_changes", changes=[change("a", num_replicas=40), change("b", num_replicas=20)])
    swap = [change("a", fits["backend/a"], num_replicas=4), change("b", fits["backend/b"], num_replicas=60)]
    assert "error" not in bench.control("apply_changes", changes=swap, check=True)


def test_changes_are_spread_and_confirmed_like_any_write(bench: Bench) -> None:
    bench.router.out.take_publications()
    stamps = bench.control("apply_changes", changes=[change("a"), change("b")])
    published = [record.key for message in bench.router.out.take_publications() for record in message.records]
    assert published == ["backend/a", "backend/b"]
    assert stamps.keys() == {"backend/a", "backend/b"}
    assert bench.router.queues.keys() == {"a", "b"}

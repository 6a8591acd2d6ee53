"""A policy of the user's, from the control call that names it to the request that it fails for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from zserve.cores.router import RouterCore
from zserve.registry.sync import ConfigSync
from zserve.scheduling.traffic import Backlog, TrafficPolicy
from zserve.wire.messages import Call, Records

from .test_router import WALL_MS, Bench, info

NAME = "policies:Overflow"


class Overflow:
    """The first by name until *limit* requests are there, then the next."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog, limit: int = 2) -> None:
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit}")
        self.names = sorted(weights)
        self.backlog = backlog
        self.limit = limit

    def choose(self, shard: str) -> str:
        return next((name for name in self.names if self.backlog(name) < self.limit), "nobody")


def has(name: str) -> Callable[..., TrafficPolicy]:
    if name != NAME:
        raise ValueError(f"traffic policy {name!r} cannot be imported")
    return Overflow


def has_not(name: str) -> Callable[..., TrafficPolicy]:
    raise ValueError(f"traffic policy {name!r} cannot be imported: ModuleNotFoundError")


class PolicyBench(Bench):
    def __init__(self, load: Callable[[str], Callable[..., TrafficPolicy]] = has, node: bytes = b"router") -> None:
        super().__init__()
        own = info("router", node, name=node.decode())
        self.router = RouterCore(
            ConfigSync(own, lambda: WALL_MS), random.Random(7), lambda: WALL_MS, load_policy=load
        )
        self.up(b"gateway-link", info("gateway", b"gateway"))
        self.up(b"client-link", info("client", b"client"))
        self.up(b"worker-link", info("worker", b"worker", slots=64))

    def endpoint(self) -> dict[str, Any]:
        told: dict[str, Any] = self.control("status")["endpoints"]["e"]
        return told

    def drawn(self, number: int) -> dict[str, int]:
        """How many of *number* requests each backend got."""
        before = {name: len(queue) + queue.in_flight for name, queue in self.router.queues.items()}
        for _ in range(number):
            self.key = getattr(self, "key", 0) + 1
            self.request(self.key)
        return {
            name: len(queue) + queue.in_flight - before[name] for name, queue in self.router.queues.items()
        }


@pytest.fixture
def bench() -> PolicyBench:
    bench = PolicyBench()
    bench.serve("a", "b")
    return bench


def test_the_class_decides_from_the_next_request_on(bench: PolicyBench) -> None:
    said = bench.control(
        "set_traffic", endpoint="e", traffic={"a": 1.0, "b": 0.0}, policy=NAME, policy_kwargs={"limit": 3}
    )
    assert said is None
    assert bench.drawn(5) == {"a": 3, "b": 2}
    told = bench.endpoint()
    assert (told["policy"], told["policy_kwargs"]) == (NAME, {"limit": 3})
    assert (told["policy_fallbacks"], told["policy_faults"]) == (0, [])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"policy": "policies:Nope"}, "'policies:Nope' cannot be imported (tried by router 'router')"),
        ({"policy": NAME, "policy_kwargs": {"limit": 0}}, "cannot be made: ValueError: limit must be 1 or more, not 0"),
        ({"policy": NAME, "policy_kwargs": {"max": 1}}, "unexpected keyword argument 'max'"),
        ({"policy": NAME, "policy_kwargs": {"limit": None}}, "cannot be made: TypeError"),
        ({"policy": "best"}, "or 'package.module:Class', not 'best'"),
        ({"policy": "random", "policy_kwargs": {"limit": 1}}, "'limit' is unknown; policy 'random' takes none"),
        ({"policy_kwargs": {"packing_num": 2}}, "'packing_num' is unknown; policy 'random' takes none"),
    ],
)
def test_what_does_not_work_is_refused_and_nothing_changes(bench: PolicyBench, args: dict[str, Any], says: str) -> None:
    before = bench.control("list_records")
    for op, more in (
        ("set_traffic", {"endpoint": "e", "traffic": {"a": 0.5, "b": 0.5}}),
        ("create_endpoint", {"name": "new", "route": "/new", "backend": "a"}),
    ):
        told = bench.control(op, **more, **args)
        assert told["error"] in ("ValueError", "TypeError")
        assert says in told["message"]
    assert bench.control("list_records") == before
    assert sum(bench.drawn(20).values()) == 20


def test_a_policy_that_makes_its_first_choice_wrong_is_refused(bench: PolicyBench) -> None:
    bench.control("set_traffic", endpoint="e", traffic={"a": 1.0})
    bench.drawn(2)
    told = bench.control("set_traffic", endpoint="e", traffic={"a": 1.0}, policy=NAME)
    assert "'policies:Overflow' chose 'nobody', which is none of 'a'" in told["message"]
    assert bench.endpoint()["policy"] == "random"


def test_several_changes_are_tried_before_the_first_is_written(bench: PolicyBench) -> None:
    records = bench.control("list_records")
    good = {**records["endpoint/e"]["value"], "policy": NAME}
    changes = [
        {"key": "endpoint/e", "value": good, "parent": records["endpoint/e"]["stamp"]},
        {"key": "endpoint/f", "value": {**good, "route": "/f", "policy": "policies:Nope"}, "parent": None},
    ]
    for check in (True, False):
        told = bench.control("apply_changes", changes=changes, check=check)
        assert "'policies:Nope' cannot be imported" in told["message"]
    assert bench.control("list_records") == records
    assert "error" not in bench.control("apply_changes", changes=changes[:1])
    assert bench.endpoint()["policy"] == NAME


def test_a_router_without_the_class_shares_by_weight_and_says_so_once(bench: PolicyBench) -> None:
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.5, "b": 0.5}, policy=NAME)
    other = PolicyBench(has_not, b"other")
    other.up(b"first-link", info("router", b"first"))
    other.tell(b"first-link", Records(bench.router.sync.registry.records()))
    assert other.endpoint()["policy"] == NAME, "the record is in force all the same"
    replica = other.replica("r1", "a", limit=1000)
    drawn = other.drawn(200)
    assert sum(drawn.values()) == 200
    assert 60 < drawn["a"] < 140
    assert len(other.sent(replica, Call)) == drawn["a"]
    told = other.endpoint()
    assert told["policy_fallbacks"] == 200
    fault = f"traffic policy '{NAME}' cannot be imported: ModuleNotFoundError"
    assert told["policy_faults"] == [{"router": "other", "fault": fault}]
    assert list(other.router.endpoints.notices) == [
        f"endpoint 'e' shares its requests by weight at random instead: {fault}"
    ]

    other.router.link_down(b"first-link", "goodbye", other.now)
    refused = other.control("set_traffic", endpoint="e", traffic={"a": 0.25, "b": 0.75})
    assert "cannot be imported: ModuleNotFoundError (tried by router 'other')" in refused["message"]
    assert other.control("shadow_traffic", endpoint="e", backend="b", proportion=0.5) is None, "no matter of the policy"
    assert other.control("set_traffic", endpoint="e", traffic={"a": 1.0}, policy="random") is None, "a way out"
    assert other.endpoint()["policy_faults"] == []


def test_a_policy_that_fails_later_loses_no_request(bench: PolicyBench) -> None:
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.5, "b": 0.5}, policy=NAME)
    assert sum(bench.drawn(50).values()) == 50
    told = bench.endpoint()
    assert told["policy_fallbacks"] == 46, "after two for each"
    (fault,) = told["policy_faults"]
    assert "chose 'nobody', which is none of 'a', 'b'" in fault["fault"]
    assert len(bench.router.endpoints.notices) == 1
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.5, "b": 0.5}, policy="random")
    assert bench.endpoint()["policy_fallbacks"] == 0


def test_a_shard_key_overrules_it(bench: PolicyBench) -> None:
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.5, "b": 0.5}, policy=NAME)
    for number in range(10):
        bench.request(1000 + number, shard="customer 7")
    assert sorted(len(queue) for queue in bench.router.queues.values()) == [0, 10]


def test_a_repeated_declaration_leaves_the_policy_alone(bench: PolicyBench) -> None:
    bench.control("set_traffic", endpoint="e", traffic={"a": 0.5, "b": 0.5}, policy=NAME)
    assert bench.control("create_endpoint", name="e", route="/e", methods=["GET"]) is None
    assert bench.endpoint()["policy"] == NAME
    assert "other content" in bench.control(
        "create_endpoint", name="e", route="/e", methods=["GET"], policy="random"
    )["message"]


def test_the_default_policy_may_be_one_too() -> None:
    bench = PolicyBench()
    bench.router = RouterCore(
        ConfigSync(info("router", b"router"), lambda: WALL_MS),
        random.Random(7),
        lambda: WALL_MS,
        policy=NAME,
        policy_kwargs={"limit": 1},
        load_policy=has,
    )
    bench.up(b"client-link", info("client", b"client"))
    bench.control("create_backend", name="a", code="m:f", version="1")
    bench.control("create_endpoint", name="e", route="/e", backend="a")
    assert (bench.endpoint()["policy"], bench.endpoint()["policy_kwargs"]) == (NAME, {"limit": 1})
    bench.router.endpoints.check_policy(NAME, {})
    bench.router.endpoints.check_policy("random", {})
    for bad in ("policies:Nope", "best"):
        with pytest.raises(ValueError, match=bad):
            bench.router.endpoints.check_policy(bad, {})

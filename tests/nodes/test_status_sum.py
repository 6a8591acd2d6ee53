"""The status of several routers, added up."""

from __future__ import annotations

from typing import Any

from zserve.nodes.status_sum import HINT_AFTER, add_up, ask_all, hints_of
from zserve.nodes.status_view import render_status

from zserve.control.totals import add_counters
from zserve.errors import FabricUnreachable

ONE, TWO = "11" * 16, "22" * 16


def counters(**numbers: Any) -> dict[str, Any]:
    return {"admitted": 10, "completed": 9, "errors": 1, "refused": {"full": 1}, "sent": 9, "batches": 3,
            "batch_size": {"mean": 3.0, "max": 4, "histogram": {"3": 3}}, "service_time": {"p95_s": 0.1},
            "replicas": {"ab": {"in_flight": 1}}, "policy": "edf", **numbers}  # fmt: skip


def status(node: str, **more: Any) -> dict[str, Any]:
    return {
        "address": f"tcp://{node[:2]}:7700",
        "nodes": [
            {"id": ONE, "role": "router", "name": "r1", "address": "tcp://11:7700"},
            {"id": TWO, "role": "router", "name": "r2", "address": "tcp://22:7700"},
        ],
        "replicas": [],
        "conflicts": [],
        "versions": {"backend/b": 1},
        "backends": {"b": {"ready": 1, "batchable": False, "config": {}, "counters": counters()}},
        "router": {"node": node, "requests": 10, "digest": "d"},
        **more,
    }


def test_numbers_are_added_and_largest_ones_kept() -> None:
    other = counters(batch_size={"mean": 1.0, "max": 9, "histogram": {"1": 1}}, batches=1)
    total = add_counters([counters(), other, {}])
    assert (total["admitted"], total["errors"], total["refused"]) == (20, 2, {"full": 2})
    assert total["batch_size"] == {"mean": 18 / 4, "max": 9, "histogram": {"3": 3, "1": 1}}
    assert not {"service_time", "replicas", "policy"} & total.keys(), "what has no sum"


def test_all_routers_are_asked() -> None:
    class Client:
        address = "tcp://11:7700"

        def call(self, op: str) -> Any:
            assert op == "status"
            return status(ONE)

    asked: list[str] = []

    def ask(address: str) -> Any:
        asked.append(address)
        return status(TWO, versions={"backend/b": 2})

    total = ask_all(Client(), ask)  # type: ignore[arg-type]
    assert asked == ["tcp://22:7700"]
    assert total["backends"]["b"]["counters"]["completed"] == 18
    assert [(router["name"], router["answers"], router["requests"]) for router in total["routers"]] == [
        ("r1", True, 10),
        ("r2", True, 10),
    ]
    assert total["disagree"] == ["backend/b"]


def test_what_became_of_a_policy_is_told_of_all_routers() -> None:
    def endpoint(fallbacks: int, *routers: str) -> dict[str, Any]:
        faults = [{"router": router, "fault": f"traffic policy 'a:B' failed: on\x1b {router}"} for router in routers]
        value = {"route": "/e", "methods": ["GET"], "traffic": {"b": 1.0}, "shadows": {}, "policy": "a:B"}
        return {"endpoints": {"e": {**value, "policy_fallbacks": fallbacks, "policy_faults": faults}}}

    total = add_up(status(ONE, **endpoint(0)), {TWO: status(TWO, **endpoint(1200, "r2"))})
    assert total["endpoints"]["e"]["policy_fallbacks"] == 1200
    text = render_status(total)
    assert "policy a:B (failed 1,200 times)" in text
    assert "endpoint e shares by weight at random on router r2: traffic policy 'a:B' failed: on? r2" in text
    assert "by weight at random" not in render_status(add_up(status(ONE, **endpoint(0)), {}))
    behind = add_up(status(ONE, **endpoint(3, "r1")), {TWO: status(TWO)})
    assert behind["endpoints"]["e"]["policy_fallbacks"] == 3, "the other one has not heard of it yet"


def test_a_router_that_does_not_answer_is_marked_and_the_rest_counts() -> None:
    total = add_up(status(ONE), {TWO: FabricUnreachable("no router answers at tcp://22:7700")})
    assert [router["answers"] for router in total["routers"]] == [True, False]
    assert total["backends"]["b"]["counters"]["completed"] == 9
    text = render_status(total)
    assert "router r2 does not answer, its counts are missing: no router answers at tcp://22:7700" in text
    assert "no answer" in text


def test_replicas_and_conflicts_of_all_are_listed_once() -> None:
    replica = {"id": "ab", "backend": "b", "index": 0, "state": "ready", "linked": False}
    conflict = {"key": "endpoint/e", "loser": "l1"}
    total = add_up(
        status(ONE, replicas=[replica], conflicts=[conflict]),
        {TWO: status(TWO, replicas=[{**replica, "linked": True}], conflicts=[conflict, {**conflict, "loser": "l2"}])},
    )
    assert total["replicas"] == [{**replica, "linked": True}]
    assert [one["loser"] for one in total["conflicts"]] == ["l1", "l2"]


def hint(done: int = HINT_AFTER, largest: int = 1, batchable: bool = True, **config: Any) -> list[str]:
    numbers = counters(completed=done, batch_size={"max": largest})
    return hints_of({"backends": {"b": {"batchable": batchable, "config": config, "counters": numbers}}})


def test_a_backend_that_could_batch_and_never_does_gets_a_hint() -> None:
    assert "its max_batch_size is not set" in hint()[0]
    assert "a batch_wait_timeout above 0" in hint(max_batch_size=8)[0]
    assert "further apart than its batch_wait_timeout" in hint(max_batch_size=8, batch_wait_timeout=0.01)[0]
    assert hint(largest=2) == hint(batchable=False) == hint(done=HINT_AFTER - 1) == []


def test_suspected_by_one_router_is_suspected() -> None:
    def router(number: int, suspect: str, linked: bool) -> dict[str, Any]:
        return {
            "nodes": [{"id": "n", "role": "worker", "suspect": suspect}],
            "replicas": [{"id": "r", "backend": "b", "linked": linked, "suspect": suspect}],
            "router": {"node": str(number)},
        }

    total = add_up(router(1, "", True), {"2": router(2, "its process 7 is stopped (SIGSTOP)", False)})
    assert [node["suspect"] for node in total["nodes"]] == ["its process 7 is stopped (SIGSTOP)"]
    assert [(each["linked"], each["suspect"]) for each in total["replicas"]] == [
        (True, "its process 7 is stopped (SIGSTOP)")
    ]

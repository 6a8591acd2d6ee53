"""Several records in one write: all of them, or none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from zserve.errors import ConflictError
from zserve.registry.changes import CHANGES, apply_changes, value_as_dict, values_after
from zserve.registry.operations import OPERATIONS, Outcome
from zserve.registry.registry import Registry

NOW = 1_700_000_000_000


class Fabric:
    """Calls on one registry; a call that raises must have written nothing."""

    def __init__(self) -> None:
        self.registry = Registry(b"a" * 16)

    def __call__(self, operation: str, **args: Any) -> Outcome:
        before = self.registry.records()
        try:
            outcome = {**OPERATIONS, **CHANGES}[operation](self.registry, orjson.loads(orjson.dumps(args)), NOW)
        except BaseException:
            assert self.registry.records() == before
            raise
        orjson.dumps(outcome.result)
        return outcome

    def apply(self, *changes: dict[str, Any], check: bool = False) -> Outcome:
        return self("apply_changes", changes=list(changes), check=check)

    def record(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self("list_records").result[key]
        return found


@pytest.fixture
def fabric() -> Fabric:
    fabric = Fabric()
    for name in ("old", "new"):
        fabric("create_backend", name=name, code=f"models:{name}", version="1")
    fabric("create_endpoint", name="e", route="/e", methods=["GET"], backend="old")
    return fabric


def backend(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"key": f"backend/{name}", "value": {"code": f"m:{name}", "version": "1", **fields}, "parent": parent}


def endpoint(name: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"key": f"endpoint/{name}", "value": fields, "parent": parent}


def gone(fabric: Fabric, key: str) -> dict[str, Any]:
    return {"key": key, "value": None, "parent": fabric.record(key)["stamp"]}


def test_what_is_listed_can_be_written_back(fabric: Fabric) -> None:
    fabric("update_backend_config", name="old", config={"num_replicas": 3, "user_config": {"a": [1]}})
    for key, record in fabric("list_records").result.items():
        fabric.apply({"key": key, "value": record["value"], "parent": record["stamp"]})
        assert fabric.record(key)["value"] == record["value"]
        assert fabric.record(key)["revision"] == record["revision"] + 1
    assert fabric.record("backend/old")["value"]["config"]["num_replicas"] == 3


def test_all_is_written_together(fabric: Fabric) -> None:
    stamp = fabric.record("endpoint/e")["stamp"]
    outcome = fabric.apply(
        backend("b"),
        endpoint("e", stamp, route="/e", methods=["GET"], traffic={"b": 1.0}),
        gone(fabric, "backend/old"),
    )
    assert [record.key for record in outcome.written] == ["backend/old", "backend/b", "endpoint/e"], "deletes first"
    assert fabric("list_endpoints").result["e"]["traffic"] == {"b": 1.0}
    assert outcome.result["endpoint/e"] == fabric.record("endpoint/e")["stamp"]
    assert sorted(fabric("list_backends").result) == ["b", "new"]


def test_a_check_writes_nothing(fabric: Fabric) -> None:
    before = fabric.registry.records()
    assert fabric.apply(backend("b"), check=True).written == []
    assert fabric.registry.records() == before
    with pytest.raises(ValueError, match="no such backend"):
        fabric.apply(endpoint("f", traffic={"nobody": 1.0}), check=True)


def test_a_route_may_pass_from_one_endpoint_to_another(fabric: Fabric) -> None:
    fabric.apply(gone(fabric, "endpoint/e"), endpoint("f", route="/e", methods=["GET"]))
    assert list(fabric("list_endpoints").result) == ["f"]


def test_a_deleted_name_can_be_used_again(fabric: Fabric) -> None:
    fabric.apply(gone(fabric, "endpoint/e"))
    fabric.apply(endpoint("e", route="/again"))
    assert fabric.record("endpoint/e")["value"]["route"] == "/again"


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        (("set_traffic", {"endpoint": "e", "traffic": {"new": 1.0}}), "endpoint/e was changed meanwhile"),
        (("delete_endpoint", {"name": "e"}), "endpoint/e was deleted meanwhile"),
    ],
)
def test_one_conflict_stops_all(fabric: Fabric, meanwhile: tuple[str, dict[str, Any]], message: str) -> None:
    stamp = fabric.record("endpoint/e")["stamp"]
    fabric(meanwhile[0], **meanwhile[1])
    with pytest.raises(ConflictError, match=message):
        fabric.apply(backend("b"), endpoint("e", stamp, route="/e"))
    assert "b" not in fabric("list_backends").result


def test_something_that_was_created_meanwhile_is_a_conflict(fabric: Fabric) -> None:
    with pytest.raises(ConflictError, match="backend/old was created meanwhile"):
        fabric.apply(backend("fresh"), backend("old"))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ("no list", TypeError, "changes must be a list"),
        ([7], TypeError, "changes must hold objects with key, value and parent"),
        ([{"key": "backend/b", "valeu": {}}], TypeError, "changes must hold objects"),
        ([{"key": "other/b", "value": {}}], ValueError, "key must begin with endpoint/ or backend/"),
        ([{"key": "backend/b", "value": 7}], TypeError, "value of backend/b must be an object"),
        ([{"key": "backend/b", "value": None}], KeyError, "backend/b does not exist"),
        ([{"key": "backend/old", "value": None, "parent": "zz"}], ValueError, "must be a stamp in hex"),
        ([{"key": "backend/old", "value": None, "parent": 7}], TypeError, "must be a stamp in hex or null"),
        ([backend("b", version="1 2")], ValueError, "version must be"),
        ([backend("b", schema=2)], ValueError, "schema 2 is not the one known here"),
        ([backend("b"), backend("b")], ValueError, "backend/b is changed twice"),
        ([endpoint("f", route="/e")], ValueError, r"route '/e' \(GET\) would be that of endpoints 'e' and 'f'"),
        ([endpoint("f", route="/{x}"), endpoint("g", route="/{y}")], ValueError, "endpoints 'f' and 'g'"),
        ([endpoint("f", shadows={"x": 0.5})], ValueError, "shadows names 'x', and there is no such backend"),
        ([endpoint("f", traffic={"old": 0.5})], ValueError, "the weights must sum to 1"),
        ([backend("b", config={"num_replicas": "two"})], ValueError, "num_replicas must be a whole number"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    fabric: Fabric, changes: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fabric("apply_changes", changes=changes if isinstance(changes, str) else [backend("fine"), *changes])


def test_a_backend_in_use_stays(fabric: Fabric) -> None:
    with pytest.raises(ValueError, match=r"backend 'old' is in use by endpoint 'e' \(traffic\)"):
        fabric.apply(gone(fabric, "backend/old"))


def test_unknown_arguments_are_refused(fabric: Fabric) -> None:
    with pytest.raises(TypeError, match="unknown argument 'force'"):
        fabric("apply_changes", changes=[], force=True)


def test_what_would_be_there_afterwards(fabric: Fabric) -> None:
    endpoints, backends = values_after(
        fabric.registry, {"changes": [gone(fabric, "endpoint/e"), backend("b", config={"num_replicas": 5})]}
    )
    assert endpoints == {}
    assert value_as_dict(backends["b"])["config"]["num_replicas"] == 5
    assert sorted(backends) == ["b", "new", "old"]
    assert "b" not in fabric.registry.backends()


def test_the_operation_is_pure(fabric: Fabric) -> None:
    args = {"changes": [backend("b")]}
    copy = orjson.loads(orjson.dumps(args))
    apply_changes(fabric.registry, args, NOW)
    assert args == copy

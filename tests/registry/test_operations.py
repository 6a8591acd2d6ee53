from __future__ import annotations

from typing import Any

import orjson
import pytest

from zserve.errors import ConflictError
from zserve.registry.operations import OPERATIONS, Outcome
from zserve.registry.registry import Registry

NOW = 1_700_000_000_000


class Fabric:
    """Calls operations on one registry, and checks that each is all or nothing."""

    def __init__(self) -> None:
        self.registry = Registry(b"a" * 16)

    def __call__(self, operation: str, **args: Any) -> Outcome:
        before = self.registry.records()
        try:
            outcome = OPERATIONS[operation](self.registry, orjson.loads(orjson.dumps(args)), NOW)
        except BaseException:
            assert self.registry.records() == before
            raise
        orjson.dumps(outcome.result)
        assert [record for record in self.registry.records() if record not in before] == outcome.written
        return outcome

    def backends(self, *names: str) -> None:
        for name in names:
            self("create_backend", name=name, code=f"models:{name}", version="1")


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_create_and_list_endpoints(fabric: Fabric) -> None:
    fabric.backends("b")
    fabric("create_endpoint", name="e", route="/e", methods=["post"], backend="b")
    fabric("create_endpoint", name="by handle")
    assert fabric("list_endpoints").result == {
        "by handle": {"route": None, "methods": ["GET"], "traffic": {}, "shadows": {}},
        "e": {"route": "/e", "methods": ["POST"], "traffic": {"b": 1.0}, "shadows": {}},
    }


def test_an_identical_endpoint_is_a_no_op_and_another_an_error(fabric: Fabric) -> None:
    fabric.backends("b", "c")
    fabric("create_endpoint", name="e", route="/e", methods=["GET", "POST"])
    fabric("set_traffic", endpoint="e", traffic={"b": 1.0})
    assert fabric("create_endpoint", name="e", route="/e", methods=["POST", "GET"]).written == []
    assert fabric("create_endpoint", name="e", route="/e", methods=["POST", "GET"], backend="b").written == []
    for change in ({"route": "/f"}, {"methods": ["GET"]}, {"backend": "c"}):
        with pytest.raises(ValueError, match="endpoint 'e' exists with other content: route '/e'"):
            fabric("create_endpoint", **{"name": "e", "route": "/e", "methods": ["GET", "POST"], **change})


def test_two_endpoints_cannot_share_route_and_method(fabric: Fabric) -> None:
    fabric("create_endpoint", name="e", route="/a/{x}")
    fabric("create_endpoint", name="post", route="/a/{x}", methods=["POST"])
    with pytest.raises(ValueError, match=r"route: '/a/\{y\}' is the route of endpoint 'e' for GET already"):
        fabric("create_endpoint", name="f", route="/a/{y}", methods=["GET", "PUT"])
    fabric("delete_endpoint", name="e")
    assert fabric("create_endpoint", name="f", route="/a/{y}").written


def test_an_endpoint_needs_a_backend_that_exists(fabric: Fabric) -> None:
    with pytest.raises(ValueError, match=r"there is no backend 'b' \(none exists\)"):
        fabric("create_endpoint", name="e", backend="b")


def test_deleting_endpoints(fabric: Fabric) -> None:
    fabric.backends("b")
    fabric("create_endpoint", name="e", backend="b")
    assert fabric("delete_endpoint", name="e").written[0].value is None
    assert fabric("delete_endpoint", name="e").written == []
    assert fabric("list_endpoints").result == {}
    assert list(fabric("list_backends").result) == ["b"]
    assert fabric("create_endpoint", name="e").written[0].epoch == 2


# --- backends ---------------------------------------------------------------------------------------------------------


def test_create_list_and_configure_backends(fabric: Fabric) -> None:
    fabric(
        "create_backend", name="b", code="m:C", version="1", is_class=True, init_args=[1], config={"num_replicas": 2}
    )
    shown = fabric("list_backends").result["b"]
    assert (shown["code"], shown["version"], shown["is_class"], shown["batchable"]) == ("m:C", "1", True, False)
    assert shown["config"] == fabric("get_backend_config", name="b").result
    assert (shown["config"]["num_replicas"], shown["config"]["max_queued_requests"]) == (2, 10_000)
    config = fabric("update_backend_config", name="b", config={"slo_ms": 50}).result
    assert (config["num_replicas"], config["slo_ms"]) == (2, 50)
    assert fabric("update_backend_config", name="b", config={"slo_ms": 50}).written == []


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"replicas": 2}, ValueError, "unknown backend config 'replicas'"),
        ({"num_replicas": -1}, ValueError, "num_replicas must be between 0 and 10000, not -1"),
        ({"num_replicas": "2"}, TypeError, "num_replicas must be a whole number, not '2'"),
        ({"max_batch_size": 5}, ValueError, "max_batch_size is 5, but 'models:b' does not take batches"),
        (None, TypeError, "config must be a dict, not None"),
        ([], TypeError, "config must be a dict"),
    ],
)
def test_bad_config_is_named(fabric: Fabric, config: Any, error: type[Exception], text: str) -> None:
    fabric.backends("b")
    with pytest.raises(error, match=text):
        fabric("update_backend_config", name="b", config=config)


def test_an_existing_backend_is_not_created_again(fabric: Fabric) -> None:
    fabric.backends("b")
    with pytest.raises(ValueError, match="backend 'b' exists already"):
        fabric.backends("b")


def test_updating_a_backend_keeps_its_config(fabric: Fabric) -> None:
    fabric.backends("b")
    fabric("update_backend_config", name="b", config={"num_replicas": 3})
    fabric("update_backend", name="b", code="models:other", version="2", config={"slo_ms": 10})
    shown = fabric("list_backends").result["b"]
    assert (shown["code"], shown["config"]["num_replicas"], shown["config"]["slo_ms"]) == ("models:other", 3, 10)


@pytest.mark.parametrize("operation", ["update_backend", "update_backend_config", "get_backend_config"])
def test_asking_for_an_unknown_backend_is_a_key_error(fabric: Fabric, operation: str) -> None:
    fabric.backends("b")
    rest = {"update_backend": {"code": "m:f", "version": "1"}, "update_backend_config": {"config": {}}}
    with pytest.raises(KeyError, match=r"there is no backend 'c' \(there is 'b'\)"):
        fabric(operation, name="c", **rest.get(operation, {}))


def test_functions_take_no_init_args(fabric: Fabric) -> None:
    with pytest.raises(ValueError, match="init_args are for classes; 'm:f' is a function"):
        fabric("create_backend", name="b", code="m:f", version="1", init_args=[1])


def test_a_backend_in_use_is_not_deleted(fabric: Fabric) -> None:
    fabric.backends("b", "c", "d")
    fabric("create_endpoint", name="e", backend="b")
    fabric("create_endpoint", name="f", backend="b")
    fabric("shadow_traffic", endpoint="f", backend="c", proportion=0.5)
    with pytest.raises(ValueError, match="backend 'b' is in use by endpoints 'e', 'f'"):
        fabric("delete_backend", name="b")
    with pytest.raises(ValueError, match="backend 'c' is in use by endpoint 'f'"):
        fabric("delete_backend", name="c")
    assert fabric("delete_backend", name="d").written
    assert fabric("delete_backend", name="d").written == []
    assert fabric("delete_backend", name="never").written == []


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_set_traffic_replaces_the_table_and_keeps_shadows(fabric: Fabric) -> None:
    fabric.backends("b", "c")
    fabric("create_endpoint", name="e", route="/e", backend="b")
    fabric("shadow_traffic", endpoint="e", backend="c", proportion=0.25)
    outcome = fabric("set_traffic", endpoint="e", traffic={"b": 0.9, "c": 0.1})
    assert (outcome.result, outcome.warnings) == (None, [])
    assert fabric("set_traffic", endpoint="e", traffic={"b": 0.9, "c": 0.1}).written == []
    assert fabric("list_endpoints").result["e"] == {
        "route": "/e",
        "methods": ["GET"],
        "traffic": {"b": 0.9, "c": 0.1},
        "shadows": {"c": 0.25},
    }
    fabric("shadow_traffic", endpoint="e", backend="c", proportion=0)
    assert fabric("list_endpoints").result["e"]["shadows"] == {}


def test_the_swapped_form_is_done_with_a_warning(fabric: Fabric) -> None:
    fabric.backends("simple_backend")
    fabric("create_endpoint", name="simple_endpoint", route="/simple")
    outcome = fabric("set_traffic", endpoint="simple_backend", traffic={"simple_endpoint": 1.0})
    assert 'set_traffic("simple_endpoint", {"simple_backend": 1.0})' in outcome.warnings[0]
    assert fabric("list_endpoints").result["simple_endpoint"]["traffic"] == {"simple_backend": 1.0}


def test_the_swapped_form_is_not_guessed_where_names_are_ambiguous(fabric: Fabric) -> None:
    fabric.backends("b", "same")
    fabric("create_endpoint", name="e")
    fabric("create_endpoint", name="same")
    with pytest.raises(ValueError, match="there is no endpoint 'b'"):
        fabric("set_traffic", endpoint="b", traffic={"same": 1.0})
    with pytest.raises(ValueError, match="there is no endpoint 'b'"):
        fabric("set_traffic", endpoint="b", traffic={"e": 0.5, "same": 0.5})
    assert fabric("set_traffic", endpoint="same", traffic={"same": 1.0}).warnings == []


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ({"endpoint": "e", "traffic": {"b": 0.5}}, ValueError, "these sum to 0.5"),
        ({"endpoint": "e", "traffic": {"b": 0.5, "x": 0.5}}, ValueError, r"there is no backend 'x' \(there is 'b'\)"),
        ({"endpoint": "x", "traffic": {"b": 1.0}}, ValueError, r"there is no endpoint 'x' \(there is 'e'\)"),
        ({"endpoint": "e", "traffic": {"b": -1, "c": 2}}, ValueError, r"traffic\['b'\] must be 0 or more, not -1"),
        ({"endpoint": "e", "traffic": None}, TypeError, "traffic must be a dict"),
        ({"endpoint": "e"}, TypeError, "argument 'traffic' is missing"),
        ({"endpoint": 5, "traffic": {"b": 1.0}}, TypeError, "endpoint must be a string, not 5"),
        ({"endpoint": "e", "traffic": {"b": 1.0}, "weight": 1}, TypeError, "unknown argument 'weight'"),
        ({"endpoint": "e", "traffic": {"b": 1.0}, "policy": "best"}, ValueError, "policy must be one of random"),
    ],
)
def test_bad_traffic_is_named(fabric: Fabric, args: dict[str, Any], error: type[Exception], text: str) -> None:
    fabric.backends("b")
    fabric("create_endpoint", name="e")
    with pytest.raises(error, match=text):
        fabric("set_traffic", **args)


def test_shadow_proportions_are_checked(fabric: Fabric) -> None:
    fabric.backends("b")
    fabric("create_endpoint", name="e")
    with pytest.raises(ValueError, match=r"proportion must be between 0 and 1, not 1\.5"):
        fabric("shadow_traffic", endpoint="e", backend="b", proportion=1.5)
    with pytest.raises(ValueError, match="there is no backend 'x'"):
        fabric("shadow_traffic", endpoint="e", backend="x", proportion=0.5)


def test_a_policy_stays_until_another_is_given(fabric: Fabric) -> None:
    fabric.backends("b")
    fabric("create_endpoint", name="e", policy="fixed_packing", policy_kwargs={"packing_num": 3})
    fabric("set_traffic", endpoint="e", traffic={"b": 1.0})
    value = fabric.registry.endpoint("e")
    assert value is not None
    assert (value.policy, value.policy_kwargs) == ("fixed_packing", {"packing_num": 3})
    fabric("set_traffic", endpoint="e", traffic={"b": 1.0}, policy_kwargs={"packing_num": 4})
    value = fabric.registry.endpoint("e")
    assert value is not None
    assert (value.policy, value.policy_kwargs) == ("fixed_packing", {"packing_num": 4})
    fabric("set_traffic", endpoint="e", traffic={"b": 1.0}, policy="random")
    value = fabric.registry.endpoint("e")
    assert value is not None
    assert (value.policy, value.policy_kwargs) == ("random", {}), "the settings of one policy are not those of another"


def test_what_this_node_has_against_a_value_is_heard_before_it_is_written(fabric: Fabric) -> None:
    heard: list[tuple[str, str]] = []

    def vet(key: str, value: Any) -> None:
        heard.append((key, value.policy))
        if value.policy == "m:Bad":
            raise ValueError("not here")

    fabric.backends("b")
    fabric("create_endpoint", name="e")
    fabric.registry.vet = vet
    for operation, args in (
        ("create_endpoint", {"name": "f", "policy": "m:Bad"}),
        ("set_traffic", {"endpoint": "e", "traffic": {"b": 1.0}, "policy": "m:Bad"}),
    ):
        with pytest.raises(ValueError, match="not here"):
            fabric(operation, **args)
    assert heard == [("endpoint/f", "m:Bad"), ("endpoint/e", "m:Bad")]
    assert list(fabric.registry.endpoints()) == ["e"]
    fabric("delete_endpoint", name="e")
    assert fabric.registry.endpoints() == {}, "a delete needs no policy"


# --- compare-and-set --------------------------------------------------------------------------------------------------


def test_a_caller_that_names_what_it_saw_is_told_when_it_is_late(fabric: Fabric) -> None:
    fabric.backends("b")
    (seen,) = fabric("create_endpoint", name="e").written
    fabric("set_traffic", endpoint="e", traffic={"b": 1.0})
    for operation, args in (
        ("set_traffic", {"endpoint": "e", "traffic": {"b": 1.0}}),
        ("delete_endpoint", {"name": "e"}),
        ("shadow_traffic", {"endpoint": "e", "backend": "b", "proportion": 1}),
    ):
        with pytest.raises(ConflictError, match="endpoint/e was changed meanwhile: revision 2"):
            fabric(operation, parent=seen.stamp.hex(), **args)
    with pytest.raises(ValueError, match="parent must be a stamp in hex, not 'xyz'"):
        fabric("delete_endpoint", name="e", parent="xyz")

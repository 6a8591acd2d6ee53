from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.registry.record import MAX_VALUE_BYTES, Record
from zserve.registry.registry import Registry
from zserve.registry.values import (
    BackendValue,
    EndpointValue,
    check_methods,
    check_name,
    check_policy,
    check_proportion,
    check_route,
    check_weights,
    encode_value,
    parse_value,
    route_shape,
)


@pytest.mark.parametrize("name", ["simple", "SVM:v1", "image classifier", "a/b", "ä" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a\n", "\0", "ä" * 129])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


def test_a_name_of_the_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="endpoint must be a string, not 3"):
        check_name(3, "endpoint")


@pytest.mark.parametrize("route", ["/", "/simple", "/a/{name}/c", "/n/{n:int}", "/f/{x:float}", "/{rest:path}", "/-x"])
def test_good_routes(route: str) -> None:
    assert check_route(route) == route


@pytest.mark.parametrize(
    "route",
    [
        "",
        "simple",
        "/-",
        "/-/routes",
        "/a b",
        "/a?b",
        "/a#b",
        "/a//b",
        "/{",
        "/}",
        "/{}",
        "/{1x}",
        "/{class}",
        "/{a:what}",
        "/{a:}",
        "/{a}/{a}",
        "/{{a}}",
        "/\n",
        "/" + "x" * 3000,
    ],
)
def test_bad_routes_are_named(route: str) -> None:
    with pytest.raises(ValueError, match="route"):
        check_route(route)


def test_no_route_is_fine_and_another_type_is_not() -> None:
    assert check_route(None) is None
    with pytest.raises(TypeError, match="route must be a string or None, not 5"):
        check_route(5)


def test_routes_of_one_shape() -> None:
    assert route_shape("/a/{x}/{n:int}") == route_shape("/a/{y:string}/{m:int}")
    assert route_shape("/a/{x}") != route_shape("/a/{x:int}")


def test_methods_are_upper_cased_without_repeats() -> None:
    assert check_methods(["get", "POST", "GET"]) == ["GET", "POST"]
    assert check_methods({"post", "get"}) == ["GET", "POST"]


def test_bad_methods_are_named() -> None:
    for wrong_type in ("GET", [1], None):
        with pytest.raises(TypeError, match="methods"):
            check_methods(wrong_type)
    for wrong_value in ([], ["X"]):
        with pytest.raises(ValueError, match="methods"):
            check_methods(wrong_value)


def test_weights_that_do_not_sum_to_one_say_what_they_sum_to() -> None:
    assert check_weights({"a": 0.1, "b": 0.2, "c": 0.7}) == {"a": 0.1, "b": 0.2, "c": 0.7}
    assert check_weights({"a": 1}) == {"a": 1.0}
    with pytest.raises(ValueError, match=r"these sum to 0\.9: "):
        check_weights({"a": 0.5, "b": 0.4})
    with pytest.raises(ValueError, match="these sum to 0"):
        check_weights({})


@pytest.mark.parametrize("weight", [math.nan, math.inf, -0.5, 10**400])
def test_bad_weights_are_named(weight: float) -> None:
    with pytest.raises(ValueError, match=r"traffic\['a'\]"):
        check_weights({"a": weight, "b": 0.5})


@pytest.mark.parametrize("traffic", [None, ["a"], {"a": True}, {"a": "1"}, {1: 1.0}])
def test_weights_of_the_wrong_type(traffic: Any) -> None:
    with pytest.raises(TypeError, match="traffic"):
        check_weights(traffic)


def test_proportions() -> None:
    assert check_proportion(0) == 0.0
    assert check_proportion(1) == 1.0
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="proportion"):
            check_proportion(bad)
    with pytest.raises(TypeError):
        check_proportion(None)


def test_values_survive_their_json() -> None:
    endpoint = EndpointValue(route="/x/{n:int}", methods=["POST"], traffic={"a": 0.5, "b": 0.5}, shadows={"c": 0.1})
    assert parse_value("endpoint/e", encode_value(endpoint)) == endpoint
    backend = BackendValue(
        code="package.module:Class",
        version="1f2e",
        init_args=[1, "x", None, {"y": [2.5]}],
        init_kwargs={"k": True},
        config=BackendConfig(num_replicas=3, max_batch_size=8, resources={"gpu": 1.0}, user_config={"t": [1]}),
        batchable=True,
        is_class=True,
    )
    assert parse_value("backend/b", encode_value(backend)) == backend
    assert encode_value(backend) == encode_value(parse_value("backend/b", encode_value(backend)))


def test_fields_of_a_later_version_are_ignored_and_a_later_schema_is_refused() -> None:
    assert parse_value("endpoint/e", b'{"route": "/x", "later": 1}') == EndpointValue(route="/x")
    text = b'{"code": "m:f", "version": "1", "config": {"num_replicas": 2, "later": 1}}'
    assert parse_value("backend/b", text) == BackendValue(code="m:f", version="1", config=BackendConfig(num_replicas=2))
    with pytest.raises(ValueError, match="endpoint/e: schema 2 is not the one known here"):
        parse_value("endpoint/e", b'{"schema": 2}')


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("endpoint/e", b"", "endpoint/e"),
        ("endpoint/e", b"\xff", "endpoint/e"),
        ("endpoint/e", b"[1]", "not a JSON object"),
        ("endpoint/e", b"[" * 100_000, "endpoint/e"),
        ("endpoint/e", b'{"route": 1}', "route"),
        ("endpoint/e", b'{"methods": ["get"]}', "upper-case"),
        ("endpoint/e", b'{"policy": "best"}', "policy must be one of"),
        ("endpoint/e", b'{"policy": "fixed_packing", "policy_kwargs": {"packing_num": 0}}', "packing_num"),
        ("endpoint/e", b'{"shadows": {"b": 2}}', r"shadows\['b'\]"),
        ("endpoint/ e", b"{}", "name"),
        ("thing/e", b"{}", "unknown kind"),
        ("endpoint", b"{}", "unknown kind"),
        ("backend/b", b"{}", "code"),
        ("backend/b", b'{"code": "os.system", "version": "1"}', "package.module:attribute"),
        ("backend/b", b'{"code": "file:../../x.pkl", "version": "1"}', "package.module:attribute"),
        ("backend/b", b'{"code": "m:f", "version": ""}', "version"),
        ("backend/b", b'{"code": "m:f", "version": "1", "init_args": [1]}', "is a function"),
        ("backend/b", b'{"code": "m:f", "version": "1", "config": []}', "config is not"),
        ("backend/b", b'{"code": "m:f", "version": "1", "config": {"num_replicas": -1}}', "num_replicas"),
        ("backend/b", b'{"code": "m:f", "version": "1", "config": {"max_batch_size": 4}}', "accept_batch"),
    ],
)
def test_bad_values_are_refused_with_the_reason(key: str, text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_value(key, text)


def test_code_of_the_embedded_fabric_is_a_hash() -> None:
    encode_value(BackendValue(code=f"file:{'0f' * 32}.pkl", version="1"))
    with pytest.raises(ValueError, match="code must look like"):
        encode_value(BackendValue(code="file:0f.pkl", version="1"))


def test_what_is_not_json_is_a_type_error_and_what_is_too_large_a_value_error() -> None:
    with pytest.raises(TypeError, match="not JSON-able"):
        encode_value(BackendValue(code="m:C", version="1", is_class=True, init_args=[object()]))
    with pytest.raises(ValueError, match="more than the"):
        encode_value(BackendValue(code="m:C", version="1", is_class=True, init_args=["x" * MAX_VALUE_BYTES]))


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_no_text_does_worse_than_to_be_refused(text: bytes) -> None:
    for key in ("endpoint/e", "backend/b", "x"):
        verdict = Registry(b"a" * 16).merge(Record(key, 1, 1, b"b" * 16, 1, b"", text), 1)
        assert verdict.kind in ("applied", "refused")


@pytest.mark.parametrize(
    ("policy", "kwargs", "says"),
    [
        ("best", {}, "one of random, round_robin, power_of_two, fixed_packing, or 'package.module:Class', not"),
        ("a.b", {}, "not 'a.b'"),
        ("a:", {}, "not 'a:'"),
        ("a b:C", {}, "not 'a b:C'"),
        ("random", {"packing_num": 3}, "'packing_num' is unknown; policy 'random' takes none"),
        ("fixed_packing", {"packing": 3}, "'packing' is unknown; policy 'fixed_packing' takes packing_num"),
        ("fixed_packing", {"packing_num": True}, "whole number from 1, not True"),
        (7, {}, "policy must be a string, not 7"),
        ("random", [1], r"policy_kwargs must be a dict of names to values, not \[1\]"),
        ("a:B", {1: 2}, "policy_kwargs must be a dict of names"),
    ],
)
def test_bad_policies_are_named(policy: Any, kwargs: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        check_policy(policy, kwargs)


def test_a_policy_of_the_user_s_is_taken_without_looking_for_it() -> None:
    for policy in ("nowhere.at_all:Policy", "m:Outer.Inner"):
        text = encode_value(EndpointValue(policy=policy, policy_kwargs={"anything": [1, None]}))
        value = parse_value("endpoint/e", text)
        assert isinstance(value, EndpointValue)
        assert (value.policy, value.policy_kwargs) == (policy, {"anything": [1, None]})

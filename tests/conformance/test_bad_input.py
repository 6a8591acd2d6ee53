"""Bad input for every control call: the documented error, naming argument and value, and nothing half applied."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import zserve as serve
from zserve.control import api

from . import handlers

pytestmark = pytest.mark.integration


class Unknown:
    """Nothing knows how to send it."""


@pytest.fixture(scope="module", autouse=True)
def something(url: str) -> None:
    serve.create_backend("one", handlers.one)
    serve.create_endpoint("e", "/e", backend="one")
    serve.create_endpoint("f", "/f/{name}", backend="one")


BAD: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (serve.init, (), {"http_host": 7}, TypeError, "http_host.*7"),
    (serve.init, (), {"http_port": "80"}, TypeError, "http_port.*'80'"),
    (serve.init, (), {"http_port": 70_000}, ValueError, "http_port.*70000"),
    (serve.init, (), {"queueing_policy": "fastest"}, ValueError, "queueing_policy.*'fastest'"),
    (serve.init, (), {"policy_kwargs": 3}, TypeError, "policy_kwargs.*3"),
    (serve.init, (), {"blocking": "yes"}, TypeError, "blocking.*'yes'"),
    (serve.init, (), {"name": 5}, TypeError, "name.*5"),
    (serve.init, ("no address",), {"name": "x"}, ValueError, "no address"),
    (serve.init, (7,), {}, TypeError, "address.*7"),
    (serve.init, (), {"name": "x", "http_host": "nobody has it"}, serve.ServeError, "'nobody has it'"),
    (serve.init, (), {"policy_kwargs": {"packing_num": 2}}, ValueError, "'packing_num'"),
    (serve.create_endpoint, (7,), {}, TypeError, "name.*7"),
    (serve.create_endpoint, ("",), {}, ValueError, "name.*''"),
    (serve.create_endpoint, ("x", 7), {}, TypeError, "route.*7"),
    (serve.create_endpoint, ("x", "no-slash"), {}, ValueError, "route.*'no-slash'"),
    (serve.create_endpoint, ("x", "/-/mine"), {}, ValueError, "/-/mine"),
    (serve.create_endpoint, ("x", "/a/{b"), {}, ValueError, "/a/{b"),
    (serve.create_endpoint, ("x", "/e"), {}, ValueError, "'/e'"),
    (serve.create_endpoint, ("x", "/f/{other}"), {}, ValueError, "/f/"),
    (serve.create_endpoint, ("e", "/g"), {}, ValueError, "'e'"),
    (serve.create_endpoint, ("x", "/x", "GET"), {}, TypeError, "methods.*'GET'"),
    (serve.create_endpoint, ("x", "/x", []), {}, ValueError, "methods"),
    (serve.create_endpoint, ("x", "/x", ["G T"]), {}, ValueError, "'G T'"),
    (serve.create_endpoint, ("x", "/x", [7]), {}, TypeError, "7"),
    (serve.create_endpoint, ("x", "/x"), {"backend": 7}, TypeError, "backend.*7"),
    (serve.create_endpoint, ("x", "/x"), {"backend": "nobody"}, ValueError, "'nobody'"),
    (serve.delete_endpoint, (7,), {}, TypeError, "name.*7"),
    (serve.create_backend, (7, handlers.one), {}, TypeError, "name.*7"),
    (serve.create_backend, ("x", "text"), {}, TypeError, "'text'"),
    (serve.create_backend, ("x", handlers.one, 1), {}, ValueError, "function"),
    (serve.create_backend, ("one", handlers.one), {}, ValueError, "'one'"),
    (serve.create_backend, ("x", handlers.one), {"config": 7}, TypeError, "config.*7"),
    (serve.create_backend, ("x", handlers.one), {"config": {"replicas": 2}}, ValueError, "'replicas'"),
    (serve.create_backend, ("x", handlers.one), {"config": {"num_replicas": "2"}}, TypeError, "num_replicas.*'2'"),
    (serve.create_backend, ("x", handlers.one), {"config": {"num_replicas": -1}}, ValueError, "num_replicas.*-1"),
    (serve.create_backend, ("x", handlers.one), {"config": {"max_batch_size": 8}}, ValueError, "accept_batch"),
    (serve.create_backend, ("x", handlers.Greeter), {"greeting": "fail"}, serve.ApplicationError, "no such model file"),
    (serve.create_backend, ("x", handlers.Greeter), {}, serve.ApplicationError, "greeting"),
    (serve.create_backend, ("x", handlers.one), {"config": {"user_config": 1}}, serve.ApplicationError, "user_config"),
    (serve.update_backend, ("nobody", handlers.one), {}, KeyError, "nobody"),
    (serve.update_backend, (7, handlers.one), {}, TypeError, "name.*7"),
    (serve.update_backend, ("one", "text"), {}, TypeError, "'text'"),
    (serve.update_backend, ("one", handlers.one, 1), {}, ValueError, "function"),
    (serve.update_backend, ("one", handlers.one), {"config": 7}, TypeError, "config.*7"),
    (serve.update_backend, ("one", handlers.one), {"config": {"replicas": 2}}, ValueError, "'replicas'"),
    (serve.update_backend, ("one", handlers.Greeter), {"greeting": "fail"}, serve.ApplicationError, "no such model"),
    (serve.delete_backend, (7,), {}, TypeError, "name.*7"),
    (serve.delete_backend, ("one",), {}, ValueError, "'e'"),
    (serve.get_backend_config, (7,), {}, TypeError, "name.*7"),
    (serve.get_backend_config, ("nobody",), {}, KeyError, "nobody"),
    (serve.update_backend_config, (7, {}), {}, TypeError, "name.*7"),
    (serve.update_backend_config, ("nobody", {}), {}, KeyError, "nobody"),
    (serve.update_backend_config, ("one", None), {}, TypeError, "config.*None"),
    (serve.update_backend_config, ("one", {"slo_ms": 0}), {}, ValueError, "slo_ms.*0"),
    (serve.update_backend_config, ("one", {"slo_ms": 5.0, "retryable": 1}), {}, TypeError, "retryable.*1"),
    (serve.update_backend_config, ("one", {"user_config": {1, 2}}), {}, TypeError, "user_config"),
    (serve.set_traffic, (7, {}), {}, TypeError, "endpoint.*7"),
    (serve.set_traffic, ("nobody", {"one": 1.0}), {}, ValueError, "'nobody'"),
    (serve.set_traffic, ("e", {"nobody": 1.0}), {}, ValueError, "'nobody'"),
    (serve.set_traffic, ("e", {"one": 0.9}), {}, ValueError, "sum to 0.9"),
    (serve.set_traffic, ("e", {"one": -1.0}), {}, ValueError, "-1"),
    (serve.set_traffic, ("e", {"one": float("nan")}), {}, ValueError, "nan"),
    (serve.set_traffic, ("e", {"one": "1"}), {}, TypeError, "'1'"),
    (serve.set_traffic, ("e", [("one", 1.0)]), {}, TypeError, "dict"),
    (serve.set_traffic, ("e", {7: 1.0}), {}, TypeError, "7"),
    (serve.set_traffic, ("e", {"one": 1.0}, 7), {}, TypeError, "policy.*7"),
    (serve.set_traffic, ("e", {"one": 1.0}, "fastest"), {}, ValueError, "policy.*'fastest'"),
    (serve.set_traffic, ("e", {"one": 1.0}, "random", 7), {}, TypeError, "policy_kwargs.*7"),
    (serve.set_traffic, ("e", {"one": 1.0}, "fixed_packing", {"packing_num": 0}), {}, ValueError, "packing_num.*0"),
    (serve.split, (7, {"one": 1.0}), {}, TypeError, "endpoint.*7"),
    (serve.split, ("e", {"one": 2.0}), {}, ValueError, "sum to 2"),
    (serve.split, ("e", {"one": 1.0}, "fastest"), {}, ValueError, "policy.*'fastest'"),
    (serve.split, ("e", {"one": 1.0}, "random", {"packing_num": 2}), {}, ValueError, "'packing_num'"),
    (serve.link, (7, "one"), {}, TypeError, "endpoint.*7"),
    (serve.link, ("nobody", "one"), {}, ValueError, "'nobody'"),
    (serve.link, ("e", "nobody"), {}, ValueError, "'nobody'"),
    (serve.link, ("e", 7), {}, TypeError, "backend.*7"),
    (serve.shadow_traffic, ("e", "one", 1.5), {}, ValueError, "proportion.*1.5"),
    (serve.shadow_traffic, ("e", "one", "all"), {}, TypeError, "proportion.*'all'"),
    (serve.shadow_traffic, ("e", 7, 0.5), {}, TypeError, "backend.*7"),
    (serve.shadow_traffic, (7, "one", 0.5), {}, TypeError, "endpoint.*7"),
    (serve.shadow_traffic, ("e", "nobody", 0.5), {}, ValueError, "'nobody'"),
    (serve.shadow_traffic, ("nobody", "one", 0.5), {}, ValueError, "'nobody'"),
    (serve.get_handle, (7,), {}, TypeError, "endpoint.*7"),
    (serve.get_handle, ("nobody",), {}, KeyError, "nobody"),
    (serve.get_handle, ("e", "soon"), {}, TypeError, "relative_slo_ms.*'soon'"),
    (serve.get_handle, ("e", 5, 5), {}, ValueError, "absolute_slo_ms"),
    (serve.get_handle, ("e",), {"missing_ok": 1}, TypeError, "missing_ok.*1"),
    (serve.route, (7,), {}, TypeError, "7"),
    (serve.route, ("x",), {}, ValueError, "'x'"),
    (serve.route, ("/x", "GET"), {}, TypeError, "methods.*'GET'"),
    (serve.route, ("/x",), {"name": 7}, TypeError, "name.*7"),
    (serve.route, ("/x",), {"config": 7}, TypeError, "config.*7"),
    (serve.accept_batch, (7,), {}, TypeError, "7"),
    (serve.register_type, (7, str, str), {}, TypeError, "cls.*7"),
    (serve.register_type, (Unknown, 7, str), {}, TypeError, "encode.*7"),
    (serve.register_type, (Unknown, str, 7), {}, TypeError, "decode.*7"),
    (serve.register_type, (int, str, int), {}, ValueError, "int"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "args", "kwargs", "error", "said"),
    BAD,
    ids=[f"{one[0].__name__}-{number}" for number, one in enumerate(BAD)],
)
def test_bad_input(
    http: httpx.Client,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    before = serve.list_endpoints(), serve.list_backends()
    with pytest.raises(error, match=said):
        call(*args, **kwargs)
    assert (serve.list_endpoints(), serve.list_backends()) == before
    assert http.get("/e").text == "one"


def test_no_call_and_no_argument_was_forgotten() -> None:
    """An argument counts as tried where an error names it, or where it is the last one that was given."""
    tried: dict[Callable[..., Any], set[str]] = {}
    for call, args, kwargs, _, said in BAD:
        given = inspect.signature(call).bind(*args, **kwargs).arguments
        tried.setdefault(call, set()).update({name for name in given if name in said} | {list(given)[-1]})
    for call in {getattr(api, name) for name in api.__all__} | {serve.route, serve.accept_batch}:
        arguments = inspect.signature(call).parameters.keys()
        assert arguments <= tried.get(call, set()) | {"cls", "init_kwargs"}, call.__name__


# --- handles and what decorators return -------------------------------------------------------------------------------

HANDLE: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"method_name": 7}, TypeError),
    ({"method_name": ""}, ValueError),
    ({"shard_key": 7}, TypeError),
    ({"shard_key": ""}, ValueError),
    ({"relative_slo_ms": "soon"}, TypeError),
    ({"relative_slo_ms": True}, TypeError),
    ({"relative_slo_ms": -1}, ValueError),
    ({"absolute_slo_ms": "soon"}, TypeError),
    ({"absolute_slo_ms": float("nan")}, ValueError),
    ({"http_method": 7}, TypeError),
    ({"http_method": "G T"}, ValueError),
    ({"http_headers": 7}, TypeError),
    ({"http_headers": {"a": 7}}, TypeError),
    ({"http_headers": {"a": "b\r\nc: d"}}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), HANDLE)
def test_bad_options_of_a_handle(url: str, options: dict[str, Any], error: type[Exception]) -> None:
    handle = serve.get_handle("e")
    with pytest.raises(error) as caught:
        handle.options(**options)
    assert next(iter(options)) in str(caught.value)
    assert handle.remote().result(30) == "one"
    tried = {name for each, _ in HANDLE for name in each}
    assert tried == inspect.signature(handle.options).parameters.keys()


def test_bad_arguments_of_a_call(url: str) -> None:
    handle = serve.get_handle("e")
    with pytest.raises(TypeError, match=r"data: a value of type \S+Unknown cannot be sent"):
        handle.remote(Unknown())
    with pytest.raises(TypeError, match=r"x: a value of type \S+Unknown cannot be sent \(at \[0\]\)"):
        handle.remote(x=[Unknown()])
    answer = handle.remote()
    with pytest.raises(TypeError, match=r"timeout.*'soon'"):
        answer.result("soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"timeout.*nan"):
        answer.result(float("nan"))
    assert answer.result(30) == "one"


def test_bad_arguments_of_what_route_returns(http: httpx.Client) -> None:
    routed = serve.route("/batch")(handlers.batch)
    try:
        before = serve.list_endpoints(), serve.list_backends()
        for call, value, error in (
            (routed.set_max_batch_size, 0, ValueError), (routed.set_max_batch_size, "8", TypeError),
            (routed.scale, -1, ValueError), (routed.scale, 2.5, TypeError),
        ):  # fmt: skip
            with pytest.raises(error, match=repr(value)):
                call(value)  # type: ignore[operator]
        with pytest.raises(serve.ServeError, match="Cannot place backend 'batch'"):
            routed.scale(5000)
        assert (serve.list_endpoints(), serve.list_backends()) == before
        assert http.get("/batch").json()["size"] == 1
    finally:
        serve.delete_endpoint("batch")
        serve.delete_backend("batch")

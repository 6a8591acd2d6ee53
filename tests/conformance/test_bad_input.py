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

NO: Any = object()


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
    (serve.update_backend, ("one", "text"), {}, TypeError, "'text'"),
    (serve.delete_backend, (7,), {}, TypeError, "name.*7"),
    (serve.delete_backend, ("one",), {}, ValueError, "'e'"),
    (serve.get_backend_config, (7,), {}, TypeError, "name.*7"),
    (serve.get_backend_config, ("nobody",), {}, KeyError, "nobody"),
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
    (serve.split, ("e", {"one": 2.0}), {}, ValueError, "sum to 2"),
    (serve.link, ("e", "nobody"), {}, ValueError, "'nobody'"),
    (serve.link, ("e", 7), {}, TypeError, "backend.*7"),
    (serve.shadow_traffic, ("e", "one", 1.5), {}, ValueError, "proportion.*1.5"),
    (serve.shadow_traffic, ("e", "one", "all"), {}, TypeError, "proportion.*'all'"),
    (serve.shadow_traffic, ("e", "nobody", 0.5), {}, ValueError, "'nobody'"),
    (serve.shadow_traffic, ("nobody", "one", 0.5), {}, ValueError, "'nobody'"),
    (serve.get_handle, (7,), {}, TypeError, "endpoint.*7"),
    (serve.get_handle, ("nobody",), {}, KeyError, "nobody"),
    (serve.get_handle, ("e", "soon"), {}, TypeError, "relative_slo_ms.*'soon'"),
    (serve.get_handle, ("e", 5, 5), {}, ValueError, "absolute_slo_ms"),
    (serve.get_handle, ("e",), {"missing_ok": 1}, TypeError, "missing_ok.*1"),
    (serve.route, (7,), {}, TypeError, "7"),
    (serve.route, ("x",), {}, ValueError, "'x'"),
    (serve.accept_batch, (7,), {}, TypeError, "7"),
    (serve.register_type, (7, str, str), {}, TypeError, "7"),
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


def test_no_call_was_forgotten() -> None:
    """Calls without arguments, and without any that could be wrong, are left out."""
    calls = {name for name in api.__all__ if inspect.signature(getattr(api, name)).parameters}
    assert calls == {one[0].__name__ for one in BAD} - {"route", "accept_batch"}

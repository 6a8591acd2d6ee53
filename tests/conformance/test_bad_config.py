"""Bad settings and deadlines, wherever a user can write them: refused with the value, and what runs stays as it is."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from click.testing import CliRunner
from zserve.nodes import cli

import zserve as serve
from zserve.control import declarations
from zserve.errors import ServeError

from ..integration.fabric import APPS, Fabric

pytestmark = pytest.mark.integration

NAN, INF = math.nan, math.inf

WEIGHTS: list[tuple[dict[str, Any], str]] = [
    ({"one": 0.5, "two": 0.4}, "sum to 1, these sum to 0.9"),
    ({"one": 0.5, "two": 0.500002}, "1.000002"),
    ({"one": 1.5, "two": -0.5}, "-0.5"),
    ({"one": NAN, "two": 1.0}, "nan"),
    ({"one": INF}, "inf"),
    ({"one": 1e300}, "1e+300"),
    ({"one": 0.5, "nobody": 0.5}, "'nobody'"),
    ({"one": 0.0}, "sum to 0"),
]
CONFIGS: list[tuple[str, Any]] = [
    ("max_batch_size", 0),
    ("max_batch_size", -1),
    ("max_batch_size", 2.5),
    ("num_replicas", -1),
    ("num_replicas", NAN),
    ("slo_ms", -1),
    ("slo_ms", 0),
    ("slo_ms", 1e300),
    ("slo_ms", NAN),
    ("batch_wait_timeout", -1),
    ("batch_wait_timeout", INF),
    ("max_queued_requests", -1),
    ("max_concurrent_queries", 0),
]
DEADLINES: list[tuple[str, str]] = [("relative_slo_ms", value) for value in ("-1", "0", "1e300", "nan", "inf", "soon")]
DEADLINES += [("absolute_slo_ms", value) for value in ("-1", "0", "1e300", "nan")]


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """Two backends behind one endpoint, all of it for the first; this process has joined."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder, pytest.MonkeyPatch.context() as patch:
        fabric = Fabric(Path(folder))
        try:
            for role in ("router", "gateway", "worker"):
                fabric.start(role)
            for name, code in (("one", "app_shop:new"), ("two", "app_shop:batched")):
                fabric.call("create_backend", name=name, code=code, version="1", batchable=name == "two")
                fabric.call("wait_backend", name=name, timeout_s=60.0)
            fabric.call("create_endpoint", name="shop", route="/shop", backend="one")
            patch.setattr(declarations, "_declared", {})
            serve.init(address=fabric.routers[0].address)
            yield fabric
        finally:
            serve.shutdown()
            fabric.close()


@pytest.fixture
def unchanged(fabric: Fabric) -> Iterator[Fabric]:
    """Whatever is tried: afterwards the records are what they were, and requests are served as before."""
    before = fabric.call("list_records")
    yield fabric
    assert fabric.call("list_records") == before
    answer = httpx.get(fabric.gateways[0].http + "/shop", timeout=20)
    assert (answer.status_code, answer.text) == (200, "new")


def zserve(*arguments: str, fabric: Fabric) -> str:
    """What the command line has against it, in this process."""
    runner = CliRunner()
    with runner.isolation(env={"ZSERVE_ADDRESS": fabric.routers[0].address}) as (_, err, *_):
        status = cli.run(list(arguments))
        said = err.getvalue().decode()
    assert status in (1, 2), said
    assert len(said.splitlines()) == 1, said
    assert "not expected" not in said
    return said


def deploy(fabric: Fabric, content: str) -> str:
    file = fabric.folder / "bad.toml"
    file.write_text(content)
    return zserve("deploy", str(file), "--yes", "--app-dir", str(APPS), fabric=fabric)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises((TypeError, ValueError, KeyError, ServeError)) as caught:
        call()
    return str(caught.value)


def toml(value: Any) -> str:
    return "nan" if value != value else str(value) if not isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("weights", "says"), WEIGHTS)
def test_weights(unchanged: Fabric, weights: dict[str, Any], says: str) -> None:
    for call in (
        lambda: serve.set_traffic("shop", weights),
        lambda: serve.split("shop", weights),
        lambda: serve.set_traffic("shop", weights, "round_robin"),
    ):
        assert says in refused(call)
    shares = [f"{name}={weight}" for name, weight in weights.items()]
    assert says in zserve("traffic", "set", "shop", *shares, fabric=unchanged)
    table = ", ".join(f"{name} = {toml(weight)}" for name, weight in weights.items())
    assert says in deploy(unchanged, f'[endpoints.shop]\nroute = "/shop"\ntraffic = {{ {table} }}\n')
    # A client that checks nothing itself; JSON has no NaN.
    sent = orjson.loads(orjson.dumps(weights))
    told = refused(lambda: unchanged.call("set_traffic", endpoint="shop", traffic=sent))
    assert (says if sent == weights else "None") in told
    if "nobody" not in weights:
        backends = dict.fromkeys(weights, len)
        assert says in refused(lambda: serve.declare_endpoint("other", backends=backends, traffic=weights))


@pytest.mark.parametrize("weight", ["1.0", True, None, [1]])
def test_weights_that_are_no_numbers(unchanged: Fabric, weight: Any) -> None:
    assert repr(weight) in refused(lambda: serve.set_traffic("shop", {"one": weight}))
    assert repr(weight) in refused(lambda: unchanged.call("set_traffic", endpoint="shop", traffic={"one": weight}))


@pytest.mark.parametrize("proportion", [-0.1, 1.1, 1e300, NAN, INF])
def test_shadows(unchanged: Fabric, proportion: float) -> None:
    assert repr(proportion) in refused(lambda: serve.shadow_traffic("shop", "two", proportion))
    said = deploy(unchanged, f'[endpoints.shop]\nroute = "/shop"\nshadows = {{ two = {toml(proportion)} }}\n')
    assert repr(proportion) in said
    if math.isfinite(proportion):
        raw = {"endpoint": "shop", "backend": "two", "proportion": proportion}
        assert repr(proportion) in refused(lambda: unchanged.call("shadow_traffic", **raw))


def test_names_that_nobody_knows(unchanged: Fabric) -> None:
    assert "'nobody'" in refused(lambda: serve.shadow_traffic("shop", "nobody", 0.1))
    assert "'nowhere'" in refused(lambda: serve.set_traffic("nowhere", {"one": 1.0}))
    assert "'nowhere'" in zserve("traffic", "set", "nowhere", "one=1", fabric=unchanged)
    assert "'nobody'" in refused(lambda: serve.link("shop", "nobody"))


@pytest.mark.parametrize(("key", "value"), CONFIGS)
def test_settings_of_a_backend(unchanged: Fabric, key: str, value: Any) -> None:
    for call in (
        lambda: serve.update_backend_config("two", {key: value}),
        lambda: serve.create_backend("three", print, config={key: value}),
        lambda: serve.update_backend("two", print, config={key: value}),
    ):
        said = refused(call)
        assert key in said
        assert repr(value) in said
    said = deploy(unchanged, f'[backends.two]\ncode = "app_shop:batched"\nconfig = {{ {key} = {toml(value)} }}\n')
    assert f"bad.toml:3: [backends.two] config.{key}" in said
    assert repr(value) in said
    if math.isfinite(value):
        said = refused(lambda: unchanged.call("update_backend_config", name="two", config={key: value}))
        assert key in said
        assert repr(value) in said


@pytest.mark.parametrize(("key", "value"), DEADLINES)
def test_deadlines_over_http(unchanged: Fabric, key: str, value: str) -> None:
    answer = httpx.get(f"{unchanged.gateways[0].http}/shop?{key}={value}", timeout=20)
    assert answer.status_code == 400
    assert key in answer.text
    assert value in answer.text


@pytest.mark.parametrize("value", ["-1", "0", "1e300", "nan", "inf", "soon"])
def test_the_header_of_a_deadline(unchanged: Fabric, value: str) -> None:
    headers = {"X-Request-Timeout-Seconds": value}
    answer = httpx.get(f"{unchanged.gateways[0].http}/shop", headers=headers, timeout=20)
    assert answer.status_code == 400
    assert value in answer.text


def test_a_deadline_that_is_past(unchanged: Fabric) -> None:
    """It is a good deadline, only missed: 504, at once, and the backend hears nothing of it."""
    past = int(time.time() * 1000) - 1
    before = unchanged.call("status")["backends"]["one"]["counters"]["admitted"]
    answer = httpx.get(f"{unchanged.gateways[0].http}/shop?absolute_slo_ms={past}", timeout=20)
    assert answer.status_code == 504
    assert f"the deadline had passed when the request arrived (absolute_slo_ms={past})" in answer.text
    with pytest.raises(serve.DeadlineExceeded):
        serve.get_handle("shop", absolute_slo_ms=past).remote().result(20)
    assert unchanged.call("status")["backends"]["one"]["counters"]["admitted"] == before


@pytest.mark.parametrize("key", ["relative_slo_ms", "absolute_slo_ms"])
@pytest.mark.parametrize("value", [-1, 0, 1e300, NAN, INF, "soon"])
def test_deadlines_of_handles(unchanged: Fabric, key: str, value: Any) -> None:
    deadline: dict[str, Any] = {key: value}
    for call in (
        lambda: serve.get_handle("shop", **deadline),
        lambda: serve.get_handle("shop").options(**deadline),
    ):
        said = refused(call)
        assert key in said
        assert repr(value) in said

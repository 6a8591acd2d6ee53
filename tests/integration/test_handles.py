"""Handles, with real nodes and real scripts."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import zserve as serve
from zserve.control import declarations

from .fabric import APPS, Fabric, eventually

pytestmark = pytest.mark.integration

ENDPOINTS = (
    "echo", "look", "view", "fail", "fail_locally", "unsendable", "items", "items_async", "slow", "die",
    "starts_another", "Counter", "Shop", "fan_out", "ask_look", "circle", "circle_too", "unknown", "together",
)  # fmt: skip


@pytest.fixture(scope="module")
def nodes() -> Iterator[Fabric]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            fabric.start("router")
            fabric.start("router")
            fabric.start("gateway")
            fabric.start("worker")
            for name in ENDPOINTS:
                config: dict[str, Any] = {"max_batch_size": 8, "batch_wait_timeout": 0.1} if name == "together" else {}
                code = f"app_handles:{name}"
                fabric.call(
                    "create_backend",
                    name=name,
                    code=code,
                    version="1",
                    config=config,
                    batchable=name == "together",
                    is_class=name[0].isupper(),
                )
                fabric.call("create_endpoint", name=name, route=f"/{name}", methods=["GET", "POST"], backend=name)
            for name in ENDPOINTS:
                fabric.call("wait_backend", name=name, timeout_s=60.0)
            yield fabric
        except BaseException:
            print(fabric.logs())
            raise
        finally:
            fabric.close()


@pytest.fixture(scope="module")
def joined(nodes: Fabric) -> Iterator[Fabric]:
    """This process is a client of the fabric, and finds the application's module."""
    with pytest.MonkeyPatch.context() as patch:
        # init() would serve what the modules of other tests declare.
        patch.setattr(declarations, "_declared", {})
        patch.syspath_prepend(str(APPS))
        serve.init(address=nodes.routers[0].address)
        try:
            yield nodes
        finally:
            serve.shutdown()


def call(endpoint: str, *args: Any, **kwargs: Any) -> Any:
    return serve.get_handle(endpoint).remote(*args, **kwargs).result(20)


# --- values -----------------------------------------------------------------------------------------------------------


def test_python_values_arrive_and_come_back(joined: Fabric) -> None:
    import app_handles

    value = {
        "tuple": (1, {2, 3}, b"\x00"),
        "when": datetime.datetime.now(datetime.UTC),
        "id": uuid.uuid4(),
        "price": decimal.Decimal("9.99"),
        "order": app_handles.Order("tea", 2),
        5: None,
    }
    assert call("echo", value) == value
    assert call("echo", app_handles.Money(5)).cents == 5
    assert call("echo") is None


def test_arrays_of_all_sizes(joined: Fabric) -> None:
    np = pytest.importorskip("numpy")
    handle = serve.get_handle("echo")
    for size in (0, 10, 20_000, 2_000_000):
        array = np.arange(size, dtype=np.float32)
        found = handle.remote([array, array[:5]]).result(20)
        assert (found[0].dtype, found[0].shape) == (array.dtype, array.shape)
        assert (found[0] == array).all()
        assert (found[1] == array[:5]).all()


def test_what_cannot_be_sent_is_said_on_both_sides(joined: Fabric) -> None:
    with pytest.raises(TypeError, match=r"^size: a value of type object cannot be sent"):
        call("echo", size=object())
    with pytest.raises(TypeError, match=r"the handler's result: a value of type object cannot be sent \(at \['x'\]\[0"):
        call("unsendable")


def test_what_the_handler_sees(joined: Fabric) -> None:
    handle = serve.get_handle("look").options(http_method="put", http_headers={"X-A": "1"})
    found = handle.remote([1], a=(1,), b="x").result(20)
    assert (found["data"], found["kwargs"], found["method"]) == ([1], {"a": (1,), "b": "x"}, "PUT")
    assert (found["headers"], found["web"]) == ({"x-a": "1"}, False)
    assert call("view", {"k": 1}, n="5") == [{"k": 1}, {"n": "5"}, {"k": 1}, 5]
    assert call("view", b"[1]") == [[1], {}, {}, None]
    assert call("items") == [(0, {0}), (1, {1}), (2, {2})]
    assert call("items_async") == [0, 1, 2]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_the_backends_exception_is_raised_here(joined: Fabric) -> None:
    import app_handles

    order = app_handles.Order("tea")
    with pytest.raises(app_handles.OutOfStock) as caught:
        call("fail", order)
    assert caught.value.order == order
    assert caught.value.args == ("no tea left", order)
    assert "app_handles.py" in str(caught.value.__cause__)
    assert "raise OutOfStock(request.data)" in str(caught.value.__cause__)
    with pytest.raises(serve.RemoteError, match="HiddenError: nobody can import me") as hidden:
        call("fail_locally")
    assert "raise HiddenError" in hidden.value.traceback


def test_an_exception_goes_through_two_backends(joined: Fabric) -> None:
    import app_handles

    with pytest.raises(app_handles.OutOfStock) as caught:
        serve.get_handle("Shop").options("fails").remote().result(20)
    assert "in fail\n" in str(caught.value.__cause__)
    assert "in fails\n" in str(caught.value.__cause__)


def test_unknown_endpoints(joined: Fabric) -> None:
    before = serve.list_endpoints(), serve.list_backends()
    with pytest.raises(KeyError, match="there is no endpoint 'nothing'"):
        serve.get_handle("nothing")
    with pytest.raises(serve.NoSuchEndpoint, match="no endpoint 'nothing'"):
        serve.get_handle("nothing", missing_ok=True).remote().result(20)
    with pytest.raises(KeyError, match="no such endpoint"):
        call("unknown")
    assert (serve.list_endpoints(), serve.list_backends()) == before


def test_deadlines(joined: Fabric) -> None:
    begin = time.monotonic()
    with pytest.raises((serve.DeadlineExceeded, serve.Overloaded)):
        serve.get_handle("slow", relative_slo_ms=200).remote(1.0).result(20)
    assert time.monotonic() - begin < 0.9
    with pytest.raises(serve.DeadlineExceeded):
        serve.get_handle("slow", absolute_slo_ms=time.time() * 1000 - 1).remote().result(20)
    with pytest.raises(TimeoutError):
        serve.get_handle("slow").remote(0.3).result(0.01)


def test_a_replica_that_dies(joined: Fabric) -> None:
    with pytest.raises(serve.ReplicaDied, match="may have run"):
        call("die")


def test_a_replica_does_not_start_a_fabric(joined: Fabric) -> None:
    with pytest.raises(serve.ServeError, match="inside of a replica"):
        call("starts_another")


# --- methods ----------------------------------------------------------------------------------------------------------


def test_methods_by_name(joined: Fabric) -> None:
    counter = serve.get_handle("Counter")
    before = counter.options("add").remote(by=0).result(20)
    assert counter.options("add").remote(by=5).result(20) == before + 5
    assert counter.options(method_name="later").remote((1,)).result(20) == (1,)
    url = joined.gateways[0].http + "/Counter"
    assert httpx.get(url, headers={"X-Serve-Call-Method": "add"}).text == str(before + 6)


@pytest.mark.parametrize(
    "name", ["_private", "__init__", "__class__", "__reduce__", "count", "nothing", "add.__call__"]
)
def test_methods_that_are_none(joined: Fabric, name: str) -> None:
    with pytest.raises(serve.NoSuchMethod, match="has no public method") as caught:
        serve.get_handle("Counter").options(name).remote().result(20)
    assert isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, serve.ServeError)
    url = joined.gateways[0].http + "/Counter"
    assert httpx.get(url, headers={"X-Serve-Call-Method": name}).status_code == 404


def test_a_class_without_call_needs_a_method(joined: Fabric) -> None:
    with pytest.raises(serve.NoSuchMethod, match="cannot be called without a method name"):
        call("Counter")


# --- composition ------------------------------------------------------------------------------------------------------


def test_chains_and_fan_out_from_outside(joined: Fabric) -> None:
    handle = serve.get_handle("echo")
    slow = serve.get_handle("slow")
    begin = time.monotonic()
    chained = handle.remote({"a": [handle.remote((slow.remote(0.2),))]})
    assert time.monotonic() - begin < 0.15, "the caller is not blocked"
    assert chained.result(20) == {"a": [("slow",)]}
    import app_handles

    with pytest.raises(app_handles.OutOfStock):
        handle.remote(x=serve.get_handle("fail").remote(app_handles.Order("tea"))).result(20)


def test_threads_and_event_loops(joined: Fabric) -> None:
    handle = serve.get_handle("echo")
    found: list[Any] = []

    async def gather(base: int) -> None:
        found.append(await asyncio.gather(*[handle.remote(base + number) for number in range(50)]))

    threads = [threading.Thread(target=asyncio.run, args=(gather(base),)) for base in (0, 100)]
    threads += [
        threading.Thread(target=lambda base=base: found.append([handle.remote(base + n).result(20) for n in range(50)]))
        for base in (200, 300)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == [[base + number for number in range(50)] for base in (0, 100, 200, 300)]


def test_from_inside_of_backends(joined: Fabric) -> None:
    assert call("fan_out") == [list(range(5)), list(range(5))]
    assert call("Shop")["data"] == "from the shop"
    assert call("ask_look")["data"] == "from a coroutine"


@pytest.mark.parametrize("path", ["/Shop", "/ask_look"])
def test_request_id_trace_and_deadline_travel_with_the_call(joined: Fabric, path: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-Request-Id": "mine-1", "traceparent": trace, "Cookie": "secret=1"}
    found = httpx.get(joined.gateways[0].http + path, headers=headers).json()
    assert found["headers"] == {"x-request-id": "mine-1", "traceparent": trace}
    answer = httpx.get(joined.gateways[0].http + path)
    assert answer.json()["headers"] == {"x-request-id": answer.headers["x-request-id"]}


def test_a_circle_ends_with_its_deadline(joined: Fabric) -> None:
    begin = time.monotonic()
    with pytest.raises((serve.DeadlineExceeded, serve.Overloaded)):
        serve.get_handle("circle", relative_slo_ms=700).remote(1).result(20)
    assert time.monotonic() - begin < 3
    answer = httpx.get(joined.gateways[0].http + "/circle?relative_slo_ms=700", timeout=20)
    assert answer.status_code in (504, 500, 503)
    assert time.monotonic() - begin < 6
    # and both are free again
    eventually(lambda: call("look", 1), "it serves")


def test_http_and_handle_calls_share_a_batch(joined: Fabric) -> None:
    handle = serve.get_handle("together")
    call("together", "warm")
    found: list[Any] = []
    url = joined.gateways[0].http + "/together"

    def over_http() -> None:
        found.append(httpx.post(url, content=b"http").json())

    for _ in range(20):
        found.clear()
        thread = threading.Thread(target=over_http)
        thread.start()
        one, two, bad = handle.remote("a", n=1), handle.remote("b"), handle.remote("c", n=-1)
        assert one.result(20)[:2] == ["a", 1]
        assert two.result(20)[:2] == ["b", None]
        with pytest.raises(ValueError, match="minus one"):
            bad.result(20)
        thread.join(20)
        assert found[0][:2] == ["b'http'", None]
        if {"a", "b"} & set(found[0][2]):
            break
    else:
        pytest.fail(f"never in one batch: {found}, {one.result()}")


def test_the_router_that_was_joined_dies(joined: Fabric) -> None:
    """Comes last: the others are served by the second router."""
    handle = serve.get_handle("echo").options(http_method="GET")
    assert handle.remote(1).result(20) == 1
    caller = handle._line.caller()  # type: ignore[union-attr]
    eventually(lambda: caller.statistics()["routers"] == 2, "it has found the second router")
    answers = [handle.remote(number) for number in range(50)]
    joined.routers[0].kill()
    answers += [handle.remote(number) for number in range(50, 100)]
    assert [answer.result(20) for answer in answers] == list(range(100))


# --- scripts ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import asyncio, os, threading
import zserve as serve

@serve.route("/double")
def double(request):
    return 2 * request.data

def closure(request):
    return handle.remote(request.data).result() + 1

serve.init(http_port=0)
handle = serve.get_handle("double")
print(handle.remote(4).result(20), double.handle.remote("ab").result(20))

serve.create_backend("closure", closure)
serve.create_endpoint("closure", backend="closure")
print(serve.get_handle("closure").remote(5).result(20))

async def main():
    return await handle.remote([await handle.remote(1), handle.remote(2)])
print(asyncio.run(main()))

child = os.fork()
if child == 0:
    print(handle.remote("c").result(20), flush=True)
    os._exit(0)
os.waitpid(child, 0)

serve.delete_endpoint("double")
try:
    serve.get_handle("double")
except KeyError as error:
    print(error)
pending = serve.get_handle("closure").remote(1)
{end}
"""


def run_script(end: str) -> tuple[subprocess.CompletedProcess[str], float]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        script = Path(folder) / "script.py"
        script.write_text(SCRIPT.format(end=end))
        begin = time.monotonic()
        done = subprocess.run(
            # Unbuffered: a fork copies what a buffer holds, and both processes would write it.
            [sys.executable, "-u", str(script)],
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, "ZSERVE_RUN_DIR": folder},
            check=False,
        )
        return done, time.monotonic() - begin


@pytest.mark.parametrize(
    "end",
    [
        "",
        """
serve.shutdown()
assert pending.done()
try:
    handle.remote(1)
except serve.FabricUnreachable:
    print("left")
""",
    ],
    ids=["just ends", "shutdown"],
)
def test_a_script_with_an_embedded_fabric(end: str) -> None:
    done, seconds = run_script(end)
    assert done.returncode == 0, done.stderr
    said = ["8 abab", "11", "[2, 4, 2, 4]", "cc", "\"there is no endpoint 'double'\"", *(["left"] if end else [])]
    assert done.stdout.splitlines() == said, done.stderr
    assert seconds < 40


def test_the_page_about_handles() -> None:
    """Its blocks are one script."""
    page = (Path(__file__).parents[2] / "docs" / "handles.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 10
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        script = Path(folder) / "page.py"
        script.write_text("\n".join(blocks))
        done = subprocess.run(
            # Unbuffered: a fork copies what a buffer holds, and both processes would write it.
            [sys.executable, "-u", str(script)],
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, "ZSERVE_RUN_DIR": folder},
            check=False,
        )
    assert done.returncode == 0, done.stderr

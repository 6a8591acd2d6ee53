"""The table "Control API" of the contract, row by row, on a real fabric.

What each call does with bad arguments is in ``test_bad_input.py``; ``@route`` and ``@accept_batch`` as declarations,
and Ctrl-C, are in ``tests/control`` and ``tests/integration``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import zserve as serve

from ..integration.fabric import eventually
from . import handlers

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def backends(url: str) -> None:
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(serve.create_backend, name, getattr(handlers, name))
            for name in ("one", "two", "increment", "add", "fails", "echo")
        ]:
            done.result()
    for name in ("increment", "add", "fails", "echo"):
        serve.create_endpoint(name, backend=name)


@pytest.fixture
def endpoint() -> Iterator[str]:
    """An endpoint at /e, which is gone after the test."""
    serve.create_endpoint("e", "/e", backend="one")
    yield "e"
    serve.delete_endpoint("e")


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    return serve.get_handle(name).remote(*args, **kwargs).result(30)


# --- init, shutdown ---------------------------------------------------------------------------------------------------

LIFE = """
import json, urllib.request
import zserve as serve

def get(path):
    (gateway,) = [node for node in serve.status()["nodes"] if node["role"] == "gateway"]
    return urllib.request.urlopen(gateway["http"] + path, timeout=10).read().decode()

try:
    serve.list_endpoints()
except serve.NotInitialized as error:
    assert "serve.init()" in str(error)
    print("not yet")

word = "closure"

@serve.route("/declared")
def declared():
    return word

serve.init(http_port=0)
first = serve.status()["address"]
serve.init()
assert serve.status()["address"] == first, "a repeat is a no-op"
print(get("/declared"))

@serve.route("/later")
def later():
    return "at once"

print(get("/later"))
serve.create_backend("lambda", lambda: "lambda")
serve.create_endpoint("lambda", "/lambda", backend="lambda")
print(get("/lambda"))

serve.init(http_port=0, name="beside")
assert serve.status()["address"] != first
assert sorted(serve.list_endpoints()) == ["declared", "later"], "what was declared, and nothing that was created"
serve.init()
assert serve.status()["address"] == first
print(sorted(serve.list_endpoints()))

def pids():
    return [one["pid"] for one in [*serve.status()["nodes"], *serve.status()["replicas"]] if one["pid"]]

ended = pids()
serve.shutdown()
try:
    serve.list_endpoints()
except serve.NotInitialized:
    print("shut down")
serve.init(http_port=0)
print(json.dumps(ended + pids()))  # and now the interpreter ends without a shutdown
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_init_and_shutdown(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LIFE)
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "ZSERVE_RUN_DIR": folder},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not list(Path(folder).rglob("*"))
    lines = done.stdout.splitlines()
    assert lines[:6] == ["not yet", "closure", "at once", "lambda", "['declared', 'lambda', 'later']", "shut down"]
    pids: list[int] = json.loads(lines[6])
    assert len(pids) >= 8
    eventually(lambda: not any(map(is_alive, pids)), "no process is left")


WAITS = """
import json, time
import zserve as serve
serve.init(http_port=0)
serve.create_backend("waits", lambda: time.sleep(60), config={"graceful_shutdown_timeout": 0.5})
serve.create_endpoint("waits", backend="waits")
answer = serve.get_handle("waits").remote()
print(json.dumps([one["pid"] for one in [*serve.status()["nodes"], *serve.status()["replicas"]] if one["pid"]]))
answer.result()
"""


def test_ctrl_c_in_a_script_ends_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITS)
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        script = subprocess.Popen(
            [sys.executable, "-u", str(tmp_path / "script.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ZSERVE_RUN_DIR": folder},
            process_group=0,
        )
        try:
            assert script.stdout is not None
            pids: list[int] = json.loads(script.stdout.readline())
            os.killpg(script.pid, signal.SIGINT)  # as a terminal does
            _, said = script.communicate(timeout=60)
        finally:
            script.kill()
            script.wait(20)
        assert script.returncode == -signal.SIGINT, said
        assert "\nKeyboardInterrupt\n" in said
        assert len(pids) >= 4
        eventually(lambda: not any(map(is_alive, pids)), "no process is left")
        eventually(lambda: not list(Path(folder).rglob("*")), "nor a file")


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_create_endpoint(http: httpx.Client, endpoint: str) -> None:
    assert http.get("/e").text == "one"
    serve.create_endpoint("e", "/e", backend="one")  # the same again: nothing
    with pytest.raises(ValueError, match="'e'"):
        serve.create_endpoint("e", "/other")
    with pytest.raises(ValueError, match="/e"):
        serve.create_endpoint("other", "/e")
    assert "other" not in serve.list_endpoints()
    serve.create_endpoint("posted", "/posted", methods=["POST"], backend="two")
    assert http.get("/posted").status_code == 405
    assert http.post("/posted").text == "two"
    serve.delete_endpoint("posted")


def test_delete_endpoint(http: httpx.Client) -> None:
    serve.create_endpoint("gone", "/gone", backend="one")
    serve.delete_endpoint("gone")
    assert http.get("/gone").status_code == 404
    assert "one" in serve.list_backends()
    serve.delete_endpoint("gone")  # not there any more: nothing


def test_delete_endpoint_answers_what_is_queued(http: httpx.Client) -> None:
    serve.create_backend("none_yet", handlers.one, config={"num_replicas": 0})
    serve.create_endpoint("queued", "/queued", backend="none_yet")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(http.get, "/queued")
        eventually(lambda: serve.status()["backends"]["none_yet"]["counters"]["queued"] == 1, "it waits")
        serve.delete_endpoint("queued")
        assert waiting.result(30).status_code == 404
    serve.delete_backend("none_yet")


def test_list_endpoints(endpoint: str) -> None:
    serve.set_traffic("e", {"one": 0.25, "two": 0.75})
    serve.shadow_traffic("e", "two", 0.5)
    assert serve.list_endpoints()["e"] == {
        "route": "/e",
        "methods": ["GET"],
        "traffic": {"one": 0.25, "two": 0.75},
        "shadows": {"two": 0.5},
    }
    assert serve.list_endpoints()["add"]["route"] is None


# --- backends ---------------------------------------------------------------------------------------------------------


def test_create_backend(http: httpx.Client) -> None:
    serve.create_backend("greeter", handlers.Greeter, "hi", punctuation="!", config={"num_replicas": 2})
    serve.create_endpoint("greeter", "/greeter", backend="greeter")
    assert http.get("/greeter").text == "hi!"
    ready = [one for one in serve.status()["replicas"] if one["backend"] == "greeter" and one["state"] == "ready"]
    assert len(ready) == 2, "it returns when the replicas are up"
    with pytest.raises(ValueError, match="'greeter' exists"):
        serve.create_backend("greeter", handlers.one)
    before = serve.list_backends()
    with pytest.raises(serve.ApplicationError) as caught:
        serve.create_backend("broken", handlers.Greeter, "fail")
    assert "no such model file" in str(caught.value)
    assert 'raise FileNotFoundError("no such model file")' in str(caught.value), "the replica's own traceback"
    assert serve.list_backends() == before


def test_create_backend_constructs_replicas_in_parallel(tmp_path: Path) -> None:
    serve.create_backend("parallel", handlers.SlowStart, str(tmp_path), config={"num_replicas": 2})
    assert len(list(tmp_path.iterdir())) == 2
    serve.delete_backend("parallel")


def test_create_backend_that_no_worker_node_can_hold() -> None:
    before = serve.list_backends()
    for config in ({"num_replicas": 5000}, {"resources": {"gpu": 1}}):
        with pytest.raises(serve.ServeError, match="Cannot place backend 'huge'"):
            serve.create_backend("huge", handlers.one, config=config)
    assert serve.list_backends() == before


def test_update_backend(http: httpx.Client) -> None:
    serve.create_backend("versions", handlers.Greeter, "v1")
    serve.create_endpoint("versions", "/versions", backend="versions")
    stop = False

    def ask() -> set[tuple[int, str]]:
        seen = set()
        with httpx.Client(base_url=http.base_url, timeout=30) as client:
            while not stop:
                answer = client.get("/versions")
                seen.add((answer.status_code, answer.text))
        return seen

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            serve.update_backend("versions", handlers.Greeter, "v2", punctuation="")
            assert http.get("/versions").text == "v2"
        finally:
            stop = True
        seen = set().union(*(one.result(30) for one in asking))
    assert seen <= {(200, "v1."), (200, "v2")}, "no request is lost"


def test_update_backend_that_fails_is_reported_and_changes_nothing(http: httpx.Client) -> None:
    serve.create_backend("stays", handlers.Greeter, "old")
    serve.create_endpoint("stays", "/stays", backend="stays")
    before = serve.list_backends()["stays"]
    with pytest.raises(serve.ApplicationError, match="no such model file"):
        serve.update_backend("stays", handlers.Greeter, "fail")
    assert serve.list_backends()["stays"] == before
    assert http.get("/stays").text == "old."


def test_delete_backend(http: httpx.Client, endpoint: str) -> None:
    with pytest.raises(ValueError, match="'e'"):
        serve.delete_backend("one")
    serve.delete_backend("nobody has this name")  # unknown: nothing
    serve.create_backend("short", handlers.slow)
    serve.create_endpoint("short", "/short", backend="short")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(http.get, "/short?s=0.5")
        eventually(lambda: serve.status()["backends"]["short"]["counters"]["in_flight"] == 1, "it runs")
        serve.set_traffic("short", {"one": 1.0})
        serve.delete_backend("short")
        assert running.result(30).text == "slept", "running requests finish"
    assert "short" not in serve.list_backends()
    serve.delete_endpoint("short")


def test_list_backends_get_backend_config_update_backend_config() -> None:
    assert serve.list_backends()["one"]["config"] == serve.get_backend_config("one")
    assert serve.get_backend_config("one")["num_replicas"] == 1
    serve.update_backend_config("one", {"max_queued_requests": 7})
    assert serve.get_backend_config("one")["max_queued_requests"] == 7
    assert serve.get_backend_config("one")["num_replicas"] == 1, "what is not given stays"
    with pytest.raises(ValueError, match="max_batch_sise"):
        serve.update_backend_config("one", {"max_batch_sise": 7})
    with pytest.raises(KeyError, match="nobody"):
        serve.get_backend_config("nobody")
    serve.update_backend_config("one", {"max_queued_requests": 10_000})


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_set_traffic_split_link(http: httpx.Client, endpoint: str) -> None:
    serve.shadow_traffic("e", "two", 0.1)
    serve.set_traffic("e", {"two": 1.0})
    assert {http.get("/e").text for _ in range(20)} == {"two"}, "from the next request on"
    serve.split("e", {"one": 0.5, "two": 0.5})
    assert {http.get("/e").text for _ in range(60)} == {"one", "two"}
    serve.link("e", "one")
    assert {http.get("/e").text for _ in range(20)} == {"one"}
    assert serve.list_endpoints()["e"]["shadows"] == {"two": 0.1}, "shadows stay"
    serve.set_traffic("e", {"one": 0.1 + 0.2, "two": 0.7})  # tolerance
    for traffic, said in (({"one": 0.5}, "0.5"), ({"one": 1.5, "two": -0.5}, "-0.5"), ({"nobody": 1.0}, "nobody")):
        with pytest.raises(ValueError, match=said):
            serve.set_traffic("e", traffic)
    assert serve.list_endpoints()["e"]["traffic"] == {"one": 0.1 + 0.2, "two": 0.7}


def test_set_traffic_with_its_arguments_swapped(http: httpx.Client, endpoint: str) -> None:
    with pytest.warns(serve.ServeWarning, match="swapped"):
        serve.set_traffic("two", {"e": 1.0})
    assert http.get("/e").text == "two"


def test_shadow_traffic(http: httpx.Client, endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "shadow"
    serve.create_backend("shadow", handlers.note)
    for proportion in (-0.1, 1.1):
        with pytest.raises(ValueError, match=str(proportion)):
            serve.shadow_traffic("e", "shadow", proportion)
    serve.shadow_traffic("e", "shadow", 1.0)
    answers = [http.get("/e", params={"file": str(file)}) for _ in range(5)]
    assert [(one.status_code, one.text) for one in answers] == [(200, "one")] * 5, "its errors never reach a client"
    eventually(lambda: file.exists() and len(file.read_text().split()) == 5, "each was shadowed")
    serve.shadow_traffic("e", "shadow", 0)
    assert serve.list_endpoints()["e"]["shadows"] == {}
    http.get("/e", params={"file": str(file)})
    errors = serve.stat()["backends"]["shadow"]["errors"]
    assert (len(file.read_text().split()), errors) == (5, 5)
    serve.delete_backend("shadow")


# --- handles ----------------------------------------------------------------------------------------------------------


def test_get_handle() -> None:
    assert serve.get_handle("increment").remote(1).result(30) == 2
    with pytest.raises(KeyError, match="nobody"):
        serve.get_handle("nobody")
    missing = serve.get_handle("nobody", missing_ok=True)
    with pytest.raises(serve.NoSuchEndpoint):
        missing.remote().result(30)
    with pytest.raises(serve.DeadlineExceeded):
        serve.get_handle("increment", absolute_slo_ms=1000).remote(1).result(30)


def test_handle_remote() -> None:
    handle = serve.get_handle("increment")
    began = time.monotonic()
    answers = [handle.remote(n) for n in range(50)]
    assert time.monotonic() - began < 25, "it does not wait for the backend"
    assert [answer.result(30) for answer in answers] == list(range(1, 51))

    async def awaited() -> Any:
        return await asyncio.gather(handle.remote(1), handle.remote(2))

    assert asyncio.run(awaited()) == [2, 3]
    composed = serve.get_handle("add").remote(left=handle.remote(1), right=handle.remote(handle.remote(1)))
    assert composed.result(30) == 5
    with pytest.raises(LookupError) as caught:
        call("fails", "x")
    assert caught.value.args == ("nothing under", "x")
    assert 'raise LookupError("nothing under", request.data)' in str(caught.value.__cause__)


def test_handle_options() -> None:
    handle = serve.get_handle("echo", relative_slo_ms=20_000)
    changed = handle.options(http_method="POST", http_headers={"x-a": "1"})
    assert changed is not handle
    assert "20000" in repr(changed), "what is not given is inherited"
    assert changed.remote("text", a=1).result(30) == {"data": "text", "kwargs": {"a": 1}}
    with pytest.raises(serve.NoSuchMethod):
        handle.options(method_name="nothing").remote().result(30)


# --- decorators -------------------------------------------------------------------------------------------------------


def test_route(http: httpx.Client) -> None:
    routed = serve.route("/routed/{n:int}")(handlers.add)
    try:
        assert http.get("/routed/3").text == "0"
        assert routed(None, 1, 2) == 3, "it can still be called"
        assert routed.handle.remote(left=4).result(30) == 4
        routed.scale(2)
        assert serve.get_backend_config("add")["num_replicas"] == 2
        with pytest.raises(ValueError, match="accept_batch"):
            routed.set_max_batch_size(10)
        routed.scale(1)
    finally:
        serve.delete_endpoint("add")
        serve.create_endpoint("add", backend="add")


def test_accept_batch(http: httpx.Client) -> None:
    serve.route("/batch", config={"batch_wait_timeout": 2.0})(handlers.batch).set_max_batch_size(4)
    with ThreadPoolExecutor(4) as pool:
        sizes = [one.json() for one in pool.map(lambda _: http.get("/batch"), range(4))]
        assert sizes == [{"size": 4, "context": 4}] * 4
        queries = ["", "?bad=1", "", ""]
        statuses = [one.status_code for one in pool.map(lambda query: http.get("/batch" + query), queries)]
        assert statuses == [200, 500, 200, 200], "an item that is an Exception fails that request alone"
        together = [pool.submit(http.get, "/batch") for _ in range(2)]
        handle = serve.get_handle("batch")
        mixed = [handle.remote() for _ in range(2)]
        assert {one.result(30)["size"] for one in mixed} | {one.result(30).json()["size"] for one in together} == {4}
    serve.update_backend_config("batch", {"batch_wait_timeout": 0.0})
    handle = serve.get_handle("batch")
    with pytest.raises(RuntimeError, match="all of it fails"):
        handle.remote(all_bad=1).result(30)
    with pytest.raises(serve.ServeError, match=r"1 .*0|0 .*1"):
        handle.remote(short=1).result(30)


# --- looking ----------------------------------------------------------------------------------------------------------


def test_stat(http: httpx.Client, endpoint: str) -> None:
    for _ in range(20):
        http.get("/e")
    stat = serve.stat()
    found = stat["endpoints"]["e"]
    assert (found["answered"], found["errors"]) == (20, 0)
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert stat["backends"]["one"]["completed"] >= 20
    assert serve.stat()["endpoints"].keys() == serve.list_endpoints().keys()


def test_status(url: str) -> None:
    status = serve.status()
    assert {node["role"] for node in status["nodes"]} >= {"gateway", "router", "worker"}
    assert {"address", "nodes", "replicas", "endpoints", "versions", "conflicts"} <= status.keys()
    assert {one["backend"] for one in status["replicas"]} >= {"one", "two"}
    assert status["endpoints"].keys() == serve.list_endpoints().keys()
    assert status["versions"]["backend/two"] == 1
    serve.init(address=status["address"], name="again")
    try:
        assert serve.list_endpoints().keys() == status["endpoints"].keys()
    finally:
        serve.init()


# --- "A control call returns when it is in force" ---------------------------------------------------------------------


def test_a_control_call_returns_when_it_is_in_force(http: httpx.Client) -> None:
    for number in range(20):
        serve.create_endpoint("now", "/now", backend=("one", "two")[number % 2])
        assert http.get("/now").text == ("one", "two")[number % 2]
        serve.delete_endpoint("now")
        assert http.get("/now").status_code == 404

"""The section "Command line" of the contract.  Ctrl-C, ports in use: ``tests/integration``, ``tests/nodes``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from zserve.nodes import cli

import zserve as serve

from ..integration.fabric import eventually
from ..integration.running import RunningApp
from . import handlers

pytestmark = pytest.mark.integration

APP = """
import asyncio
import zserve as serve

@serve.route("/a")
def a():
    return "a"

@serve.route("/b")
@serve.accept_batch
def b(requests):
    return ["b"] * len(requests)

@serve.route("/raises")
def raises():
    raise RuntimeError("what only the log should say")

@serve.route("/waits")
async def waits():
    await asyncio.sleep(60)
"""


def zserve(*arguments: str, status: int = 0, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "zserve", *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def address(url: str) -> str:
    serve.create_backend("one", handlers.one)
    serve.create_backend("two", handlers.two)
    serve.create_backend("batch", handlers.batch)
    serve.create_endpoint("e", "/e", backend="one")
    serve.create_endpoint("batch", "/batch", backend="batch")
    return str(serve.status()["address"])


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "app_line.py").write_text(APP)
    return tmp_path


def test_run(app_dir: Path) -> None:
    with RunningApp("app_line", app_dir, "--debug", "--slots", "8", "--log-level", "debug") as app:
        assert [httpx.get(app.url + path, timeout=20).text for path in ("/a", "/b")] == ["a", "b"]
        assert "what only the log should say" in httpx.get(app.url + "/raises", timeout=20).text, "under --debug"
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(app.url + "/waits", timeout=httpx.Timeout(20, read=0.5))
        eventually(lambda: "499 GET /waits: the client has gone" in app.output(), "the log says who has left")
        (worker,) = [node for node in status_of(app)["nodes"] if node["role"] == "worker"]
        assert worker["slots"] == 8
        assert app.stop() == 0


def status_of(app: RunningApp) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zserve("status", "--address", app.address, "--json"))
    return found


def test_run_one_of_a_module_and_shutdown(app_dir: Path) -> None:
    with RunningApp("app_line:a", app_dir) as app:
        assert [httpx.get(app.url + path, timeout=20).status_code for path in ("/a", "/b")] == [200, 404]
        (worker,) = [node for node in status_of(app)["nodes"] if node["role"] == "worker"]
        assert worker["slots"] == 64, "if nobody says otherwise"
        zserve("shutdown", "--address", app.address)
        assert app.process.wait(40) == 0


def test_status_and_routes(address: str, http: httpx.Client) -> None:
    assert http.get("/e").text == "one"
    text = zserve("status", "--address", address)
    assert "/e" in text
    assert "one=100%" in text
    assert json.loads(zserve("status", "--address", address, "--json"))["endpoints"]["e"]["route"] == "/e"
    assert "/e" in zserve("routes", "--address", address)
    assert json.loads(zserve("routes", "--address", address, "--json"))["/e"] == ["e", ["GET"]]


def test_status_has_a_hint_for_a_batchable_backend_that_never_sees_a_batch(address: str, http: httpx.Client) -> None:
    assert "hint:" not in zserve("status", "--address", address)
    for _ in range(60):
        http.get("/batch")
    eventually(lambda: serve.stat()["backends"]["batch"]["completed"] >= 60, "all are counted")
    text = zserve("status", "--address", address)
    assert "hint: batch takes batches, but none of 60 requests shared one: its max_batch_size is not set" in text


def test_traffic_set(address: str, http: httpx.Client) -> None:
    zserve("traffic", "set", "e", "one=0.0", "two=1.0", "--address", address)
    assert http.get("/e").text == "two"
    said = zserve("traffic", "set", "e", "one=0.5", "--address", address, status=1)
    assert "sum to 0.5" in said
    assert "Traceback" not in said
    assert zserve("traffic", "set", "e", "one", "--address", address, status=2)


def test_deploy(address: str, tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text('[endpoints.e]\nroute = "/e"\ntraffic = { "one" = 1.0 }\n')
    zserve("deploy", str(tmp_path / "app.toml"), "--yes", "--address", address)
    assert serve.list_endpoints()["e"]["traffic"] == {"one": 1.0}
    (tmp_path / "bad.toml").write_text('[endpoints.e]\nrote = "/e"\n')
    assert "bad.toml:2" in zserve("deploy", str(tmp_path / "bad.toml"), "--yes", "--address", address, status=2)


def test_bench(address: str) -> None:
    given = ["/e", "--address", address, "--seconds", "0.5", "--warmup", "0"]
    found = json.loads(zserve("bench", *given, "--clients", "4", "--deadline-ms", "20000", "--json"))
    assert found["in_time"] == found["offered"] > 0
    assert "p99" in zserve("bench", *given, "--rate", "50")
    assert "no endpoint at /nowhere" in zserve("bench", "/nowhere", "--address", address, status=1)


def test_exit_codes(tmp_path: Path) -> None:
    environment = {**os.environ, "ZSERVE_RUN_DIR": str(tmp_path / "none")}
    assert "Traceback" not in zserve("status", status=1, env=environment)
    zserve("run", status=2)
    assert "no_such_module" in zserve("run", "no_such_module", "--port", "0", status=3, env=environment)


COMMANDS = ["run", "node", "deploy", "status", "routes", "traffic", "shutdown", "keygen", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_there(command: str) -> None:
    done = CliRunner().invoke(cli.zserve, [command, "--help"])
    assert (done.exit_code, done.output.startswith("Usage:")) == (0, True)

"""Stateful backends in real processes: made, configured, checked, replaced and closed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from zserve.control.client import ControlClient
from zserve.errors import ApplicationError, ServeError

from .fabric import Fabric, eventually
from .running import RunningApp

pytestmark = pytest.mark.integration


@pytest.fixture
def running(fabric: Fabric) -> Fabric:
    fabric.start("router")
    fabric.start("gateway")
    fabric.start("worker")
    return fabric


def serve(fabric: Fabric, class_name: str, *init_args: Any, **more: Any) -> None:
    fabric.serve("b", f"app_stateful:{class_name}", is_class=True, init_args=list(init_args), **more)


def get(fabric: Fabric, method: str = "") -> Any:
    headers = {"x-serve-call-method": method} if method else {}
    answer = httpx.get(fabric.gateways[0].http + "/b", headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json() if "json" in answer.headers["content-type"] else answer.text


def replica(fabric: Fabric) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in fabric.call("status")["replicas"] if one["backend"] == "b"]
    assert len(found) == 1
    return found[0]


# --- made and configured ----------------------------------------------------------------------------------------------


def test_arguments_and_user_config_reach_the_instance_and_follow_live(running: Fabric) -> None:
    config = {"user_config": {"threshold": 1}}
    serve(running, "Configured", "a", "b", init_kwargs={"greeting": "hi"}, config=config)
    first = get(running)
    assert (first["names"], first["greeting"], first["config"]) == (["a", "b"], "hi", {"threshold": 1})
    assert first["same"], "constructed and called in one thread"
    running.call("update_backend_config", name="b", config={"user_config": {"threshold": 2}})
    eventually(lambda: get(running)["config"] == {"threshold": 2}, "the new user_config")
    running.call("update_backend_config", name="b", config={"user_config": {"bad": True}})
    eventually(lambda: "this config is bad" in running.logs(), "the failure is in the log")
    last = get(running)
    assert last["config"] == {"threshold": 2}
    assert last["pid"] == first["pid"], "no replica was restarted for it"


def test_async_constructor_and_reconfigure(running: Fabric) -> None:
    serve(running, "AsyncConfigured", 100, config={"user_config": {"step": 5}})
    assert [get(running)["count"] for _ in range(2)] == [105, 110]
    running.call("update_backend_config", name="b", config={"user_config": {"step": -1000}})
    eventually(lambda: get(running)["count"] < 0, "the new step")


def test_a_user_config_that_nobody_takes_is_an_error(running: Fabric) -> None:
    with pytest.raises(ApplicationError, match=r"no reconfigure\(config\)"):
        serve(running, "NotConfigurable", config={"user_config": {"a": 1}})


def test_a_user_config_that_is_refused_at_the_start(running: Fabric) -> None:
    with pytest.raises(ApplicationError, match="this config is bad"):
        serve(running, "Configured", config={"user_config": {"bad": True}})


def test_a_constructor_that_hangs_is_told(running: Fabric) -> None:
    running.call("create_backend", name="b", code="app_stateful:Hangs", version="1", is_class=True)
    with (
        ControlClient(running.routers[0].address) as client,
        pytest.raises(ServeError, match=r"0 of 1 replicas are up .*starting for \d+ s"),
    ):
        client.call("wait_backend", {"name": "b", "timeout_s": 1.0}, timeout_s=20.0)
    found = replica(running)
    assert found["state"] == "starting"
    assert found["reason"].startswith("starting for ")


# --- checked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_name", ["Patient", "AsyncPatient"])
@pytest.mark.parametrize("word", ["the model is gone", "false"])
def test_a_replica_that_is_not_well_is_replaced(running: Fabric, tmp_path: Path, class_name: str, word: str) -> None:
    serve(running, class_name, str(tmp_path), config={"health_check_period": 0.1})
    pid = get(running)["pid"]
    checks = tmp_path / "checks"
    eventually(lambda: checks.exists() and len(checks.read_text().split()) >= 2, "it is asked again and again")
    assert get(running)["pid"] == pid, "and goes on while it is well"
    (tmp_path / f"word-{pid}").write_text(word)
    eventually(lambda: get(running)["pid"] != pid, "another one serves")
    found = eventually(lambda: (one := replica(running))["state"] == "ready" and one, "it is ready")
    assert found["restarts"] == 1
    assert "check_health() " in found["reason"]
    assert ("the model is gone" if word != "false" else "returned False") in found["reason"]


def test_a_check_that_does_not_come_back(running: Fabric) -> None:
    serve(running, "Sleeper", config={"health_check_period": 0.1, "health_check_timeout": 0.2})
    eventually(lambda: replica(running)["restarts"] >= 1, "it is replaced")
    assert "has not come back for 0.2 s" in running.logs()


# --- ended ------------------------------------------------------------------------------------------------------------


def test_close_and_del_when_the_backend_is_deleted(running: Fabric, tmp_path: Path) -> None:
    serve(running, "Closing", str(tmp_path))
    running.call("delete_endpoint", name="b")
    running.call("delete_backend", name="b")
    eventually((tmp_path / "deleted").exists, "__del__ is run")
    assert (tmp_path / "closed").read_text() == "in the same thread: True"


def test_close_when_the_fabric_ends(running: Fabric, tmp_path: Path) -> None:
    serve(running, "AsyncClosing", str(tmp_path))
    running.workers[0].stop()
    assert (tmp_path / "closed").read_text() == "closed"


# --- sync and async in one class --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("class_name", "meeting", "single"), [("Mixed", "", "one_by_one"), ("MixedOther", "meet", "")])
def test_sync_methods_one_at_a_time_and_async_ones_together(
    running: Fabric, class_name: str, meeting: str, single: str
) -> None:
    serve(running, class_name)
    with ThreadPoolExecutor(20) as pool:
        met = [pool.submit(get, running, meeting) for _ in range(10)]
        alone = [pool.submit(get, running, single) for _ in range(10)]
        assert [one.result(20) for one in met] == ["met"] * 10
        assert {one.result(20)["most"] for one in alone} == {1}


# --- the documentation ------------------------------------------------------------------------------------------------


def test_the_code_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "app.py").write_text("\n".join(blocks))
    with RunningApp("app", tmp_path) as app, httpx.Client(base_url=app.url, timeout=20) as http:
        assert http.get("/score?x=2").json() == {"score": 1.0, "above": True}
        assert http.get("/mixed").json() == {"total": 0}
        assert http.get("/mixed", headers={"x-serve-call-method": "add"}).json() == {"total": 1}
        refused = http.get("/score", headers={"x-serve-call-method": "close"})
        assert refused.status_code == 404

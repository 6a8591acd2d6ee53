"""``--busy-poll``: it reaches gateways and replicas, and calls come and go with and without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from zserve.nodes.processors import may_poll

from .fabric import Fabric
from .running import RunningApp

pytestmark = pytest.mark.integration

POLLS = """
import gc
import zserve as serve
from zserve.nodes.lead import Lead

@serve.route("/polls")
def polls():
    (lead,) = [thing for thing in gc.get_objects() if isinstance(thing, Lead)]
    return {"allowed": lead._busy_poll.allowed}

@serve.route("/quick")
def quick():
    return "quick"
"""


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "polls_app.py").write_text(POLLS)
    return tmp_path


def allowed(url: str) -> bool:
    """Whether replicas may poll; asked behind calls that are quick enough for it."""
    with httpx.Client(base_url=url, timeout=30.0) as client:
        for _ in range(100):
            assert client.get("/quick").text == "quick"
        answer: dict[str, Any] = client.get("/polls").json()
        return bool(answer["allowed"])


@pytest.mark.parametrize(("argument", "wanted"), [("--busy-poll", may_poll()), ("--no-busy-poll", False)])
def test_run(app_dir: Path, argument: str, wanted: bool) -> None:
    with RunningApp("polls_app", app_dir, argument) as app:
        assert allowed(app.url) == wanted


@pytest.mark.parametrize(("value", "wanted"), [("1", may_poll()), ("0", False)])
def test_a_worker_node(fabric: Fabric, app_dir: Path, value: str, wanted: bool) -> None:
    fabric.start("router")
    gateway = fabric.start("gateway", env={"ZSERVE_BUSY_POLL": value})
    fabric.start("worker", "--app-dir", str(app_dir), env={"ZSERVE_BUSY_POLL": value})
    fabric.serve("polls", "polls_app:polls")
    fabric.serve("quick", "polls_app:quick")
    assert allowed(gateway.http) == wanted

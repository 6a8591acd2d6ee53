"""Several gateways on one port: all of them answer, and neither the end of one nor of all costs a request."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from .fabric import Fabric, eventually
from .load import Load

pytestmark = pytest.mark.integration


def gateways_of(fabric: Fabric) -> dict[str, int]:
    """Name to process id."""
    return {node["name"]: node["pid"] for node in fabric.call("status")["nodes"] if node["role"] == "gateway"}


def test_gateways_that_share_a_port_all_answer_and_are_replaced(fabric: Fabric) -> None:
    fabric.start("router")
    node = fabric.start("gateway", "--gateways", "3")
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    eventually(lambda: len(gateways_of(fabric)) == 3, "three gateways have joined")
    before = gateways_of(fabric)
    assert len(set(before.values()) | {node.process.pid}) == 4
    with Load([node.http], "/hello", clients=16) as load:
        load.wait_for(300)
    assert load.lost == []
    assert set(load.answers) == {200}
    victim, pid = next(iter(before.items()))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gateways_of(fabric).get(victim, pid) != pid, "the one that was killed is back")
    assert httpx.get(node.http + "/hello", timeout=30).text == "hello"
    with Load([node.http], "/hello", clients=8) as load:
        load.wait_for(100)
        assert node.stop(signal.SIGTERM) == 0
    assert set(load.lost) <= {"no base took it"}, "what was taken is answered"
    assert set(load.answers) == {200}
    eventually(lambda: gateways_of(fabric) == {}, "all of them have left")


def test_the_port_of_shared_gateways_is_in_use_for_others(fabric: Fabric) -> None:
    fabric.start("router")
    node = fabric.start("gateway", "--gateways", "2")
    port = node.http.rpartition(":")[2]
    command = [sys.executable, "-m", "zserve", "node", "--role", "gateway", "--join", fabric.routers[0].address]
    for more in ([], ["--gateways", "2"]):
        found = subprocess.run(
            [*command, "--http", f"127.0.0.1:{port}", *more], capture_output=True, text=True, timeout=60
        )
        assert found.returncode != 0
        assert f"port {port} on 127.0.0.1 is in use" in found.stderr


def test_run_with_several_gateways(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "import zserve as serve\n\n@serve.route('/hello')\ndef hello():\n    return 'hi'\n"
    )
    base = Path(tempfile.mkdtemp(prefix="zs-")) / "run"  # a short name: sockets are in it
    environment = {**os.environ, "ZSERVE_RUN_DIR": str(base)}
    zserve = [sys.executable, "-m", "zserve"]
    process = subprocess.Popen(
        [*zserve, "run", "hello", "--port", "0", "--gateways", "2", "--app-dir", str(tmp_path)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert " on http" in line, line + (process.stderr.read() if not line else "")
        url = line.split(" on ")[1].split()[0]
        with Load([url], "/hello", clients=8) as load:
            load.wait_for(100)
        assert load.lost == []
        assert set(load.answers) == {200}
        status = subprocess.run(
            [*zserve, "status", "--json"], env=environment, capture_output=True, text=True, timeout=60
        )
        roles = [node["role"] for node in json.loads(status.stdout)["nodes"]]
        assert roles.count("gateway") == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not base.exists()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        shutil.rmtree(base.parent, ignore_errors=True)

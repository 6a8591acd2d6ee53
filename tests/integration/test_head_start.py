"""A worker node may start a replica process before it knows what that will run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .fabric import APPS, Fabric, eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for children in /proc"),
]

WORKER = """
import sys
from zserve.nodes.options import WorkerOptions
from zserve.nodes.worker import run
sys.exit(run(WorkerOptions(join=[sys.argv[1]], app_dirs=[sys.argv[2]], head_start_s=float(sys.argv[3]))))
"""


def replicas_of(worker: subprocess.Popen[bytes]) -> set[int]:
    """The replica processes that are children of *worker*."""
    pids = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline") for pid in pids}
    return {pid for pid, line in lines.items() if line.exists() and b"zserve.nodes.replica" in line.read_bytes()}


@pytest.mark.parametrize(("seconds", "used"), [(60.0, True), (0.5, False)])
def test_it_becomes_the_first_replica_or_ends(fabric: Fabric, seconds: float, used: bool) -> None:
    router = fabric.start("router")
    gateway = fabric.start("gateway")
    command = [sys.executable, "-c", WORKER, router.address, str(APPS), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0) as worker:
        try:
            eventually(lambda: len(replicas_of(worker)) == 1, "one is started ahead")
            ahead = replicas_of(worker)
            if not used:
                eventually(lambda: not replicas_of(worker), "nobody needed it")
            fabric.serve("pid", "app_basic:pid")
            assert replicas_of(worker) == {int(httpx.get(gateway.http + "/pid", timeout=30.0).text)}
            assert (replicas_of(worker) == ahead) == used
        finally:
            worker.terminate()
            assert worker.wait(30.0) == 0


def test_a_worker_node_that_ends_before_takes_it_along(fabric: Fabric) -> None:
    router = fabric.start("router")
    command = [sys.executable, "-c", WORKER, router.address, str(APPS), "60"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0) as worker:
        try:
            eventually(lambda: len(replicas_of(worker)) == 1, "one is started ahead")
            (ahead,) = replicas_of(worker)
        finally:
            worker.terminate()
            assert worker.wait(30.0) == 0
    assert not Path(f"/proc/{ahead}").exists()

"""Replicas that die in a handler, are stopped or stand still: answered by the rules, replaced, the reason told."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from zserve.nodes.status_view import render_status

from .fabric import Fabric, eventually

pytestmark = pytest.mark.integration

CGROUP = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            for role in ("router", "gateway", "worker"):
                fabric.start(role)
            both = ("GET", "POST")
            fabric.serve("still", "app_dies:stands_still")
            fabric.serve("doomed", "app_dies:doomed", methods=both, config={"num_replicas": 2})
            yield fabric
        finally:
            fabric.close()


class Still:
    """A request that does not come back as long as *file* is there, from the beginning of these tests on."""

    def __init__(self, fabric: Fabric, pool: ThreadPoolExecutor, file: Path) -> None:
        self.file = file
        self.pid = all_ready(fabric, 1, "still")[0]["pid"]
        file.touch()
        url = f"{fabric.gateways[0].http}/still"
        headers = {"X-Request-Timeout-Seconds": "200"}
        self.answer = pool.submit(httpx.get, url, params={"while": str(file)}, headers=headers, timeout=200.0)


@pytest.fixture(scope="module", autouse=True)
def still(fabric: Fabric) -> Iterator[Still]:
    with ThreadPoolExecutor(1) as pool:
        still = Still(fabric, pool, fabric.folder / "while")
        yield still
        still.file.unlink(missing_ok=True)


def replicas(fabric: Fabric, backend: str = "doomed") -> list[dict[str, Any]]:
    return [one for one in fabric.call("status")["replicas"] if one["backend"] == backend]


def all_ready(fabric: Fabric, count: int = 2, backend: str = "doomed") -> list[dict[str, Any]]:
    """The replicas, once there are so many and all are ready and linked."""

    def ready() -> list[dict[str, Any]]:
        found = replicas(fabric, backend)
        well = [one for one in found if one["state"] == "ready" and one["linked"]]
        return found if len(found) == len(well) == count else []

    found: list[dict[str, Any]] = eventually(ready, f"{count} replicas of {backend} are ready", 60.0)
    return found


def restarts(fabric: Fabric) -> int:
    return sum(one["restarts"] for one in replicas(fabric))


def dies(fabric: Fabric, method: str, how: str, tmp_path: Path) -> httpx.Response:
    """One request that ends the first process which runs it."""
    # Another config: what went wrong before is forgiven, so each test waits for its own restart only.
    limit = 1000 + int(time.monotonic() * 1000) % 1_000_000
    fabric.call("update_backend_config", name="doomed", config={"max_queued_requests": limit})
    all_ready(fabric)
    once = tmp_path / f"{how}-{method}"
    once.touch()
    before = restarts(fabric)
    params = {"how": how, "once": str(once)}
    answer = httpx.request(method, f"{fabric.gateways[0].http}/doomed", params=params, timeout=60.0)
    eventually(lambda: restarts(fabric) > before, f"the end of the process is noticed ({how})")
    all_ready(fabric)
    return answer


REASONS = {
    "kill": "was killed by signal 9 (SIGKILL)",
    "exit": "exited with status 7",
    "segfault": "was killed by signal 11 (SIGSEGV): a crash in native code",
    "abort": "was killed by signal 6 (SIGABRT): a crash in native code",
}


@pytest.mark.parametrize("how", REASONS)
def test_a_handler_that_ends_its_process(fabric: Fabric, tmp_path: Path, how: str) -> None:
    pids = {str(one["pid"]) for one in all_ready(fabric)}
    answer = dies(fabric, "POST", how, tmp_path)
    assert answer.status_code == 502
    assert "may have run" in answer.text
    status = fabric.call("status")
    assert REASONS[how] in render_status(status, width=300)
    assert len({str(one["pid"]) for one in replicas(fabric)} - pids) == 1, "one process is new"
    again = dies(fabric, "GET", how, tmp_path)
    assert again.status_code == 200, "another replica has run it"
    assert int(again.text) > 0


def test_sys_exit_is_answered_and_the_process_replaced(fabric: Fabric, tmp_path: Path) -> None:
    answer = dies(fabric, "POST", "sys.exit", tmp_path)
    assert answer.status_code == 500
    assert "the handler called sys.exit(3); its replica ends" in render_status(fabric.call("status"), width=300)


def memory_group(size: int) -> Path | None:
    """A new control group for processes that may not take more than *size* bytes; None where none can be made."""
    for base, limit in ((CGROUP / "memory", "memory.limit_in_bytes"), (CGROUP, "memory.max")):
        group = base / f"zserve-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(size))
        except OSError:
            group.rmdir()
            continue
        with suppress(OSError):  # version 2 counts what was swapped apart
            (group / "memory.swap.max").write_text("0")
        return group
    return None


@contextmanager
def little_memory(size: int) -> Iterator[Path]:
    """The file to write processes to that may not have more than *size* bytes from then on."""
    group = memory_group(size)
    if group is None:
        pytest.skip("needs a control group with a memory limit, so root on Linux")
    try:
        yield group / "cgroup.procs"
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_a_handler_that_takes_all_memory_is_killed_and_said_to_be(fabric: Fabric, tmp_path: Path) -> None:
    with little_memory(100_000_000) as group:
        for one in all_ready(fabric):
            group.write_text(str(one["pid"]))
        try:
            answer = dies(fabric, "POST", "memory", tmp_path)
        finally:
            for one in replicas(fabric):  # those that are left, so that the group can go
                with suppress(OSError):
                    (group.parent.parent / "cgroup.procs").write_text(str(one["pid"]))
        assert answer.status_code == 502
        assert "may have run" in answer.text
        assert "the system ran out of memory" in render_status(fabric.call("status"), width=300)


def test_a_handler_that_is_given_no_more_memory_fails_by_itself(fabric: Fabric, tmp_path: Path) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process are a thing of Linux")
    before = [one["pid"] for one in all_ready(fabric)]
    for pid in before:
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))
    once = tmp_path / "memory"
    once.touch()
    url = f"{fabric.gateways[0].http}/doomed"
    answer = httpx.post(url, params={"how": "memory", "once": str(once)}, timeout=60.0)
    assert answer.status_code == 500
    assert httpx.post(url, params={"how": "", "once": str(once)}, timeout=60.0).status_code == 200
    assert [one["pid"] for one in all_ready(fabric)] == before, "a MemoryError is an error like any other"


def test_one_that_dies_again_and_again_is_started_ever_later(fabric: Fabric) -> None:
    fabric.serve("victim", "app_basic:hello")
    waits = []
    for _ in range(3):
        (replica,) = all_ready(fabric, 1, "victim")
        begin = time.monotonic()
        os.kill(replica["pid"], signal.SIGKILL)
        pid = replica["pid"]
        eventually(lambda pid=pid: all_ready(fabric, 1, "victim")[0]["pid"] != pid, "it is replaced", 60.0)
        waits.append(time.monotonic() - begin)
    assert waits[1] > 0.5
    assert waits[2] > 1.0
    assert replicas(fabric, "victim")[0]["restarts"] == 3
    fabric.call("delete_endpoint", name="victim")
    fabric.call("delete_backend", name="victim")


def not_ready(fabric: Fabric) -> str:
    answer = httpx.get(f"{fabric.gateways[0].http}/-/readyz", timeout=10.0)
    return answer.text if answer.status_code == 503 else ""


def test_readyz_names_a_replica_that_is_stopped(fabric: Fabric) -> None:
    fabric.serve("alone", "app_basic:hello")
    (replica,) = all_ready(fabric, 1, "alone")
    eventually(lambda: "alone" not in not_ready(fabric), "it is ready")
    os.kill(replica["pid"], signal.SIGSTOP)
    try:
        eventually(lambda: f"process {replica['pid']} is stopped (SIGSTOP)" in not_ready(fabric), "it is named", 30.0)
        assert "alone (backend alone: replica alone#0: " in not_ready(fabric)
    finally:
        os.kill(replica["pid"], signal.SIGCONT)
    eventually(lambda: "alone" not in not_ready(fabric), "ready again", 60.0)


def test_readyz_names_a_replica_whose_handler_does_not_return(fabric: Fabric, still: Still) -> None:
    """The last one here: it has taken ten seconds until it is told."""
    who = f"process {still.pid} has finished nothing for"
    text = eventually(lambda: found if who in (found := not_ready(fabric)) else "", "it is named", 60.0)
    assert "no replica is ready for: still (backend still: replica still#0: " in text
    assert who.partition(" has ")[2] in render_status(fabric.call("status"), width=300)
    url = f"{fabric.gateways[0].http}/doomed"
    assert httpx.get(url, params={"once": str(still.file)}).status_code == 200, "others are served"
    still.file.unlink()
    assert still.answer.result(60.0).text == str(still.pid)
    eventually(lambda: not not_ready(fabric), "ready again", 60.0)

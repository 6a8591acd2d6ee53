"""The all-in-one and ``zserve run`` with real processes: they answer, survive, and leave nothing behind."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zserve.nodes.run_directory import find_fabrics

from zserve.control.client import ControlClient
from zserve.errors import ServeError

LIMIT_S = 20.0


HELLO = """
import os, time
import zserve as serve

__serve_hint__ = "curl {url}/hello"

@serve.route("/hello")
def hello():
    return "hello world"

@serve.route("/slow")
def slow(request):
    open(request.args["flag"], "w").close()
    time.sleep(float(request.args["s"]))
    return "done"
"""


class Process:
    """One program and everything that it starts, which all has to end with it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.tree: set[int] = set()

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], LIMIT_S)[0], "says nothing"
        return self.process.stdout.readline().decode()

    def remember_tree(self) -> set[int]:
        """All processes below it."""
        found, todo = set(), [self.process.pid]
        while todo:
            below = children(todo.pop())
            found |= below
            todo.extend(below)
        self.tree |= found
        return found

    def end(self) -> tuple[int, str]:
        """Its exit status and standard error, once it and all that it had started have ended."""
        _, err = self.process.communicate(timeout=LIMIT_S)
        eventually(lambda: not any(alive(pid) for pid in self.tree))
        return self.process.returncode, err.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def children(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, "does not happen"
        time.sleep(0.01)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def pids(address: str) -> dict[str, int]:
    with ControlClient(address) as client:
        return {node["role"]: node["pid"] for node in client.call("status")["nodes"]}


@pytest.fixture
def local() -> Iterator[Callable[..., tuple[Process, dict[str, Any]]]]:
    started: list[Process] = []

    def start(*arguments: str) -> tuple[Process, dict[str, Any]]:
        process = Process("zserve.nodes.local", "--port", "0", "--name", "test", "--log-level", "error", *arguments)
        started.append(process)
        facts = json.loads(process.line())
        process.remember_tree()
        return process, facts

    yield start
    for process in started:
        process.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[Process, str]]]:
    (tmp_path / "hello.py").write_text(HELLO)
    started: list[Process] = []

    def start(*arguments: str) -> tuple[Process, str]:
        process = Process("zserve", "run", "hello", "--port", "0", "--app-dir", str(tmp_path), *arguments)
        started.append(process)
        url = process.line().split(" on ")[1].split()[0]
        process.remember_tree()
        return process, url

    yield start
    for process in started:
        process.close()


pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]


def test_it_answers_and_the_end_of_input_ends_it_without_a_trace(local: Any, run_base: Path) -> None:
    process, facts = local()
    assert set(facts) == {"address", "http", "code_dir", "run_dir"}
    assert get(facts["http"] + "/-/healthz")[0] == 200
    assert [(fabric.name, fabric.http) for fabric in find_fabrics()] == [("test", facts["http"])]
    # Gateway and router, worker node, and maybe the process that waits to become the first replica already.
    assert 2 <= len(process.tree) <= 3
    process.process.stdin.close()
    process.process.stdin = None
    assert process.end() == (0, "")
    assert not run_base.exists()


@pytest.mark.parametrize(("role", "name"), [("gateway", "gateway and router"), ("worker", "worker")])
def test_a_role_that_is_killed_is_started_again_and_the_port_stays_open(local: Any, role: str, name: str) -> None:
    process, facts = local()
    eventually(lambda: len(pids(facts["address"])) == 3)
    first = pids(facts["address"])
    os.kill(first[role], signal.SIGKILL)
    eventually(lambda: not alive(first[role]))
    assert get(facts["http"] + "/-/healthz")[0] == 200  # waits in the backlog rather than being refused

    def replaced() -> bool:
        try:
            now = pids(facts["address"])
        except ServeError:
            return False
        return set(now) == set(first) and now[role] != first[role]

    eventually(replaced)
    process.remember_tree()
    process.process.terminate()
    status, err = process.end()
    assert status == 0, err
    assert f"the {name} was killed by signal 9 (SIGKILL)" in err


def test_nothing_outlives_it_when_it_is_killed(local: Any) -> None:
    process, facts = local()
    process.process.kill()
    status, _ = process.end()
    assert status == -9
    other, _ = local()
    assert not Path(facts["run_dir"]).exists()  # swept
    other.process.terminate()
    assert other.end()[0] == 0


def test_a_port_in_use_is_told_in_the_line(run_base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = Process("zserve.nodes.local", "--port", str(port))
        facts = json.loads(process.line())
        assert (facts["exit"], facts["class"]) == (1, "PortInUse")
        assert f"port {port} " in facts["error"]
        assert process.end() == (1, "")
    assert not run_base.exists()


def test_run_serves_says_how_to_reach_it_and_ends_cleanly(run: Any, run_base: Path) -> None:
    process, url = run()
    assert f"{url}/hello  -> hello" in process.line()
    assert "/slow  -> slow" in process.line()
    assert process.line() == f"try: curl {url}/hello\n"
    assert get(url + "/hello") == (200, "hello world")
    process.process.send_signal(signal.SIGINT)
    status, err = process.end()
    assert (status, err) == (0, "zserve: finishing what runs (Ctrl-C again to stop at once)\n")
    assert not run_base.exists()


def test_ctrl_c_lets_a_request_finish(run: Any, tmp_path: Path) -> None:
    process, url = run()
    flag = tmp_path / "started"
    client = subprocess.Popen(
        [sys.executable, "-c", f"import urllib.request as u; print(u.urlopen('{url}/slow?s=0.5&flag={flag}').read())"],
        stdout=subprocess.PIPE,
    )
    eventually(flag.exists)
    process.process.send_signal(signal.SIGINT)
    assert client.communicate(timeout=LIMIT_S)[0] == b"b'done'\n"
    assert process.end()[0] == 0


def test_a_second_ctrl_c_does_not_wait(run: Any, tmp_path: Path, run_base: Path) -> None:
    process, url = run()
    flag = tmp_path / "started"
    client = subprocess.Popen(
        [sys.executable, "-c", f"import urllib.request as u; u.urlopen('{url}/slow?s=60&flag={flag}')"],
        stderr=subprocess.DEVNULL,
    )
    eventually(flag.exists)
    process.process.send_signal(signal.SIGINT)
    assert process.process.stderr.readline().startswith(b"zserve: finishing")
    process.process.send_signal(signal.SIGINT)
    status, err = process.end()
    assert status == 1
    assert "stopped without waiting" in err
    assert client.wait(LIMIT_S) != 0
    eventually(lambda: not run_base.exists())


def test_nothing_outlives_run_when_it_is_killed(run: Any, run_base: Path) -> None:
    process, _ = run()
    process.process.kill()
    assert process.end()[0] == -9
    eventually(lambda: not run_base.exists())


def test_shutdown_ends_run_with_status_0(run: Any) -> None:
    process, _ = run()
    done = subprocess.run([sys.executable, "-m", "zserve", "shutdown"], capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert process.end() == (0, "")


def test_run_tells_why_a_constructor_fails(tmp_path: Path, run_base: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import zserve as serve\n"
        "@serve.route('/m')\n"
        "class Model:\n"
        "    def __init__(self): raise RuntimeError('no weights')\n"
        "    def __call__(self): return 1\n"
    )
    process = Process("zserve", "run", "app", "--port", "0", "--app-dir", str(tmp_path))
    status, err = process.end()
    assert status == 3
    assert "RuntimeError: no weights" in err
    assert err.count("zserve: error:") == 1
    assert not run_base.exists()

"""A fabric of real processes on loopback for tests: every node started as a user would, and ended without a trace."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx

from zserve.control.client import ControlClient

__all__ = ["APPS", "Fabric", "Node", "eventually", "temporary_fabric"]

APPS = Path(__file__).parent / "apps"
START_S = 30.0


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """The first true result of *condition*, asked again and again; fails the test after *timeout_s*."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            found = condition()
        except (httpx.HTTPError, OSError) as error:
            found, what = None, f"{what} ({error!r})"
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


class Node:
    """One process started with ``zserve node``."""

    def __init__(self, process: subprocess.Popen[str], status_fd: int, log: Path) -> None:
        self.process = process
        self.log = log
        self.facts: dict[str, Any] = {}
        self._status_fd = status_fd
        self._buffer = b""

    def wait_ready(self) -> dict[str, Any]:
        """What the node says once it runs; fails the test with its log if it does not."""
        end = time.monotonic() + START_S
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            readable = select.select([self._status_fd], [], [], max(0.0, left))[0] if left > 0 else []
            data = os.read(self._status_fd, 65536) if readable else b""
            assert data, f"the node did not start:\n{self.log.read_text()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        facts: dict[str, Any] = json.loads(line)
        assert facts["event"] == "ready", f"{facts}\n{self.log.read_text()}"
        self.facts = facts
        return facts

    @property
    def http(self) -> str:
        return str(self.facts["http"])

    @property
    def address(self) -> str:
        return str(self.facts["address"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10.0)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 40.0) -> int:
        """Send a signal and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self.close()
        return status

    def close(self) -> None:
        if self._status_fd >= 0:
            os.close(self._status_fd)
            self._status_fd = -1


class Fabric:
    """Starts nodes and remembers them; :meth:`close` ends whatever still runs."""

    running: ClassVar[list[Fabric]] = []
    """Those that are not closed."""

    def __init__(self, folder: Path, app_dir: Path = APPS) -> None:
        self.running.append(self)
        self.folder = folder
        self.app_dir = app_dir
        self.nodes: list[Node] = []
        self.routers: list[Node] = []
        self.gateways: list[Node] = []
        self.workers: list[Node] = []
        folder.mkdir(exist_ok=True)

    def start(
        self, role: str, *arguments: str, ready: bool = True, env: Mapping[str, str] | None = None, output: int = -1
    ) -> Node:
        """Start ``zserve node --role ROLE``, joined to the routers there are.  *output*: a descriptor that it writes to
        in place of its log."""
        number = len(self.nodes)
        read_fd, write_fd = os.pipe()
        log = self.folder / f"{role}-{number}.log"
        command = [sys.executable, "-m", "zserve", "node", "--role", role, "--name", f"{role}-{number}"]
        if role == "router" and "--bind" not in arguments:
            command += ["--bind", f"ipc://{self.folder}/r{number}"]
        if role == "gateway" and "--http" not in arguments:
            command += ["--http", "127.0.0.1:0"]
        if role == "worker":
            command += ["--app-dir", str(self.app_dir)]
        if "--join" not in arguments:
            for router in self.routers:
                command += ["--join", router.address]
        command += [*arguments, "--status-fd", str(write_fd)]
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file if output < 0 else output,
                stderr=subprocess.STDOUT,
                pass_fds=[write_fd],
                text=True,
                env={**os.environ, **(env or {})},
                process_group=0,
            )
        os.close(write_fd)
        node = Node(process, read_fd, log)
        self.nodes.append(node)
        if ready:
            node.wait_ready()
            {"router": self.routers, "gateway": self.gateways, "worker": self.workers}[role].append(node)
        return node

    def call(self, op: str, router: int = 0, timeout_s: float = 60.0, **args: Any) -> Any:
        """One control call at one of the routers."""
        with ControlClient(self.routers[router].address) as client:
            return client.call(op, args, timeout_s=timeout_s)

    def serve(
        self, name: str, code: str, route: str | None = None, methods: tuple[str, ...] = ("GET",), **backend: Any
    ) -> None:
        """A backend and an endpoint of the same name; returns once it is ready everywhere."""
        backend.setdefault("version", "1")
        self.call("create_backend", name=name, code=code, **backend)
        self.call("create_endpoint", name=name, route=route or f"/{name}", methods=list(methods), backend=name)
        self.call("wait_backend", name=name, timeout_s=60.0)

    def logs(self) -> str:
        return "\n".join(f"--- {node.log.name}\n{node.log.read_text()}" for node in self.nodes)

    def close(self) -> None:
        self.running.remove(self)
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.process.terminate()
        for node in reversed(self.nodes):
            try:
                node.process.wait(20.0)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait(10.0)
            node.close()


@contextmanager
def temporary_fabric() -> Iterator[Fabric]:
    """One without nodes, in a folder of its own; what was started in it has ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            yield fabric
        finally:
            fabric.close()

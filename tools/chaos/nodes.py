"""The fabric under test: nodes as a user starts them, which can be killed, stopped, ended and started again."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zserve.control.client import ControlClient
from zserve.errors import ServeError

from .errors import ChaosError
from .ways import Ways

__all__ = ["Fabric", "Life", "Node"]

APP = Path(__file__).resolve().parent / "app"
START_S = 180.0
_PORTS = range(15_000, 32_000)
STOP_S = 45.0


class Life:
    """One process of a node.  Times are those of ``time.monotonic``; ``end_s`` is inf while it runs.

    killed: by SIGKILL.  leaving_s: when it was asked to end (inf: never).  stops: spans in which it was stopped.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.begin_s = time.monotonic()
        self.leaving_s = float("inf")
        self.end_s = float("inf")
        self.killed = False
        self.stops: list[list[float]] = []

    def stopped_between(self, begin_s: float, end_s: float) -> float:
        """Seconds of a span in which it was stopped."""
        return sum(max(0.0, min(end_s, until) - max(begin_s, since)) for since, until in self.stops)


class Node:
    """A place for one node: the same role, name and address for all its lives."""

    def __init__(self, fabric: Fabric, role: str, number: int, arguments: Sequence[str], port: int = 0) -> None:
        self.role = role
        self.name = f"{role}-{number}"
        self.port = port
        self.address = f"ipc://{fabric.folder}/{self.name}" if role == "router" else ""
        self.lives: list[Life] = []
        self._arguments = list(arguments)
        self._fabric = fabric
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def life(self) -> Life:
        return self.lives[-1]

    @property
    def up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Returns once it says that it is ready.  Raises ChaosError if it does not."""
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "zserve", "node", "--role", self.role, "--name", self.name, "--lifeline"]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments, "--status-fd", str(write_fd)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[write_fd],
                process_group=0,
                env=self._fabric.environment,
            )
        os.close(write_fd)
        self.lives.append(Life(self._process.pid))
        self._fabric.pids[self._process.pid] = self.name
        loop = asyncio.get_running_loop()
        with open(read_fd, "rb", buffering=0) as status:
            said = b""
            end = time.monotonic() + START_S
            while b"\n" not in said:
                data = await loop.run_in_executor(None, _read, status.fileno(), end)
                if not data:
                    await self._tell_where_it_is()
                    raise ChaosError(f"{self.name} did not start:\n{self._fabric.tail(self, 60)}")
                said += data
        facts = json.loads(said.partition(b"\n")[0])
        if facts.get("event") != "ready":
            raise ChaosError(f"{self.name} did not start: {facts.get('error')}")

    async def _tell_where_it_is(self) -> None:
        """A process that hangs writes where it is into its log, and ends."""
        assert self._process is not None
        if self.up:
            self._process.send_signal(signal.SIGABRT)
            await asyncio.get_running_loop().run_in_executor(None, self._process.wait, STOP_S)

    @property
    def log(self) -> Path:
        return self._fabric.folder / f"{self.name}.log"

    def processes(self) -> list[int]:
        """The process of the node and those of its replicas."""
        return [self.life.pid, *children(self.life.pid)]

    def kill(self) -> None:
        """SIGKILL.  Replicas of a worker node notice that it is gone, and end."""
        assert self._process is not None
        self.life.killed = True
        self.life.end_s = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._let_go()

    def stop(self) -> None:
        """SIGSTOP, its replicas too, as if the machine stood still."""
        self.life.stops.append([time.monotonic(), float("inf")])
        for pid in self.processes():
            _signal(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.processes():
            _signal(pid, signal.SIGCONT)
        for span in self.life.stops:
            span[1] = min(span[1], time.monotonic())

    async def leave(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self.life.leaving_s = time.monotonic()
        self._process.terminate()
        try:
            status = await asyncio.get_running_loop().run_in_executor(None, self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            raise ChaosError(f"{self.name} does not end:\n{self._fabric.tail(self)}") from None
        self.life.end_s = time.monotonic()
        self._let_go()
        return int(status)

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


class Fabric:
    """Gateways, routers and worker nodes in *folder*, all links through :attr:`ways`.

    A context manager; whatever happens, nothing of it is left afterwards.
    """

    def __init__(self, folder: Path, *, gateways: int, routers: int, workers: int) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.pids: dict[int, str] = {}
        self.ways = Ways(self._who)
        self.environment = self._environment()
        self.ledger.mkdir()
        joins = [text for number in range(routers) for text in ("--join", f"ipc://{folder}/way-{number}")]
        self.routers = [
            Node(self, "router", number, [*self._place(number), *_without(joins, f"ipc://{folder}/way-{number}")])
            for number in range(routers)
        ]
        self.gateways = []
        for number in range(gateways):
            port = _free_port()
            self.gateways.append(Node(self, "gateway", number, ["--http", f"127.0.0.1:{port}", *joins], port))
        self.workers = [Node(self, "worker", number, ["--app-dir", str(APP), *joins]) for number in range(workers)]
        self.nodes = {node.name: node for node in [*self.routers, *self.gateways, *self.workers]}

    def _place(self, number: int) -> list[str]:
        own, told = f"ipc://{self.folder}/router-{number}", f"ipc://{self.folder}/way-{number}"
        publish = f"ipc://{self.folder}/router-{number}.pub"
        state = str(self.folder / f"state-{number}")
        return ["--bind", own, "--publish", publish, "--advertise", told, "--state-dir", state]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ZSERVE_")}
        kept["PYTHONFAULTHANDLER"] = "1"
        return {**kept, "CHAOS_LEDGER": str(self.ledger), "ZSERVE_RUN_DIR": str(self.folder / "run")}

    def _who(self, pid: int) -> str:
        """The node that a process belongs to."""
        name = self.pids.get(pid)
        if name is None:
            name = self.pids.get(_parent(pid), "")
            if name:
                self.pids[pid] = name  # its parent may be gone when it comes again
        return name

    async def start(self) -> None:
        for number, router in enumerate(self.routers):
            for suffix in ("", ".pub"):
                way, target = self.folder / f"way-{number}{suffix}", self.folder / f"{router.name}{suffix}"
                await self.ways.open(router.name, str(way), str(target))
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    async def call(self, op: str, args: Mapping[str, Any], *, router: int = 0, timeout_s: float = 60.0) -> Any:
        """One control call at a router, past the ways: the operator sits beside it.  Raises ServeError."""
        return await asyncio.get_running_loop().run_in_executor(None, self._call, op, dict(args), router, timeout_s)

    def _call(self, op: str, args: dict[str, Any], router: int, timeout_s: float) -> Any:
        with ControlClient(self.routers[router].address) as client:
            return client.call(op, args, timeout_s=timeout_s)

    async def replicas(self) -> list[dict[str, Any]]:
        """The replicas that run, as the first router that answers lists them, in a fixed order."""
        for router, node in enumerate(self.routers):
            if node.up:
                with suppress(ServeError):
                    found = await self.call("status", {}, router=router, timeout_s=3.0)
                    ready = [one for one in found["replicas"] if one["state"] == "ready" and one["pid"]]
                    return sorted(ready, key=lambda one: (one["backend"], one["index"], one["pid"]))
        return []

    def _is_ours(self, pid: int) -> bool:
        """Whether a process runs and is of this fabric: numbers are given again to others."""
        found = _stat(pid)
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return bool(found) and found[0] not in ("Z", "X") and f"CHAOS_LEDGER={self.ledger}\0".encode() in environment

    def tail(self, node: Node, lines: int = 15) -> str:
        text = node.log.read_text(errors="replace").splitlines() if node.log.exists() else []
        return "\n".join([f"--- {node.name}", *text[-lines:]])

    async def close(self) -> list[int]:
        """End all nodes, gateways first; the processes that were left (and have been killed)."""
        for node in self.nodes.values():
            if node.up:
                node.go_on()
        family = {pid for node in self.nodes.values() if node.up for pid in node.processes()} | self.pids.keys()
        for group in (self.gateways, self.workers, self.routers):
            leaving = [node for node in group if node.up]
            await asyncio.gather(*(node.leave() for node in leaving), return_exceptions=True)
            for node in leaving:
                if node.up:
                    node.kill()
        await self.ways.close()
        end = time.monotonic() + 10.0  # the replicas of a killed worker node finish what they run
        while (left := [pid for pid in sorted(family) if self._is_ours(pid)]) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for pid in left:
            _signal(pid, signal.SIGKILL)
        return left


def _without(joins: Sequence[str], own: str) -> list[str]:
    others = [address for address in joins if address not in ("--join", own)]
    return [text for address in others for text in ("--join", address)]


def _read(fd: int, until: float) -> bytes:
    poll = select.poll()  # there may be more descriptors than select() takes
    poll.register(fd, select.POLLIN)
    if not poll.poll(1e3 * max(0.0, until - time.monotonic())):
        return b""
    return os.read(fd, 65536)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    """One that stays free while a gateway is away: not of those that the system gives to clients."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process; [] if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    found = _stat(pid)
    return int(found[1]) if found else 0


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []

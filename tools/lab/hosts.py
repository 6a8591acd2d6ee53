"""Programs on the hosts of a lab: nodes that stay, commands that end, clients that ask and ask."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from .network import LabError, Network

__all__ = ["APP", "Client", "Hosts", "wait_until"]

APP = Path(__file__).resolve().parent / "app"
START_S = 30.0
COMMAND_S = 30.0
STOP_S = 15.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float) -> tuple[Any, float]:
    """(the first true result of *condition*, seconds that it took).  Raises :class:`LabError` after *timeout_s*."""
    begin = time.monotonic()
    while True:
        try:
            found = condition()
        except LabError as error:
            found, last = None, f" ({error})"
        else:
            last = ""
        took_s = time.monotonic() - begin
        if found:
            return found, took_s
        if took_s > timeout_s:
            raise LabError(f"not within {timeout_s:g} s: {what}{last}")
        time.sleep(0.05)


class Hosts:
    """What runs on the hosts of *network*; logs go to *folder*.  A context manager that ends all of it."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_S
        for _, process in reversed(self._processes):
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_node(self, host: str, role: str, *arguments: str) -> int:
        """Start ``zserve node --role ROLE`` on *host*.  The result is for :meth:`wait_ready`.

        Its standard input is a pipe of ours: should the lab be killed outright, its nodes end.
        """
        name = f"{host}-{role}"
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "zserve", "node", "--role", role, "--name", name, "--insecure", "--lifeline"]
        with self.log(name).open("wb") as output:
            process = subprocess.Popen(
                self.network.inside(host, [*command, *arguments, "--status-fd", str(write_fd)]),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[write_fd],
                process_group=0,  # Ctrl-C is for the lab, which ends them in its own order
                env=self._environment(),
            )
        os.close(write_fd)
        self._processes.append((name, process))
        return read_fd

    def wait_ready(self, status_fd: int) -> None:
        said = b""
        end = time.monotonic() + START_S
        try:
            while b"\n" not in said:
                readable = select.select([status_fd], [], [], max(0.0, end - time.monotonic()))[0]
                data = os.read(status_fd, 65536) if readable else b""
                if not data:
                    raise LabError(f"a node did not start:\n{self.logs()}")
                said += data
        finally:
            os.close(status_fd)
        facts = json.loads(said.partition(b"\n")[0])
        if facts.get("event") != "ready":
            raise LabError(f"a node did not start: {facts.get('error')}")

    def zserve(self, host: str, *arguments: str) -> str:
        """Run a command of ``zserve`` on *host*; what it prints.  Raises :class:`LabError` if it fails."""
        try:
            done = subprocess.run(
                self.network.inside(host, [sys.executable, "-m", "zserve", *arguments]),
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
                stdin=subprocess.DEVNULL,
                process_group=0,
                env=self._environment(),
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"zserve {' '.join(arguments)} on {host}: not over within {COMMAND_S:g} s") from None
        if done.returncode:
            raise LabError(f"zserve {' '.join(arguments)} on {host}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def status(self, host: str, address: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.zserve(host, "status", "--json", "--address", address))
        return found

    def client(self, host: str, url: str, *, clients: int = 2) -> Client:
        """Start asking *url* from *host* without a pause."""
        process = subprocess.Popen(
            self.network.inside(host, [sys.executable, str(Path(__file__).with_name("client.py")), url, str(clients)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self._processes.append((f"{host}-client", process))
        return Client(process)

    def logs(self) -> str:
        """The last lines of every node's log."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found.append("\n".join([f"--- {path.name}", *lines[-15:]]))
        return "\n".join(found)

    def _environment(self) -> dict[str, str]:
        unset = [name for name in os.environ if name.startswith("ZSERVE_")]
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        return {**kept, "ZSERVE_RUN_DIR": str(self.folder / "run")}


class Client:
    """A program that asks one URL again and again (``client.py``), and counts."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def counts(self) -> dict[str, Any]:
        """What has come since the last time: answers by status and by body, the longest time that one took, seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"counts\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], 40.0)[0]:
            raise LabError("a client does not say how many answers it got")
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def stop(self) -> dict[str, Any]:
        """Ends it, once all that was asked is answered; the last counts."""
        found = self.counts()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return found

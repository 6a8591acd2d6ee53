"""Hosts as network namespaces, and cables that can be cut.

Each host is a namespace with one interface, ``eth0``.  The other ends of all cables are in a namespace of their own,
the switch, where two bridges stand for two separate networks: hosts on different bridges cannot reach each other.
Nothing is changed in the network of the machine itself, and when the namespaces are deleted everything is gone.

    host a1 --veth-- [switch: bridge net0] --veth-- host b1        cut(a1): its cable is down
    host a2 --veth-- [        bridge net1]                          partition([a1, a2]): these two move to net1
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["LabError", "Network", "why_not_here"]

PREFIX = "zlab"
_NAME = re.compile(rf"{PREFIX}-(\d+)-\w+")
_COMMAND_S = 10.0


class LabError(Exception):
    """The lab could not be built, or the fabric did not do what it should."""


def why_not_here() -> str:
    """Why this machine cannot have a lab, in words; "" if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs the command ip (Debian and Ubuntu: apt install iproute2)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        try:
            _ip("netns", "exec", probe, "true")
            _ip("-n", probe, "link", "add", "probe0", "type", "bridge")
            _ip("-n", probe, "link", "add", "probe1", "type", "veth", "peer", "name", "probe2")
        finally:
            _ip("netns", "del", probe)
    except LabError as error:
        return f"this machine does not allow network namespaces ({error})"
    return ""


class Network:
    """Hosts by name, with addresses ``10.77.0.1``, ``10.77.0.2`` and so on.  A context manager that leaves nothing."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = list(hosts)
        self._made: list[str] = []

    def address(self, host: str) -> str:
        return f"10.77.0.{self.hosts.index(host) + 1}"

    def namespace(self, host: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{host}"

    def __enter__(self) -> Network:
        sweep()
        try:
            switch = self._add("switch")
            for bridge in ("net0", "net1"):
                _ip("-n", switch, "link", "add", bridge, "type", "bridge")
                _ip("-n", switch, "link", "set", bridge, "up")
            for host in self.hosts:
                name = self._add(host)
                _ip("-n", switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("-n", switch, "link", "set", host, "master", "net0", "up")
                _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _add(self, host: str) -> str:
        name = self.namespace(host)
        _ip("netns", "add", name)
        self._made.append(name)
        return name

    def remove(self) -> None:
        """Delete all namespaces; what still runs in them is killed."""
        while self._made:
            _delete(self._made.pop())

    # --- cables -----------------------------------------------------------------------------------------------------

    def cut(self, host: str) -> None:
        """Pull the cable of *host*."""
        _ip("-n", self.namespace("switch"), "link", "set", host, "down")

    def mend(self, host: str) -> None:
        _ip("-n", self.namespace("switch"), "link", "set", host, "up")

    def partition(self, hosts: Iterable[str]) -> None:
        """From now on *hosts* reach each other only, and so do all others."""
        for host in hosts:
            _ip("-n", self.namespace("switch"), "link", "set", host, "master", "net1")

    def heal(self) -> None:
        """All reach all."""
        for host in self.hosts:
            _ip("-n", self.namespace("switch"), "link", "set", host, "master", "net0")

    def inside(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs *command* on *host* (as the same process: ``ip`` replaces itself)."""
        return ["ip", "netns", "exec", self.namespace(host), *command]


def sweep() -> None:
    """Delete what a lab has left that was killed outright: its process id is in the names."""
    for name in _namespaces():
        match = _NAME.fullmatch(name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            _delete(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*-*"):
        match = _NAME.fullmatch(folder.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _delete(name: str) -> None:
    """A namespace lives on as long as a process is in it, so these go first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = [int(pid) for pid in _ip("netns", "pids", name, check=False).split()]
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        end = time.monotonic() + 1.0
        while pids and time.monotonic() < end and _ip("netns", "pids", name, check=False).strip():
            time.sleep(0.02)
    _ip("netns", "del", name, check=False)


def _ip(*arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            ["ip", *arguments],
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C must not reach the one that cleans up
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"ip {' '.join(arguments)}: no answer within {_COMMAND_S:g} s") from None
    if check and done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout

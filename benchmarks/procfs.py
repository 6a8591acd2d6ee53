"""CPU time and memory of a tree of processes, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process", "busy_seconds", "command_line", "cpu_seconds", "pss_bytes", "table", "tree"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PROC = Path("/proc")


class Process(NamedTuple):
    """One line of the process table.  *ticks* are its own and those of its children that it has waited for."""

    pid: int
    parent: int
    group: int
    session: int
    ticks: int
    started: int
    state: str


def _read(pid: int) -> Process | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        ticks=sum(int(field) for field in fields[11:15]),
        started=int(fields[19]),
        state=fields[0],
    )


def table() -> dict[int, Process]:
    """All processes of this machine by pid; empty where there is no /proc."""
    try:
        names = os.listdir(_PROC)
    except OSError:
        return {}
    found = (_read(int(name)) for name in names if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def tree(leaders: Iterable[int], known: Iterable[Process] = ()) -> list[Process]:
    """The processes that descend from *leaders*, share a session with one of them, or were in the tree before.

    *known* is what an earlier call returned: it keeps those whose parents have gone.
    """
    processes = table()
    roots = set(leaders)
    before = {(process.pid, process.started) for process in known}
    inside = {
        pid
        for pid, process in processes.items()
        if pid in roots or process.session in roots or (pid, process.started) in before
    }
    grown = True
    while grown:
        more = {pid for pid, process in processes.items() if process.parent in inside} - inside
        inside |= more
        grown = bool(more)
    return [processes[pid] for pid in sorted(inside)]


def cpu_seconds(processes: Iterable[Process]) -> float:
    """User and system time together; 10 ms is the resolution of the kernel's accounts."""
    return sum(process.ticks for process in processes) / _TICKS_PER_S


def busy_seconds() -> float:
    """Processor time that the whole machine has used since it started, and what its host took away."""
    try:
        fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, stolen = (int(field) for field in fields[:8])
    return (user + nice + system + interrupts + soft + stolen) / _TICKS_PER_S


def command_line(process: Process) -> str:
    """What it was started with, "" if it is gone."""
    try:
        return (_PROC / str(process.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pss_bytes(processes: Iterable[Process]) -> int:
    """Proportional set size: what is shared by n processes counts 1/n in each."""
    total = 0
    for process in processes:
        try:
            text = (_PROC / str(process.pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
                break
    return total

"""Whether this process has processor time that it may spend on waiting."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["may_poll"]


def may_poll(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> bool:
    """True on two processors or more, unless a control group rations their time: what is spent on waiting is missing
    later then (cgroups(7), ``cpu.max`` of version 2 and ``cpu.cfs_quota_us`` of version 1)."""
    if _processors() < 2:
        return False
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            root, name = cgroups, "cpu.max"
        elif "cpu" in controllers.split(","):
            root, name = cgroups / "cpu", "cpu.cfs_quota_us"
        else:
            continue
        # In a container the path may be that of the host, where nothing of it can be seen but the top.
        group = root / path.lstrip("/")
        while group.is_relative_to(root):
            if _rationed(group / name):
                return False
            group = group.parent
    return True


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rationed(limit: Path) -> bool:
    try:
        quota = limit.read_text().split()[0]
    except (OSError, IndexError):
        return False
    return quota not in ("max", "-1")

"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "package_versions"]


def describe_machine() -> dict[str, Any]:
    """What matters for a comparison: processor, cores, memory, kernel, Python, and how busy it was at the start."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1e6, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_at_start": round(load[0], 2),
    }


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


_ASK = """
import importlib.metadata as m, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def package_versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of *packages* as the interpreter *python* sees them; those that it lacks are left out."""
    answer = subprocess.run(
        [str(python), "-c", _ASK, *packages], stdin=subprocess.DEVNULL, capture_output=True, timeout=60.0, check=True
    )
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions

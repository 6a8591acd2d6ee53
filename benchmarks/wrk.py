"""The closed-loop load generator: wrk, one thread, POST.

A connection sends its next request when it has the answer to the last one, so a slow server is asked less: right for
"how many can it answer", wrong for "how long do clients wait when there is too much"; that is what openloop is for.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from .errors import NotRun
from .site import Probe, Site

__all__ = ["Closed", "find_wrk", "run_wrk", "wrk_version"]

_SCRIPT = """
local file = assert(io.open("%BODY%", "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "%TYPE%"

function done(summary, latency, requests)
  local e = summary.errors
  print(string.format(
    '\\nRESULT {"requests":%d,"duration_us":%d,"errors":%d,"p50":%f,"p90":%f,"p99":%f,"max":%f}',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"""


class Closed(NamedTuple):
    """What wrk saw.  requests: answers, errors among them; latencies in milliseconds."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def find_wrk() -> str:
    """Raises NotRun where wrk is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise NotRun("wrk is not installed (Debian: apt-get install wrk)")
    return path


@functools.cache
def wrk_version() -> str:
    path = shutil.which("wrk")
    if path is None:
        return "not installed"
    answer = subprocess.run([path, "-v"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10.0)
    return ((answer.stdout + answer.stderr).strip().splitlines() or ["unknown"])[0].partition(" [")[0]


def run_wrk(site: Site, probe: Probe, connections: int, seconds: float) -> Closed:
    """Load *site* with *connections* for *seconds* (rounded up to whole ones, which is what wrk can do)."""
    whole = max(1, math.ceil(seconds))
    body = site.folder / "wrk.body"
    body.write_bytes(probe.body)
    script = site.folder / "wrk.lua"
    script.write_text(_SCRIPT.replace("%BODY%", str(body)).replace("%TYPE%", probe.content_type))
    command = [
        find_wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{whole}s",
        "--timeout", "10s", "--script", str(script), f"http://{site.host}{probe.path}",
    ]  # fmt: skip
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=whole + 30.0, cwd=Path("/")
        )
    except subprocess.TimeoutExpired:
        raise NotRun(f"wrk did not end within {whole + 30} s") from None
    found = [line[7:] for line in answer.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        raise NotRun(f"wrk: {(answer.stderr or answer.stdout).strip()[-300:]}")
    result = json.loads(found[0])
    if result["requests"] == 0:
        raise NotRun("wrk got no answer")
    return Closed(
        requests=result["requests"],
        seconds=result["duration_us"] / 1e6,
        errors=result["errors"],
        p50_ms=result["p50"] / 1e3,
        p90_ms=result["p90"] / 1e3,
        p99_ms=result["p99"] / 1e3,
        max_ms=result["max"] / 1e3,
    )

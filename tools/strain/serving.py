"""What the long measurements need: a fabric of real processes, its gateway's counters, and a load of a given rate."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from benchmarks.openloop import Plan, Stream
from tests.integration.fabric import Fabric, Node

__all__ = ["counter", "run_load", "running_fabric", "start_load"]


@contextmanager
def running_fabric(routers: int, gateways: int, workers: int, replicas: int, *gateway_options: str) -> Iterator[Fabric]:
    """``/echo`` on a fabric of so many nodes, on ipc; ended, without a trace, at the end."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            for _ in range(routers):
                fabric.start("router")
            for _ in range(workers):
                fabric.start("worker")
            for _ in range(gateways):
                fabric.start("gateway", *gateway_options)
            fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"), config={"num_replicas": replicas})
            yield fabric
        finally:
            fabric.close()


def start_load(url: str, seconds: float, *, rate: float = 0.0, clients: int = 0) -> subprocess.Popen[bytes]:
    """POSTs of 100 bytes to ``/echo``: *rate* a second from an open loop, or from *clients* of a closed one.  A process
    of its own; :func:`result_of` waits for it."""
    place = urlsplit(url)
    assert place.hostname is not None
    stream = Stream(name="good", path="/echo", body=b"x" * 100, rate=rate, deadline_ms=0.0)
    plan = Plan(host=place.hostname, port=place.port or 80, seconds=seconds, streams=[stream], clients=clients,
                patience_s=10.0)  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.openloop"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(plan))
    process.stdin.close()
    return process


def result_of(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What came of a load, once it is over (see ``zserve.nodes.bench.tally.Outcome``)."""
    assert load.stdout is not None
    text = load.stdout.read()
    if load.wait():
        raise RuntimeError(f"the load generator ended with status {load.returncode}")
    outcome: dict[str, Any] = json.loads(text)["streams"]["good"]
    return outcome


def run_load(url: str, seconds: float, **how: Any) -> dict[str, Any]:
    """:func:`start_load` and its outcome."""
    return result_of(start_load(url, seconds, **how))


def counter(gateway: Node, name: str) -> float:
    """One number of a gateway's ``/-/metrics``."""
    text = httpx.get(gateway.http + "/-/metrics", timeout=30.0).text
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

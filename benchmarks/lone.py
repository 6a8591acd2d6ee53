"""What a pause costs: all of a router's work on one request, back to back, and after a sleep as a lone one finds it.

    python -m benchmarks.lone [--rounds N] [--pause MS]

One process, no sockets: a Request is decoded, admitted, dispatched and its Call encoded; then the Result is decoded
and passed on.  Nothing but the pause differs, so what it adds to the processor time is what the caches, the branch
predictor and the processor's clock have forgotten meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from zserve.cores.router import RouterCore
from zserve.registry.sync import ConfigSync
from zserve.wire.codec import decode, encode
from zserve.wire.messages import VERSION, Confirm, Confirmed, Control, Grant, Hello, NodeInfo, Request, Result

GATEWAY, CLIENT, REPLICA = b"gateway", b"client", b"replica"


def linked_router() -> RouterCore:
    """A router with one endpoint and one replica."""
    wall_ms = _wall_ms
    router = RouterCore(ConfigSync(_info("router"), wall_ms), random.Random(1), wall_ms)
    now = time.monotonic()
    for peer, role, backend in ((GATEWAY, "gateway", ""), (CLIENT, "client", ""), (REPLICA, "replica", "b")):
        router.link_up(peer, Hello(VERSION, VERSION, _info(role), backend, "1" if backend else ""), now)
    for number, (op, args) in enumerate(
        (
            ("create_backend", {"name": "b", "code": "m:f", "version": "1", "config": {}}),
            ("create_endpoint", {"name": "e", "route": "/e", "methods": ["POST"], "backend": "b"}),
        )
    ):
        router.receive(CLIENT, [(Control(number, op, orjson.dumps(args)), b"", b"")], now)
        for message, _, _ in router.out.take().get(GATEWAY, []):
            if isinstance(message, Confirm):
                router.receive(GATEWAY, [(Confirmed(message.key, message.stamp), b"", b"")], now)
    router.receive(REPLICA, [(Grant(1, 1 << 40), b"", b"")], now)
    router.out.take()
    return router


def _info(role: str) -> NodeInfo:
    return NodeInfo(role.encode().ljust(16, b"."), role.encode().ljust(8, b".")[:8], role)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def one_request(router: RouterCore, number: int, head: bytes) -> Callable[[], None]:
    """Its whole way through the router."""
    key = number.to_bytes(16, "big")
    request = encode([(Request(key, "e", budget_us=30_000_000), head, b'{"n": 1}')], in_one=True)
    result = encode([(Result(key, 200), b"", b'{"n": 1}')], in_one=True)

    def run() -> None:
        for peer, frames in ((GATEWAY, request), (REPLICA, result)):
            router.receive(peer, decode(frames), time.monotonic())
            for parcels in router.out.take().values():
                encode(parcels, in_one=True)
            router.next_wakeup()

    return run


def measure(rounds: int, pause_s: float) -> float:
    """Microseconds of processor time of this thread for one request, the median."""
    router = linked_router()
    head = bytes(range(200))
    found = []
    for number in range(rounds):
        run = one_request(router, number, head)
        if pause_s:
            time.sleep(pause_s)
        began = time.thread_time_ns()
        run()
        found.append((time.thread_time_ns() - began) / 1e3)
    return statistics.median(found[rounds // 10 :])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lone", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000, help="requests of each kind (2000)")
    parser.add_argument("--pause", type=float, default=0.5, metavar="MS", help="milliseconds before each (0.5)")
    options = parser.parse_args()
    gc.disable()
    found: dict[str, list[float]] = {"back to back": [], "after a pause": []}
    for _ in range(5):
        found["back to back"].append(measure(options.rounds, 0.0))
        found["after a pause"].append(measure(options.rounds, options.pause / 1e3))
    for name, values in found.items():
        spread = f"{min(values):.1f}..{max(values):.1f}"
        print(f"{name:14s} {statistics.median(values):6.1f} us of processor time a request ({spread})")
    ratio: Any = statistics.median(b / a for a, b in zip(*found.values(), strict=True))
    print(f"a pause of {options.pause:g} ms makes it {ratio:.1f} times as much")


if __name__ == "__main__":
    main()

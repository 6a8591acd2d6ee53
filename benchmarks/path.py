"""Where the time of one request goes: every step of its way, in one process and without sockets.

    python -m benchmarks.path [--requests 1,64] [--rounds N] [--bytecodes]

The real protocol, cores, codec and handler, joined by function calls; so what is left out is the kernel, ZeroMQ, and
what taking turns with other processes costs.  ``--bytecodes`` counts instructions of the interpreter instead, which is
the same on every run of every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from zserve.config import parse_backend_config
from zserve.cores.gateway import GatewayCore
from zserve.cores.replica import ReplicaCore
from zserve.handler.invoke import Handler
from zserve.http.front import HttpFront
from zserve.http.protocol import FabricProtocol
from zserve.http.routes import RouteTable
from zserve.registry.sync import ConfigSync
from zserve.wire.codec import decode, encode
from zserve.wire.messages import VERSION, Hello, NodeInfo

from .lone import GATEWAY, REPLICA, linked_router

ROUTER = b"router"
BODY = b'{"text": "the quick brown fox", "numbers": [1, 2, 3], "flag": true}'
REQUEST = (
    b"POST /e HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)

Step = Callable[[], None]


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50_000)})
        self.answers = 0

    def write(self, data: Any) -> None:
        self.answers += data.startswith(b"HTTP/1.1 200")

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        pass


class _Fabric:
    """Gateway, router and replica of one process, and what is on its way between them."""

    def __init__(self, requests: int, loop: asyncio.AbstractEventLoop) -> None:
        sync = ConfigSync(_info("gateway"), lambda: 1_700_000_000_000)
        self.gateway = GatewayCore(sync, b"p" * 8)
        self.gateway._routes = RouteTable([("e", "/e", ["POST"])])
        self.gateway._routes_generation = sync.registry.generation
        now = time.monotonic()
        self.gateway.link_up(ROUTER, Hello(VERSION, VERSION, _info("router")), now)
        self.front = HttpFront(self.gateway, lambda: None)
        self.front.server_state = state = ServerState()
        state.default_headers = [(b"date", b"Sat, 28 Nov 2026 16:00:00 GMT"), (b"server", b"uvicorn")]
        config = uvicorn.Config(app=lambda scope: None, http=FabricProtocol, lifespan="off")  # type: ignore[arg-type,return-value]
        protocol = type("Protocol", (FabricProtocol,), {"front": self.front})
        self.transports = [_Transport() for _ in range(requests)]
        self.connections = [
            protocol(config=config, server_state=state, app_state={}, _loop=loop) for _ in range(requests)
        ]
        for connection, transport in zip(self.connections, self.transports, strict=True):
            connection.connection_made(transport)
        self.router = linked_router()
        self.handler = Handler(_echo, "b", loop=loop)
        self.replica = ReplicaCore("b", parse_backend_config({"max_concurrent_queries": 1024}))
        self.replica.link_up(ROUTER, Hello(VERSION, VERSION, _info("router")), now)
        self.parcels: list[Any] = []

    def steps(self) -> list[tuple[str, Step]]:
        return [
            ("gateway: parse, match, open, and the head encoded", self.receive),
            ("gateway to router: encode, decode", lambda: self.carry(self.gateway)),
            ("router: draw the backend, admit, queue, dispatch", lambda: self.enter(self.router, GATEWAY)),
            ("router to replica: encode, decode", lambda: self.carry(self.router)),
            ("replica: take in", lambda: self.enter(self.replica, ROUTER)),
            ("replica: call the handler, account, answer", self.run),
            ("replica to router: encode, decode", lambda: self.carry(self.replica)),
            ("router: complete, learn", lambda: self.enter(self.router, REPLICA)),
            ("router to gateway: encode, decode", lambda: self.carry(self.router)),
            ("gateway: find the request, write the answer", self.deliver),
        ]

    def receive(self) -> None:
        for connection in self.connections:
            connection.data_received(REQUEST)

    def settle(self) -> None:
        """What the nodes have to say to each other before the first request."""
        self.carry(self.replica)
        self.enter(self.router, REPLICA)
        for core in (self.gateway, self.router):
            core.out.take()

    def carry(self, core: Any) -> None:
        self.parcels = []
        for parcels in core.out.take().values():
            self.parcels += decode(encode(parcels, in_one=True))

    def enter(self, core: Any, peer: bytes) -> None:
        core.receive(peer, self.parcels, time.monotonic())

    def run(self) -> None:
        while self.replica.runs:
            runs, self.replica.runs = self.replica.runs, []
            done: list[Any] = []
            for run in runs:
                run.claim()
                run.started = time.monotonic()
                answers = self.handler.run(run.calls)
                run.ended = time.monotonic()
                done.append((run, answers))
            self.replica.finished(done, time.monotonic())

    def deliver(self) -> None:
        self.gateway.receive(ROUTER, self.parcels, time.monotonic())
        self.front.deliver()


def _echo(request: Any) -> Any:
    return request.json


def _info(role: str) -> NodeInfo:
    return NodeInfo(role.encode().ljust(16, b"."), role.encode().ljust(8, b".")[:8], role)


def measure(requests: int, rounds: int, bytecodes: bool) -> list[tuple[str, float]]:
    """(step, microseconds or bytecodes of one request), the tenth percentile of all rounds."""
    random.seed(1)
    loop = asyncio.new_event_loop()
    try:
        fabric = _Fabric(requests, loop)
        fabric.settle()
        steps = fabric.steps()
        found: list[list[float]] = [[] for _ in steps]
        for _ in range(rounds):
            for number, (_, step) in enumerate(steps):
                found[number].append((_count(step) if bytecodes else _time(step)) / requests)
        answers = sum([transport.answers for transport in fabric.transports])
        if answers != requests * rounds:
            raise SystemExit(f"{answers} answers for {requests * rounds} requests")
        return [(name, sorted(values)[rounds // 10]) for (name, _), values in zip(steps, found, strict=True)]
    finally:
        loop.close()


def _time(step: Step) -> float:
    began = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - began) / 1e3


def _count(step: Step) -> float:
    count = 0

    def local(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        return local

    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(None)
    return float(count)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", default="1,64", metavar="N,N", help="how many at a time (1,64)")
    parser.add_argument("--rounds", type=int, default=500, help="how often (500)")
    parser.add_argument("--bytecodes", action="store_true", help="count instructions of the interpreter, not time")
    options = parser.parse_args()
    sizes = [int(size) for size in options.requests.split(",")]
    gc.disable()
    rounds = min(options.rounds, 50) if options.bytecodes else options.rounds
    columns = [measure(size, rounds, options.bytecodes) for size in sizes]
    unit = "bytecodes" if options.bytecodes else "microseconds"
    print(f"{unit + ' of one request, among':50s}" + "".join(f"{size:>9,}" for size in sizes))
    for row in zip(*columns, strict=True):
        print(f"{row[0][0]:50s}" + "".join(f"{value:9.1f}" for _, value in row))
    print(f"{'together':50s}" + "".join(f"{sum(value for _, value in column):9.1f}" for column in columns))


if __name__ == "__main__":
    main()

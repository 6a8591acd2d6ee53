"""A request leaves nothing for the cycle collector, whose walks would stop a busy gateway for tens of milliseconds."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from zserve.cores.gateway import GatewayCore
from zserve.http.front import HttpFront
from zserve.http.protocol import FabricProtocol
from zserve.http.routes import RouteTable
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import STREAM_DONE, VERSION, Chunk, Hello, NodeInfo, Request, Result

ROUTER = b"link-with-router"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Bench:
    """One connection of a gateway that is linked with one router."""

    def __init__(self) -> None:
        sync = ConfigSync(NodeInfo(b"g" * 16, b"g" * 8, "gateway"), lambda: 1_700_000_000_000)
        self.core = GatewayCore(sync, b"p" * 8)
        self.core._routes = RouteTable([("e", "/e", ["POST"])])
        self.core._routes_generation = self.core.sync.registry.generation
        self.core.link_up(ROUTER, Hello(VERSION, VERSION, NodeInfo(b"r" * 16, b"r" * 8, "router")), 0.0)
        self.core.out.take()
        self.front = HttpFront(self.core, lambda: None)
        config = uvicorn.Config(app=lambda scope: None, http=FabricProtocol, lifespan="off")  # type: ignore[arg-type,return-value]
        protocol = type("Protocol", (FabricProtocol,), {"front": self.front})
        self.protocol = protocol(config=config, server_state=ServerState(), app_state={})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    def ask(self) -> bytes:
        """A request; the id that it has on the fabric."""
        self.protocol.data_received(b"POST /e?relative_slo_ms=100 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        (message, _, _) = self.core.out.take()[ROUTER][0]
        assert type(message) is Request
        key: bytes = message.id
        return key

    def tell(self, *messages: Any) -> None:
        self.core.receive(ROUTER, [(message, b"", b"body") for message in messages], 0.0)
        self.front.deliver()


@pytest.fixture
def bench() -> Any:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        made = Bench()
        yield made
        made.protocol.timeout_keep_alive_task = None
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_an_answered_request_is_freed_without_the_collector(bench: Bench) -> None:
    bench.tell(Result(bench.ask()))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            bench.tell(Result(bench.ask()))
            bench.tell(Result(bench.ask(), 503, retry_after_us=1_000_000))
        key = bench.ask()
        bench.tell(Result(key, streams=True))
        bench.tell(Chunk(key, 1, STREAM_DONE))
        assert gc.collect() == 0
    finally:
        gc.enable()
    answers = b"".join(bench.transport.written)
    assert answers.count(b"HTTP/1.1 200 OK") == 5
    assert answers.count(b"HTTP/1.1 503") == 3


def test_so_is_one_whose_client_has_gone(bench: Bench) -> None:
    bench.ask()
    exchange = bench.protocol.active
    assert exchange is not None
    assert exchange.flight is not None
    exchange.drop()
    assert exchange.flight is None
    assert bench.core.abandoned == 1

"""Objects that every request looks at keep their attributes where the interpreter finds them without a search.

CPython keeps up to thirty attributes of an object in its class's common layout.  With one more, all of them move into a
dict of its own; each look at one then takes longer, and method calls are not sped up any more (3.11:
SHARED_KEYS_MAX_SIZE in Objects/dictobject.c; Python/specialize.c).  ``__slots__`` do not count.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from zserve.channel.hub import Hub
from zserve.channel.lending import LendingHub
from zserve.config import BackendConfig
from zserve.cores.gateway import GatewayCore
from zserve.cores.replica import ReplicaCore
from zserve.cores.router import RouterCore
from zserve.http.front import HttpFront
from zserve.http.protocol import FabricProtocol
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import NodeInfo

MOST = 30


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def attributes(one: object) -> int:
    return len(getattr(one, "__dict__", {}))


def sync(role: str) -> ConfigSync:
    return ConfigSync(NodeInfo(b"n" * 16, b"b" * 8, role), lambda: 1_700_000_000_000)


def test_a_connection(loop: asyncio.AbstractEventLoop) -> None:
    front = HttpFront(GatewayCore(sync("gateway"), b"p" * 8), lambda: None)
    front.server_state = state = ServerState()
    nothing: Any = lambda scope: None  # noqa: E731
    config = Config(app=nothing, http=FabricProtocol, lifespan="off")
    made: Any = type("Protocol", (FabricProtocol,), {"front": front})
    connection = made(config=config, server_state=state, app_state={}, _loop=loop)

    class Transport(asyncio.Transport):
        pass

    connection.connection_made(Transport({"peername": ("127.0.0.1", 50_000)}))
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Le")
    assert 0 < attributes(connection) <= MOST
    assert attributes(front) <= MOST


def test_the_cores() -> None:
    for core in (
        GatewayCore(sync("gateway"), b"p" * 8),
        RouterCore(sync("router"), random.Random(1), lambda: 0),
        ReplicaCore("b", BackendConfig()),
    ):
        assert attributes(core) <= MOST


def test_the_hub(loop: asyncio.AbstractEventLoop) -> None:
    core: Any = ReplicaCore("b", BackendConfig())
    for made in (Hub, LendingHub):
        hub = made(core, NodeInfo(b"n" * 16, b"b" * 8, "replica"), loop=loop)
        hub._context.term()
        assert 0 < attributes(hub) <= MOST

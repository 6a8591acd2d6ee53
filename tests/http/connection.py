"""Connections of a gateway that is linked with one router, on a clock of the test's."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from zserve.cores.gateway import GatewayCore
from zserve.http.front import HttpFront
from zserve.http.limits import HttpLimits
from zserve.http.protocol import FabricProtocol
from zserve.http.routes import RouteTable
from zserve.http.system import system_pages
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import VERSION, Hello, NodeInfo, Request, Result

__all__ = ["Connection", "Gateway"]

ROUTER = b"link-with-router"


class Connection(asyncio.Transport):
    """One connection: what the client sends, and what it gets."""

    def __init__(self, gateway: Gateway, address: tuple[str, int]) -> None:
        super().__init__({"peername": address})
        self.written = b""
        self.closed = ""
        self.reading = True
        self.protocol: Any = gateway.protocol(
            config=gateway.config, server_state=gateway.front.server_state, app_state={}, _loop=gateway.loop
        )
        self.protocol.connection_made(self)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def answers(self) -> list[int]:
        """The statuses of the answers so far, which are forgotten."""
        found = [int(part[:3]) for part in self.written.split(b"HTTP/1.1 ")[1:]]
        self.written = b""
        return found

    def write(self, data: Any) -> None:
        assert not self.closed, "written to a closed connection"
        self.written += bytes(data)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = "reset"

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = self.closed or "ended"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


class Gateway:
    """A gateway's HTTP side, with the endpoint ``POST /e`` (and GET)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **limits: Any) -> None:
        self.loop = loop
        self.now = 0.0
        sync = ConfigSync(NodeInfo(b"g" * 16, b"g" * 8, "gateway"), lambda: 1_700_000_000_000)
        self.core = GatewayCore(sync, b"p" * 8)
        self.core._routes = RouteTable([("e", "/e", ["GET", "POST"])])
        self.core._routes_generation = self.core.sync.registry.generation
        self.core._informed = True
        self.core.link_up(ROUTER, Hello(VERSION, VERSION, NodeInfo(b"r" * 16, b"r" * 8, "router")), 0.0)
        self.core.out.take()
        self.front = HttpFront(self.core, lambda: None, limits=HttpLimits(**limits), now=lambda: self.now)
        self.front.server_state = ServerState()
        self.config = uvicorn.Config(app=system_pages(self.core, lambda: b""), http=FabricProtocol, lifespan="off")
        self.protocol = type("Protocol", (FabricProtocol,), {"front": self.front})

    def connect(self, host: str = "192.0.2.1") -> Connection:
        return Connection(self, (host, 1024))

    def asked(self) -> list[Request]:
        """The requests that went to the router since the last look."""
        found = self.core.out.take().get(ROUTER, [])
        return [message for message, _, _ in found if type(message) is Request]

    def tell(self, *messages: Any, body: bytes = b"body") -> None:
        self.core.receive(ROUTER, [(message, b"", body) for message in messages], self.now)
        self.front.deliver()

    def answer(self) -> int:
        """Answer all that was asked; how many those were."""
        asked = self.asked()
        self.tell(*(Result(message.id, 200, 1) for message in asked))
        return len(asked)

    def wait(self, seconds: float) -> None:
        """Time passes, and the gateway looks after its connections once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self.front.sweep()

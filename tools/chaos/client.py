"""An HTTP client that lets no answer pass unseen: it tells what came of each request, and what nobody had asked for.

A connection that cannot be made costs nothing: the request goes to the next gateway, as a load balancer would do it.
What was sent is never sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httptools

from .nodes import Node
from .requests import Record, request_bytes

__all__ = ["Client"]

CONNECT_S = 2.0
PATIENCE_S = 40.0
"""How much longer than its deadline a request is waited for, before it counts as never answered."""
_TRIES = 400
_PAUSE_S = 0.05


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, client: Client, gateway: Node) -> None:
        self.gateway = gateway
        self.pid = gateway.life.pid
        self.transport: Any = None
        self.closed = False
        self.used = False
        self._client = client
        self._parser: Any = None
        self._record: Record | None = None
        self._done: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._echo = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    async def ask(self, record: Record) -> None:
        """Send it, and return when the answer has come to its end or the connection has."""
        self._record = record
        self._done = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._echo = b""
        record.gateway, record.served_by, record.fresh = self.gateway.name, self.pid, not self.used
        self.used = True
        record.sent_s = time.monotonic()
        self.transport.write(request_bytes(record, self.gateway.port))
        try:
            await asyncio.wait_for(self._done, record.deadline_s + PATIENCE_S)
        except TimeoutError:
            record.trouble = f"no answer within {record.deadline_s + PATIENCE_S:g} s"
            self.closed = True
            self.transport.abort()
        record.ended_s = time.monotonic()
        self._record = self._done = None

    def data_received(self, data: bytes) -> None:
        record = self._record
        if record is None or self._done is None or self._done.done():
            self._client.unasked.append(f"{self.gateway.name}: {data[:200]!r}")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}: {data[:100]!r}")
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self._echo = value

    def on_headers_complete(self) -> None:
        record = self._record
        assert record is not None
        record.status = self._parser.get_status_code()
        record.begun_s = time.monotonic()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        record = self._record
        if record is None:
            return
        record.whole = True
        self._judge(record)
        if not self._parser.should_keep_alive():
            self.closed = True
        self._end("")

    def _judge(self, record: Record) -> None:
        text = self._body.decode(errors="replace")
        if record.status == 200:
            expected = "".join(f"{record.key} {n}\n" for n in range(8)) if record.kind.streams else record.key
            record.right = text == expected and self._echo == record.key.encode()
        if not record.right:
            record.text = text[:300]

    def _end(self, trouble: str) -> None:
        if self._record is not None:
            self._record.trouble = trouble
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._end(f"the connection ended ({exc!r})" if exc else "the connection ended")


class Client:
    """Asks one gateway after the other.  unasked: bytes that came although nothing was asked."""

    def __init__(self, gateways: Sequence[Node]) -> None:
        self.unasked: list[str] = []
        self.connect_failures = 0
        self._gateways = list(gateways)
        self._idle: dict[str, list[_Connection]] = {gateway.name: [] for gateway in gateways}
        self._turn = 0

    async def ask(self, record: Record) -> None:
        """What came of it is in *record*."""
        self._turn += 1
        for attempt in range(_TRIES):
            gateway = self._gateways[(self._turn + attempt) % len(self._gateways)]
            connection = await self._connection(gateway)
            if connection is not None:
                await connection.ask(record)
                if not connection.closed:
                    self._idle[gateway.name].append(connection)
                else:
                    connection.transport.close()
                return
            self.connect_failures += 1
            if attempt % len(self._gateways) == len(self._gateways) - 1:
                await asyncio.sleep(_PAUSE_S)
        record.trouble = "no gateway took it"

    async def _connection(self, gateway: Node) -> _Connection | None:
        idle = self._idle[gateway.name]
        while idle:
            connection = idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                return connection
        try:
            async with asyncio.timeout(CONNECT_S):
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, gateway), "127.0.0.1", gateway.port
                )
        except (OSError, TimeoutError):
            return None
        return made

    def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.close()

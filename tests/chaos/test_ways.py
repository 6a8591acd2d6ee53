"""The forwarders that can be cut."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tools.chaos.ways import Ways, pair

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells who is at the other end")

WAY = [pair("gateway-0", "router-0")]


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Something that gives back all it gets, with a way before it; this process passes as gateway-0."""

    def __init__(self, ways: Ways, address: str) -> None:
        self.ways = ways
        self._address = address
        self._connections: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_unix_connection(self._address)
        self._connections.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._connections:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    answering = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        target, address = str(Path(folder) / "target"), str(Path(folder) / "way")
        server = await asyncio.start_unix_server(answer, target)
        ways = Ways(lambda pid: "gateway-0" if pid == os.getpid() else "")
        await ways.open("router-0", address, target)
        echo = Echo(ways, address)
        try:
            yield echo
        finally:
            await ways.close()
            await echo.close()
            server.close()
            await asyncio.wait_for(asyncio.gather(*filter(None, answering)), 30.0)


async def says(reader: asyncio.StreamReader, size: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), 30.0)


async def hears_nothing(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)


def test_all_gets_through_in_both_directions() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.connect()
            sent = os.urandom(5_000_000)  # more than all buffers on the way hold
            writer.write(sent)
            assert await says(reader, len(sent)) == sent

    asyncio.run(main())


def test_a_silent_way_delivers_later_what_was_sent_meanwhile() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.connect()
            writer.write(b"before")
            assert await says(reader, 6) == b"before"
            echo.ways.silence(WAY)
            writer.write(b"meanwhile")
            other_reader, other = await echo.connect()
            other.write(b"new")
            await hears_nothing(reader)
            await hears_nothing(other_reader)
            echo.ways.hear(WAY)
            assert await says(reader, 9) == b"meanwhile"
            assert await says(other_reader, 3) == b"new"

    asyncio.run(main())


def test_another_way_is_not_touched() -> None:
    async def main() -> None:
        async with echoing() as echo:
            echo.ways.silence([pair("gateway-1", "router-0"), pair("gateway-0", "router-1")])
            reader, writer = await echo.connect()
            writer.write(b"through")
            assert await says(reader, 7) == b"through"

    asyncio.run(main())


def test_a_broken_way_ends_connections_and_takes_none() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.connect()
            writer.write(b"before")
            assert await says(reader, 6) == b"before"
            echo.ways.break_off(WAY)
            assert await ends(reader)
            again, _ = await echo.connect()
            assert await ends(again)
            echo.ways.mend(WAY)
            third, third_writer = await echo.connect()
            third_writer.write(b"after")
            assert await says(third, 5) == b"after"

    asyncio.run(main())


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 30.0) == b""
    except ConnectionError:
        return True

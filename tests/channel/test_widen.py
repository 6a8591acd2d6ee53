"""Room for large frames in the kernel's buffers of Unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
import zmq

from zserve.channel.dial import Dial
from zserve.channel.sockets import SEND_BUFFER_BYTES, bind_router, widen


def buffer_of(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_a_unix_socket_gets_room() -> None:
    one, other = socket.socketpair()
    with one, other:
        before = buffer_of(one.fileno())
        widen(one.fileno())
        assert before < buffer_of(one.fileno())
        assert buffer_of(other.fileno()) == before
        assert one.fileno() >= 0, "it is not closed"


def test_tcp_and_what_is_no_socket_are_let_be(tmp_path: Path) -> None:
    with socket.socket() as tcp:
        before = buffer_of(tcp.fileno())
        widen(tcp.fileno())
        assert buffer_of(tcp.fileno()) == before
        closed = os.dup(tcp.fileno())
    os.close(closed)
    widen(closed)
    with (tmp_path / "file").open("wb") as file:
        widen(file.fileno())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")
def test_who_dials_has_it(tmp_path: Path) -> None:
    def unix_sockets() -> set[int]:
        found = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                with socket.socket(fileno=os.dup(int(name))) as one:
                    if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM:
                        found.add(int(name))
            except OSError:
                pass
        return found

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router, address = bind_router(context, f"ipc://{tmp_path}/r", None)
        before = unix_sockets()
        connected = asyncio.Event()
        dial = Dial(
            asyncio.get_running_loop(),
            context,
            address,
            b"d" * 28,
            on_frames=lambda frames: None,
            on_read=lambda: None,
            on_publication=lambda frames: None,
            on_connected=connected.set,
            on_disconnected=lambda: None,
            on_refused=lambda why: None,
        )
        try:
            await asyncio.wait_for(connected.wait(), 10)
            most = max(buffer_of(one) for one in unix_sockets() - before)
            limit = int(Path("/proc/sys/net/core/wmem_max").read_text())
            assert most >= min(SEND_BUFFER_BYTES, limit)
        finally:
            dial.close()
            router.close(0)
            context.destroy(0)

    asyncio.run(main())

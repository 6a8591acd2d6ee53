"""Where few messages come, what they lead to leaves at once; in a crowd it waits for more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from zserve.channel.hub import Hub
from zserve.channel.outbox import Parcel, Peer
from zserve.wire.messages import Grant, Hello, NodeInfo

from .fakes import FakeCore


class Echo(FakeCore):
    """Notes what comes; as a router, sends it back."""

    def __init__(self, echoes: bool) -> None:
        super().__init__()
        self.echoes = echoes
        self.peer: Peer = b""
        self.seen: list[int] = []

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.peer = peer

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        for message, _, _ in parcels:
            if isinstance(message, Grant):
                self.seen.append(message.limit)
                if self.echoes:
                    self.out.send(peer, message)


def test_few_messages_leave_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        near, far = Echo(False), Echo(True)
        gateway = Hub(near, NodeInfo(b"g" * 16, b"b" * 8, "gateway"))
        router = Hub(far, NodeInfo(b"r" * 16, b"b" * 8, "router"), bind=f"ipc://{tmp_path}/r")
        router.start()
        gateway.start()
        gateway.link_beside(router)
        count = 0

        async def exchange(many: int = 1) -> bool:
            """Whether the router had it before the event loop had its turn."""
            nonlocal count
            for _ in range(many):
                count += 1
                near.out.send(near.peer, Grant(1, count))
            gateway.poke_now()
            at_once = len(far.seen) == count
            async with asyncio.timeout(10):
                while len(near.seen) < count:
                    await asyncio.sleep(0)
            return at_once

        async with asyncio.timeout(10):
            while not near.peer:
                await asyncio.sleep(0.001)
        assert not await exchange()
        for _ in range(40):
            await exchange()
        assert await exchange()
        await exchange(10)
        assert not await exchange(), "there is a crowd"
        for _ in range(40):
            await exchange()
        assert await exchange()
        assert near.seen == far.seen == list(range(1, count + 1))
        await gateway.stop("end of test")
        await router.stop("end of test")

    asyncio.run(main())

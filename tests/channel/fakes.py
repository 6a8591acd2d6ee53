"""A core that only remembers."""

from __future__ import annotations

from collections.abc import Sequence

from zserve.channel.outbox import Outbox, Parcel, Peer
from zserve.wire.messages import Hello, NodeInfo, Ping

NODE_A, NODE_B = b"A" * 16, b"B" * 16
BOOT_A, BOOT_B = b"a" * 8, b"b" * 8


def info(node: bytes = NODE_A, boot: bytes = BOOT_A, role: str = "gateway") -> NodeInfo:
    return NodeInfo(node, boot, role)


class FakeCore:
    def __init__(self) -> None:
        self.out = Outbox()
        self.events: list[tuple[object, ...]] = []

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.events.append(("up", peer, hello.info.node))

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        self.events.append(("doubted", peer, cause))

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.events.append(("down", peer, reason))

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        self.events.append(("receive", peer, [message for message, _, _ in parcels]))

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping()

    def tick(self, now: float) -> None:
        pass

    def next_wakeup(self) -> float | None:
        return None

    def routers_known(self) -> Sequence[str]:
        return ()

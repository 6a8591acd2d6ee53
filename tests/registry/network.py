"""An in-memory network for ConfigSync: routers that bind, everybody dials every router that it may reach."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from zserve.channel.outbox import Outbox
from zserve.registry.registry import Registry
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import MIN_VERSION, VERSION, Confirmed, Hello, Message, NodeInfo, Ping

START_MS = 1_700_000_000_000
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Message)


class Node:
    def __init__(self, network: Network, name: str, role: str, skew_ms: int = 0) -> None:
        node = name.encode().ljust(16, b".")
        self.network = network
        self.info = NodeInfo(node, network.rng.randbytes(8), role, name, slots=4)
        if role == "router":
            self.info.address = f"sim://{name}"
        self.skew_ms = skew_ms
        self.out = Outbox()
        self.confirmed: list[Confirmed] = []
        self.sync = ConfigSync(self.info, lambda: network.wall_ms() + self.skew_ms)

    @property
    def registry(self) -> Registry:
        return self.sync.registry

    def receive(self, peer: bytes, message: Any) -> None:
        if not self.sync.receive(peer, message, self.out, self.network.now) and isinstance(message, Confirmed):
            self.confirmed.append(message)

    def tick(self) -> None:
        self.sync.tick(self.out, self.network.now)

    def ping(self, peer: bytes) -> Ping:
        sync = self.sync
        return Ping(
            sync.digest(),
            sync.view_serial,
            leaving=self.info.leaving,
            known=sync.known(peer),
            absent_ms=sync.standing.absent_ms,
        )


class Network:
    """Links are reliable and in order, as ZeroMQ's are while they last; publications may be lost, doubled or late.

    lossy: what may also happen to messages on links, which is worse than in reality.
    """

    def __init__(self, seed: int = 0, *, publish_loss: float = 0.0, lossy: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.publish_loss = publish_loss
        self.lossy = lossy
        self.nodes: dict[str, Node] = {}
        self.sides: dict[str, int] = {}
        self.messages = 0
        self._links: dict[bytes, tuple[str, str]] = {}
        self._sockets = 0
        self._pinged_at = 0.0

    def wall_ms(self) -> int:
        return START_MS + int(self.now * 1000)

    def add(self, name: str, role: str = "router", skew_ms: int = 0, node: Callable[..., Node] = Node) -> Node:
        self.nodes[name] = made = node(self, name, role, skew_ms)
        self.connect()
        return made

    def remove(self, name: str) -> None:
        self._cut(lambda one, other: name in (one, other))
        del self.nodes[name]

    def partition(self, *sides: Iterable[str]) -> None:
        self.sides = {name: number for number, side in enumerate(sides) for name in side}
        self._cut(lambda one, other: self.sides.get(one) != self.sides.get(other))

    def heal(self) -> None:
        self.sides = {}
        self.connect()

    def may_link(self, one: str, other: str) -> bool:
        """Whether *one* dials the router *other*."""
        return True

    def connect(self) -> None:
        """Dial every router that can be reached and is not linked yet, as the hub does by and by."""
        for one, node in self.nodes.items():
            for other, router in self.nodes.items():
                reachable = self.sides.get(one) == self.sides.get(other)
                linked = one == other or (one, other) in self._links.values() or not self.may_link(one, other)
                if router.info.role != "router" or linked or not reachable:
                    continue
                self._sockets += 1
                peer = node.info.node + node.info.boot + self._sockets.to_bytes(4, "big")
                self._links[peer] = (one, other)
                router.sync.link_up(peer, self._hello(node), router.out, self.now)
                node.sync.link_up(peer, self._hello(router), node.out, self.now)

    @staticmethod
    def _hello(node: Node) -> Hello:
        return Hello(VERSION, MIN_VERSION, msgspec.structs.replace(node.info))

    def _cut(self, concerned: Callable[[str, str], bool]) -> None:
        for peer, (one, other) in list(self._links.items()):
            if concerned(one, other):
                del self._links[peer]
                for name in (one, other):
                    self.nodes[name].sync.link_down(peer, self.now)

    def settle(self, turns: int = 50) -> None:
        """Deliver what is under way, and what follows from it, without letting time pass."""
        for _ in range(turns):
            if not self._turn():
                return
        raise AssertionError("the network does not come to rest")

    def run(self, seconds: float, step: float = 0.1) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += step
            for node in self.nodes.values():
                node.tick()
            if self.now - self._pinged_at >= 1.0:
                self._pinged_at = self.now
                for peer, (one, other) in self._links.items():
                    self.nodes[one].out.send(peer, self.nodes[one].ping(peer))
                    self.nodes[other].out.send(peer, self.nodes[other].ping(peer))
            self._turn()

    def _turn(self) -> bool:
        moved = False
        for name, node in list(self.nodes.items()):
            publications = node.out.take_publications()
            for peer, parcels in node.out.take().items():
                ends = self._links.get(peer)
                if ends is None:
                    continue
                target = self.nodes[ends[1] if ends[0] == name else ends[0]]
                for message, _, _ in parcels:
                    if self.rng.random() >= self.lossy:
                        self._deliver(target, peer, message)
                    moved = True
            for peer, (one, other) in list(self._links.items()):
                if other != name:
                    continue
                arriving = [message for message in publications if self.rng.random() >= self.publish_loss]
                if self.publish_loss:
                    arriving += [message for message in arriving if self.rng.random() < 0.1]
                    self.rng.shuffle(arriving)
                for message in arriving:
                    self._deliver(self.nodes[one], peer, message)
                    moved = True
        return moved

    def _deliver(self, target: Node, peer: bytes, message: Any) -> None:
        self.messages += 1
        target.receive(peer, _DECODER.decode(_ENCODER.encode(message)))

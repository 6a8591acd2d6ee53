"""Control clients on the virtual network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from ..channel.outbox import Outbox, Parcel, Peer
from ..wire.messages import Control, ControlReply, Hello, NodeInfo, Ping
from .hub import SimHub
from .nodes import SimNode

if TYPE_CHECKING:
    from .fabric import SimFabric

__all__ = ["Call", "SimClient"]

CALL_TIMEOUT_S = 30.0


class Call:
    """One control call.  ``state``: "waiting", "ok", "refused" (``error`` and ``text`` say how), "unknown" (nothing was
    heard: it may or may not have been done)."""

    __slots__ = ("args", "error", "id", "on_end", "op", "peer", "result", "state", "text", "warnings")

    def __init__(self, number: int, op: str, args: dict[str, Any], peer: Peer) -> None:
        self.id = number
        self.op = op
        self.args = args
        self.peer = peer
        self.state = "waiting"
        self.result: Any = None
        self.warnings: list[str] = []
        self.error = ""
        self.text = ""
        self.on_end: Callable[[Call], None] | None = None


class _ClientCore:
    """Knows the routers it is linked with, and the calls that wait."""

    def __init__(self, client: SimClient) -> None:
        self.out = Outbox()
        self.routers: dict[Peer, Hello] = {}
        self._client = client

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.routers[peer] = hello

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        pass

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.routers.pop(peer, None)
        self._client.lost(peer)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        for message, _, _ in parcels:
            if type(message) is ControlReply:
                self._client.replied(message)

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping()

    def tick(self, now: float) -> None:
        pass

    def next_wakeup(self) -> float | None:
        return None

    def routers_known(self) -> Sequence[str]:
        return ()


class SimClient(SimNode):
    """Has a link with every router of the start, and asks one of them."""

    role = "client"

    def __init__(self, fabric: SimFabric, name: str) -> None:
        super().__init__(fabric, name)
        self._calls: dict[int, Call] = {}
        self._next_id = 0

    def _build(self, info: NodeInfo, offset_s: float) -> SimHub:
        self._core = _ClientCore(self)
        return SimHub(
            self.fabric.network,
            self._core,
            info,
            self.host,
            join=[router.address for router in self.fabric.routers()],
            follow=False,
            clock_offset_s=offset_s,
        )

    def linked(self) -> dict[Peer, Hello]:
        """The routers that can be asked now."""
        return self._core.routers

    def call(
        self, op: str, args: dict[str, Any], *, peer: Peer = b"", on_end: Callable[[Call], None] | None = None
    ) -> Call | None:
        """Ask the router at the other end of *peer*, or any; None if there is none."""
        if not peer:
            routers = list(self._core.routers)
            if not routers:
                return None
            peer = self.rng.choice(routers)
        self._next_id += 1
        call = self._calls[self._next_id] = Call(self._next_id, op, args, peer)
        call.on_end = on_end
        self._core.out.send(peer, Control(call.id, op, orjson.dumps(args)))
        self.hub.poke()
        timeout_s = float(args.get("timeout_s", 0.0)) + CALL_TIMEOUT_S
        self.fabric.clock.after(timeout_s, self._expired, call)
        return call

    def _expired(self, call: Call) -> None:
        if self._calls.get(call.id) is call:
            self._end(call, "unknown", "no answer in time")

    def lost(self, peer: Peer) -> None:
        """The link is gone, and with it the answers to what was asked on it."""
        for call in [call for call in self._calls.values() if call.peer == peer]:
            self._end(call, "unknown", "the router is gone")

    def replied(self, reply: ControlReply) -> None:
        call = self._calls.get(reply.id)
        if call is None:
            return
        payload = orjson.loads(reply.payload)
        if reply.ok:
            call.result = payload.get("result") if "warnings" in payload else payload
            call.warnings = payload.get("warnings", [])
            self._end(call, "ok", "")
        else:
            call.error = payload["error"]
            self._end(call, "refused", payload["message"])

    def _end(self, call: Call, state: str, text: str) -> None:
        del self._calls[call.id]
        call.state = state
        call.text = text
        if call.on_end is not None:
            call.on_end(call)

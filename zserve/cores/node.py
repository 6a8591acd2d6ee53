"""What every core looks like from its shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..channel.outbox import Outbox, Parcel, Peer
from ..wire.messages import Hello, Ping

__all__ = ["NodeCore"]


class NodeCore(Protocol):
    """Events in, effects out.  ``now`` is seconds of a clock that never goes back.

    The shell calls :meth:`link_up` when HELLO has been exchanged with a peer, :meth:`receive` with what came from it in
    one wire message, :meth:`ping` for the heartbeat to send to it, :meth:`link_doubted` when nothing has been heard
    from it for a while (with what seems to be the cause; again when more is known; with "" once it is heard again),
    :meth:`link_down` when the link has ended for whatever reason, and :meth:`tick` not later than :meth:`next_wakeup`
    says.  After each call it takes what is in :attr:`out`.
    """

    out: Outbox

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None: ...

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None: ...

    def link_down(self, peer: Peer, reason: str, now: float) -> None: ...

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None: ...

    def ping(self, peer: Peer, now: float) -> Ping: ...

    def tick(self, now: float) -> None: ...

    def next_wakeup(self) -> float | None: ...

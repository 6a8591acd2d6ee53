"""Waiting until a write is in force on the nodes that matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..channel.outbox import Peer
from .record import Record

__all__ = ["BARRIER_TIMEOUT_S", "WriteBarrier"]

BARRIER_TIMEOUT_S = 5.0
"""How long a control call waits for nodes that do not confirm, in seconds."""


class WriteBarrier:
    """Which peers have yet to confirm which records.  Over when all have, or have died, or the time is up.

    peers: name for people by peer.
    """

    def __init__(
        self,
        records: Iterable[Record],
        peers: Mapping[Peer, str],
        now: float,
        timeout_s: float = BARRIER_TIMEOUT_S,
    ) -> None:
        stamps = {record.key: record.stamp for record in records}
        self.deadline = now + timeout_s
        self._names = dict(peers)
        self._open: dict[Peer, dict[str, bytes]] = {peer: dict(stamps) for peer in peers} if stamps else {}
        self._expired = False

    @property
    def done(self) -> bool:
        return self._expired or not self._open

    def confirmed(self, peer: Peer, key: str, stamp: bytes) -> bool:
        """*peer* has applied this record.  Returns :attr:`done`."""
        waiting = self._open.get(peer)
        if waiting is not None and waiting.get(key, b"\xff") <= stamp:
            del waiting[key]
            if not waiting:
                del self._open[peer]
        return self.done

    def lost(self, peer: Peer) -> bool:
        """The link with *peer* is gone: nothing to wait for.  Returns :attr:`done`."""
        self._open.pop(peer, None)
        return self.done

    def tick(self, now: float) -> bool:
        """Returns :attr:`done`."""
        if now >= self.deadline:
            self._expired = True
        return self.done

    def laggards(self) -> list[str]:
        """Names of the peers that have not confirmed, sorted."""
        return sorted(self._names[peer] for peer in self._open)

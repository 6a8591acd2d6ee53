"""How far a router may trust what it remembers.

A delete is remembered for :data:`~.registry.TOMBSTONE_MS`.  A router that was away for longer may hold records that
others have deleted and forgotten since; given to them, they would come back.  So such a router begins *in doubt*, with
empty hands: it takes what the others have, as one without a disk does, and its own records are put aside.  It takes
them back only if there is nobody who knows better: no router but those that were away for as long, and of these it is
the one that ran last, or no other router at all.

A router that begins with nothing is *blank*.  Both ask gateways and worker nodes for whatever these still have in
force: the last disk may be gone.  A router that was there all the time asks them only for what is young: what is old,
and not known to it, was deleted long ago, and they were cut off.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..channel.outbox import Peer
from .record import Record
from .registry import TOMBSTONE_MS

__all__ = ["ABSENT_MS", "ALONE_S", "BLANK", "BLANK_S", "JOINING_S", "QUIET_S", "Standing"]

ABSENT_MS = TOMBSTONE_MS - 24 * 3600 * 1000
"""From this absence on a router is in doubt, milliseconds: a day less than a delete is remembered, since clocks differ
and a router notes only now and then that it runs."""
ALONE_S = 10.0
"""How long a router in doubt that was told of no other one waits for one that finds it."""
JOINING_S = 60.0
"""The same for one that was told of others."""
BLANK_S = 60.0
"""How long a router that began with nothing takes whatever gateways and worker nodes have."""
QUIET_S = 5.0
"""How long the routers in doubt wait for another one, behind the last that came."""
BLANK = -1
"""In place of the time when it last ran, from a router that began with nothing."""


class Standing:
    """Certain, in doubt, or blank; of one router.

    absent_ms: 0 if certain, :data:`BLANK`, or when it last ran (milliseconds since the epoch): what it tells others.
    held: the records put aside.  given_up: how many of them it was, once it has turned out that others know better.
    """

    def __init__(self, node: bytes) -> None:
        self.absent_ms = 0
        self.held: list[Record] = []
        self.given_up = 0
        self._node = node
        self._wait_s = 0.0
        self._began_at: float | None = None
        self._joined_at = float("-inf")
        self._others: dict[Peer, tuple[int, bytes] | None] = {}

    def begin(self, absent_ms: int, held: Iterable[Record], wait_s: float) -> None:
        """Not certain from here on: for *wait_s* seconds at least, unless a certain router turns up."""
        self.absent_ms = absent_ms
        self.held = list(held)
        self._wait_s = wait_s
        self._began_at = None

    def certain(self) -> None:
        """This router has its records from a run that ended not long ago."""
        self.absent_ms = 0

    @property
    def in_doubt(self) -> bool:
        return self.absent_ms > 0

    def router_up(self, peer: Peer, now: float) -> None:
        self._others[peer] = None
        self._joined_at = now

    def router_down(self, peer: Peer) -> None:
        self._others.pop(peer, None)

    def heard(self, peer: Peer, node: bytes, absent_ms: int, same: bool) -> bool:
        """Another router's heartbeat; *same*: the two hold the same registry.  True if that ends the doubt: what this
        router has now is what the fabric has."""
        self._others[peer] = (absent_ms, node)
        if self.absent_ms == 0 or absent_ms != 0 or not same:
            return False
        self.absent_ms = 0
        self.given_up = len(self.held)
        self.held = []
        return True

    def tick(self, now: float) -> list[Record]:
        """The records to take back, once it is this router that knows best."""
        if self.absent_ms == 0:
            return []
        if self._began_at is None:
            self._began_at = now
        if now < self._due():
            return []
        own = (self.absent_ms, self._node)
        if any(other is None or other[0] == 0 or other > own for other in self._others.values()):
            return []
        self.absent_ms = 0
        held, self.held = self.held, []
        return held

    def _due(self) -> float:
        assert self._began_at is not None
        if self._others and self.absent_ms != BLANK:
            return self._joined_at + QUIET_S
        return self._began_at + self._wait_s

"""Which routers a node has links with, where it need not have one with each.

Routers are linked with all other routers, so one link is enough to learn of every record and of every router; a few
more are there for speed and for the day when one dies.  Each node chooses by itself, and what it chooses changes only
when one of its choice goes or a router comes that ranks before: rendezvous hashing (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

from ..channel.outbox import Peer
from ..wire.messages import NodeInfo
from .views import Membership

__all__ = ["DEFAULT_MAX_ROUTERS", "PATIENCE_S", "SPARE_S", "Neighbours", "choose_routers"]

DEFAULT_MAX_ROUTERS = 3
"""With three links, two routers may die within the same seconds, and nothing is noticed."""
PATIENCE_S = 3.0
"""A router that there is still no link with after this time gets a stand-in; one whose link has ended, at once."""
SPARE_S = 5.0
"""How long a link that is one too many is kept: the others may have come up only for a moment."""


def choose_routers(
    node: bytes, routers: Iterable[NodeInfo], at_most: int, *, first: bytes = b"", failing: Collection[bytes] = ()
) -> list[NodeInfo]:
    """The routers that *node* (16-byte id) should have links with: *at_most* of those given, all of them for 0.

    Those that leave come last: they are chosen only where there are not enough others.  Those that are *failing* are
    tried again and again, and others are chosen in addition.  *first*, the id of one of them, is chosen before all.
    """
    found = list(routers)
    if at_most <= 0 or len(found) <= at_most:
        return found
    found.sort(key=lambda info: (info.node != first, info.leaving, _rank(node, info.node)))
    chosen: list[NodeInfo] = []
    for info in found:
        if at_most <= 0:
            break
        chosen.append(info)
        at_most -= info.node not in failing
    return chosen


def _rank(node: bytes, router: bytes) -> bytes:
    return hashlib.blake2b(router, key=node[:64], digest_size=8).digest()


class Neighbours:
    """The choice of one node over time: others for those that die, and an end to links that are too many.

    node: its id.  at_most: links that it should have; 0 for one with every router.  first: the id of a router that it
    is linked with in any case.

    While there is no link at all, nothing is known of who is alive: then all routers that were ever known since there
    was one are remembered.
    """

    def __init__(self, node: bytes, at_most: int = 0, first: bytes = b"") -> None:
        self.at_most = at_most
        self.wanted: list[str] = []
        self._node = node
        self._first = first
        self._linked: dict[Peer, bytes] = {}
        self._known: dict[bytes, NodeInfo] = {}
        self._unlinked_since: dict[bytes, float] = {}
        self._spare_since: dict[Peer, float] = {}
        self._version = -1
        self._due = -math.inf

    def link_up(self, peer: Peer, router: bytes) -> None:
        self._linked[peer] = router
        self._unlinked_since.pop(router, None)
        self._due = -math.inf

    def link_down(self, peer: Peer, now: float) -> None:
        router = self._linked.pop(peer, None)
        self._spare_since.pop(peer, None)
        if router is not None and router not in self._linked.values():
            self._unlinked_since[router] = now - PATIENCE_S
        self._due = -math.inf

    def update(self, membership: Membership, now: float) -> None:
        """Choose again, if anything has changed; the addresses are in :attr:`wanted`, in the order of preference."""
        if membership.routers_version == self._version and now < self._due:
            return
        routers = {info.node: info for info in membership.routers() if info.address}
        self._known = routers if self._linked and routers else {**self._known, **routers}
        linked = set(self._linked.values())
        failing = {node for node, since in self._unlinked_since.items() if now - since >= PATIENCE_S}
        chosen = choose_routers(
            self._node, self._known.values(), self.at_most, first=self._first, failing=failing - linked
        )
        nodes = {info.node for info in chosen}
        self._unlinked_since = {
            node: self._unlinked_since.get(node, now) for node in nodes | failing if node not in linked
        }
        self.wanted = [info.address for info in chosen]
        enough = bool(nodes) and nodes <= linked
        self._spare_since = {
            peer: self._spare_since.get(peer, now)
            for peer, node in self._linked.items()
            if self.at_most and enough and node not in nodes
        }
        self._version = membership.routers_version
        self._due = min((at for at in self._times() if at > now), default=math.inf)

    def spare(self, now: float) -> list[Peer]:
        """The links that are not needed: more than enough others have been up for a while."""
        return [peer for peer, since in self._spare_since.items() if now - since >= SPARE_S]

    def next_wakeup(self) -> float | None:
        """When to call :meth:`update`, or :meth:`spare`, again although nothing has happened."""
        return self._due if self.at_most and math.isfinite(self._due) else None

    def _times(self) -> list[float]:
        spare = [since + SPARE_S for since in self._spare_since.values()]
        return spare + [since + PATIENCE_S for since in self._unlinked_since.values()]

"""How views and reports reach nodes that have no link with who wrote them.

Routers pass on what is news to them: views to the routers and worker nodes, reports to the routers, that the one they
had it from has no link with.  Where all routers are linked with each other that is one step, and where all nodes are,
nothing at all.  Nothing goes in circles: each version is news once.

Nothing is ever repeated for safety.  A heartbeat carries a hash over the versions that its sender has, and who has
others names its own in a pull and gets what is newer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from ..channel.outbox import Outbox, Peer
from ..wire.messages import NodeInfo, Report, View, ViewChange
from .reports import Reports
from .views import Membership

__all__ = ["FOLLOWERS", "Relay"]

FOLLOWERS = frozenset(("router", "worker"))
"""Roles that need the views of all routers.  Others need only those of the routers that they have links with."""

Version = tuple[bytes, bytes, int]
"""(node, boot, serial)"""


class Relay:
    """Membership and reports of one node, and what it tells others about them."""

    def __init__(self, membership: Membership, reports: Reports) -> None:
        self._membership = membership
        self._reports = reports
        self._hashed: dict[bool, tuple[tuple[int, int, int], bytes]] = {}

    # --- passing on ---------------------------------------------------------------------------------------------------

    def pass_view_on(
        self, view: View | ViewChange, sender: NodeInfo, links: Iterable[tuple[Peer, NodeInfo]], out: Outbox
    ) -> None:
        told = self._membership.members_of(sender.node, sender.boot)
        for peer, info in links:
            if info.role in FOLLOWERS and info.node not in told and info.node not in (sender.node, view.router):
                out.send(peer, view)

    def pass_report_on(
        self, report: Report, sender: NodeInfo, links: Iterable[tuple[Peer, NodeInfo]], out: Outbox
    ) -> None:
        members_of = self._membership.members_of
        told = members_of(sender.node, sender.boot) if sender.role == "router" else ()
        for peer, info in links:
            if info.role != "router" or info.node in told or info.node == sender.node:
                continue
            if report.worker not in members_of(info.node, info.boot):
                out.send(peer, report)

    # --- repair -------------------------------------------------------------------------------------------------------

    def versions(self, role: str) -> list[Version] | None:
        """What this node has of what a node of *role* follows; None for nothing."""
        if role not in FOLLOWERS:
            return None
        views = self._membership.versions()
        return views + self._reports.versions(self._membership.worker_ids()) if role == "router" else views

    def digest(self, role: str) -> bytes:
        """8 bytes that are the same where :meth:`versions` are; b"" where these are nothing."""
        if role not in FOLLOWERS:
            return b""
        state = (self._membership.version, self._membership.merged, self._reports.version)
        hashed = self._hashed.get(role == "router")
        if hashed is None or hashed[0] != state:
            hashed = self._hashed[role == "router"] = (state, _digest(self.versions(role) or ()))
        return hashed[1]

    def newer(self, known: Iterable[Version], asker: NodeInfo) -> Iterator[View | Report]:
        """What *asker*, who has the versions *known*, lacks; without the own view."""
        if asker.role not in FOLLOWERS:
            return
        serials = {(node, boot): serial for node, boot, serial in known}
        yield from self._membership.newer_than(serials, asker.node)
        if asker.role == "router":
            yield from self._reports.newer_than(serials, self._membership.worker_ids())


def _digest(versions: Iterable[Version]) -> bytes:
    total = 0
    for node, boot, serial in versions:
        text = node + boot + serial.to_bytes(16, "big", signed=True)
        total ^= int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return total.to_bytes(8, "big")

"""Which worker nodes count when a worker node decides what is its own to run."""

from __future__ import annotations

from ..registry.views import Membership
from ..wire.messages import NodeInfo

__all__ = ["GONE_S", "YOUNG_ROUTER_S", "Roster"]

GONE_S = 2.0
"""How long a worker node must be missing from all views before its replicas are placed anew."""
YOUNG_ROUTER_S = 10.0
"""A router linked for less than this may not have been found by every worker node yet: what its view lacks proves
nothing."""


class Roster:
    """The worker nodes by id, as far as the node *own* can judge them.

    Joins and announced leaves count at once.  A node that is merely missing is given a moment, so that a router's
    restart does not make every worker node take over the replicas of all others.  And a node that is cut off, or not
    seen by any router yet, leaves things as they are: it cannot tell who is there, and what others take over from it is
    not its own to run.

    settle_at: when to look again although nothing has happened.
    """

    def __init__(self, own: bytes) -> None:
        self.settle_at: float | None = None
        self.workers: dict[bytes, NodeInfo] = {}
        self._own = own
        self._missing_since: dict[bytes, float] = {}

    def update(self, membership: Membership, now: float, *, leaving: bool = False) -> None:
        """*leaving*: this node is, so what matters is who takes over."""
        self.settle_at = None
        seen = {info.node: info for info in membership.workers()}
        routers = membership.live_routers()
        if leaving:
            others = {node: info for node, info in (seen or self.workers).items() if node != self._own}
            self.workers = others
        elif routers and self._own in seen:
            self.workers = self._with_missing(seen, min(since for _, since in routers), now)

    def _with_missing(self, seen: dict[bytes, NodeInfo], eldest_since: float, now: float) -> dict[bytes, NodeInfo]:
        """*seen*, and those who were there a moment ago and whose absence proves nothing yet."""
        found = dict(seen)
        for node, info in self.workers.items():
            if node in seen or info.leaving:
                self._missing_since.pop(node, None)
                continue
            gone_at = max(self._missing_since.setdefault(node, now) + GONE_S, eldest_since + YOUNG_ROUTER_S)
            if gone_at <= now:
                del self._missing_since[node]
                continue
            found[node] = info
            if self.settle_at is None or gone_at < self.settle_at:
                self.settle_at = gone_at
        return found

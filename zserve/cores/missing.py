"""Replicas that run as far as their worker node knows, and that no router hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..registry.views import Membership

__all__ = ["UNHEARD_S", "Missing"]

UNHEARD_S = 60.0
"""A replica that no router has had a link with for so long is of no use to anyone, and is replaced."""


class Missing:
    """Since when each of them has been missed.

    A link with a silent replica is given up after 5 to 15 s, so whoever is missed was silent even before.  As long as
    this node has no link with a router it cannot tell, and misses nobody.
    """

    __slots__ = ("_since", "_version")

    def __init__(self) -> None:
        self._since: dict[bytes, float] = {}
        self._version = -1

    def stale(self) -> None:
        """There are others to look for than before."""
        self._version = -1

    def look(self, membership: Membership, running: Callable[[], Iterable[bytes]], now: float) -> list[bytes]:
        """Those of *running* that have been missed for too long; each is told once."""
        version = membership.version_of("replica")
        if version != self._version:
            self._version = version
            heard = {info.node for info in membership.replicas()}
            unheard = [node for node in running() if node not in heard] if membership.live_routers() else []
            self._since = {node: self._since.get(node, now) for node in unheard}
        found = [node for node, since in self._since.items() if now >= since + UNHEARD_S]
        for node in found:
            del self._since[node]
        return found

    def next_wakeup(self) -> float | None:
        return min(self._since.values()) + UNHEARD_S if self._since else None

"""Which routers a node has links with, where it need not have one with each.

Routers are linked with all other routers, so one link is enough to learn of every record and of every router; a few
more are there for speed and for the day when one dies.  Each node chooses by itself, and what it chooses changes only
when one of its choice goes or a router comes that ranks before: rendezvous hashing (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..wire.messages import NodeInfo

__all__ = ["choose_routers"]


def choose_routers(node: bytes, routers: Iterable[NodeInfo], at_most: int) -> list[NodeInfo]:
    """The routers that *node* (16-byte id) should have links with: *at_most* of those given, all of them for 0.

    Those that leave come last: they are chosen only where there are not enough others.
    """
    found = list(routers)
    if at_most <= 0 or len(found) <= at_most:
        return found
    return sorted(found, key=lambda info: (info.leaving, _rank(node, info.node)))[:at_most]


def _rank(node: bytes, router: bytes) -> bytes:
    return hashlib.blake2b(router, key=node[:64], digest_size=8).digest()

"""The request as a router holds it, and what leaves for a replica."""

from __future__ import annotations

import msgspec

__all__ = ["CANCELLED", "DONE", "IN_FLIGHT", "NEW", "NO_DEADLINE", "QUEUED", "Dispatch", "Entry"]

NO_DEADLINE = float("inf")

NEW = 0
"""Not offered yet."""
QUEUED = 1
"""Waits in the heap."""
IN_FLIGHT = 2
"""Sent to a replica, not answered yet."""
CANCELLED = 3
"""Sent to a replica, but nobody waits for it any more; it holds its slot there until the replica says it is over."""
DONE = 4
"""Out of the scheduler: answered, refused, expired, cancelled or handed over."""


class Entry(msgspec.Struct, kw_only=True, order=True, gc=False):
    """One request on one router.  Made with keywords; ordered by (deadline, seq), compared in C.

    The first two fields are the sort key of the heap, which therefore holds the entries themselves and no tuples: a
    million of them stay under 400 bytes each.  ``gc=False`` keeps the collector from walking them; an entry never
    refers to anything that refers back to it.

    deadline: when its answer must be out, seconds of the router's clock; ``inf`` for none.
    id: 16 bytes, unique within the backend's queue.
    endpoint, method, flags, head, body, gateway (the peer to answer), attempt: carried for the router, not read here,
        except that only entries of the same method share a batch.
    priority: class, 0 (first) to 7; others are clamped.
    size: bytes that holding it costs (head and body).
    arrived: when it came, seconds.

    The scheduler's own: ``seq`` (its place among equals, kept when it is sent again), ``state``, ``replica`` (where it
    is in flight, else ``b""``), ``sent_at`` seconds, ``batch`` (number of the batch it left in), ``depth`` (requests in
    flight at the replica when it left, itself included).
    """

    deadline: float = NO_DEADLINE
    seq: int = 0
    id: bytes
    endpoint: str = ""
    priority: int = 0
    method: str = ""
    flags: int = 0
    size: int = 0
    head: bytes = b""
    body: bytes = b""
    gateway: bytes = b""
    arrived: float = 0.0
    attempt: int = 0
    state: int = NEW
    replica: bytes = b""
    sent_at: float = 0.0
    batch: int = 0
    depth: int = 0


class Dispatch(msgspec.Struct, gc=False):
    """Send these to that replica, in this order, as one batch."""

    replica: bytes
    batch_no: int
    entries: list[Entry]

"""Requests on their way into the queues of a router, or past these to a replica."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..channel.outbox import Parcel, Peer
from ..errors import Refusal
from ..scheduling.backend_queue import BackendQueue
from ..scheduling.entry import Entry
from ..wire.messages import FLAG_AGAIN, FLAG_DEFAULT_DEADLINE, FLAG_STREAMS, NO_BUDGET, Call, Request, Return

if TYPE_CHECKING:
    from .router import RouterCore

__all__ = ["SLACK_S", "Intake", "call_of"]

SLACK_S = 0.05
"""How much later than its deadline a request that runs is answered with 504: its answer may be on its way."""


class Intake:
    """The part of a router's core that has to do with requests that come.

    Those that come together are offered together, queue by queue, once all of them are looked at: what they have in
    common is then done once for all.
    """

    def __init__(self, router: RouterCore) -> None:
        self._router = router
        self._taken: dict[BackendQueue, list[Entry]] = {}  # held, and not offered yet

    def arrived(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        """Requests that have come together."""
        router = self._router
        prefix = router.gateways.get(peer)
        if prefix is None:
            router.misplaced += len(parcels)
            return
        if prefix:
            own = [parcel for parcel in parcels if parcel[0].id.startswith(prefix)]
            router.misplaced += len(parcels) - len(own)
            parcels = own
        entries = router.entries
        for message, head, body in parcels:
            known = entries.get(message.id)
            if known is not None:
                known[0].gateway = peer  # it sent it again although we have it: its link is a new one
            elif router.leaving:
                router.out.send(peer, Return([message.id], "this router is shutting down"))
            elif message.flags & FLAG_AGAIN:
                router.inquiries.begin(peer, message, head, body, now)
            else:
                self._draw(peer, message, head, body, now)
        self._offer(now)

    def take_in(self, peer: Peer, message: Request, head: bytes, body: bytes, now: float) -> None:
        """A request that nobody else has."""
        self._draw(peer, message, head, body, now)
        self._offer(now)

    def _draw(self, peer: Peer, message: Request, head: bytes, body: bytes, now: float) -> None:
        """Which backend it goes to."""
        router = self._router
        endpoint = router.endpoints.get(message.endpoint)
        if endpoint is None:
            if not router.parking.park((peer, message, head, body), now):
                text = f"endpoint {message.endpoint!r} is not known here yet"
                router.refuse(peer, message.id, Refusal(503, text, 1.0))
            return
        router.requests += 1
        if not router.retries.full:
            router.retries.earn()
        backend = endpoint.only or endpoint.choose(message.shard)
        queue = router.queues.get(backend) if backend is not None else None
        if queue is None:
            reason = f"endpoint {message.endpoint!r} has no backend; give it one with set_traffic"
            router.refuse(peer, message.id, Refusal(503, reason, 1.0))
            return
        self._hold(queue, peer, message, head, body, now)
        if endpoint.shadowed:
            for shadow in endpoint.draw_shadows():
                shadow_queue = router.queues.get(shadow)
                if shadow_queue is not None:
                    flags = message.flags & ~FLAG_STREAMS  # nobody would take the pieces
                    copy = msgspec.structs.replace(message, id=router.rng.randbytes(16), flags=flags)
                    self._hold(shadow_queue, b"", copy, head, body, now)
        if endpoint.watches:
            self._offer(now, past=False)  # whoever draws for the next one wants to see it in the queue

    def _hold(
        self, queue: BackendQueue, gateway: Peer, message: Request, head: bytes, body: bytes, now: float
    ) -> None:
        """Note it, and that it is to be offered to *queue*."""
        router = self._router
        budget_us = message.budget_us
        key = message.id
        if message.flags & FLAG_DEFAULT_DEADLINE or budget_us == NO_BUDGET:
            slo_ms = queue.config.slo_ms
            if slo_ms is not None:
                budget_us = int(slo_ms * 1000)
        entry = Entry(
            deadline=math.inf if budget_us == NO_BUDGET else now + budget_us * 1e-6,
            id=key,
            endpoint=message.endpoint,
            priority=message.priority,
            method=message.method,
            flags=message.flags,
            size=len(head) + len(body),
            head=head,
            body=body,
            gateway=gateway,
            arrived=now,
        )
        router.entries[key] = (entry, queue)
        if budget_us != message.budget_us:
            router.expiry.add(entry.deadline + SLACK_S, key)
        together = self._taken.get(queue)
        if together is None:
            self._taken[queue] = [entry]
        else:
            together.append(entry)

    def _offer(self, now: float, *, past: bool = True) -> None:
        """To each queue what has come for it: into the heap, or *past* it to a replica at once, if that can be."""
        if not self._taken:
            return
        router = self._router
        taken, self._taken = self._taken, {}
        for queue, entries in taken.items():
            leaving = queue.pass_by(entries, now) if past else ()
            for replica, together in leaving:
                if len(together) == 1:
                    entry = together[0]
                    router.out.send(replica, call_of(entry, entry.batch, 1, now), entry.head, entry.body)
                else:
                    router.out.send_all(replica, [(call_of(e, e.batch, 1, now), e.head, e.body) for e in together])
            if leaving:
                continue
            for entry in entries:
                refusal = queue.offer(entry, now)
                if refusal is not None:
                    del router.entries[entry.id]
                    if entry.gateway:
                        router.refuse(entry.gateway, entry.id, refusal)
            router.touched[queue] = None


def call_of(entry: Entry, batch_no: int, size: int, now: float) -> Call:
    """What a replica is told of *entry*, which leaves in a batch of *size*."""
    left_s = entry.deadline - now
    budget_us = NO_BUDGET if left_s == math.inf else int(left_s * 1e6) if left_s > 0.0 else 0
    waited_us = int((now - entry.arrived) * 1e6) if now > entry.arrived else 0
    return Call(entry.id, batch_no, size, entry.endpoint, budget_us, entry.flags, entry.method, 0, 0, waited_us)

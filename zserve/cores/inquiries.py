"""Requests that must not be run twice, and may have been run: sent before through a router that is gone.

Such a request is dispatched only once every replica that may have it has said that it has not, and will not take it
from anybody else (see :mod:`.recollection`).  If one has it, its answer becomes the answer here.  If one that may have
it cannot be asked, the honest answer is that nobody knows.

Which replicas may have it: those that this router has links with, those that the membership names, and those that went
away since the request was sent first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..channel.outbox import Peer
from ..http.answers import KIND_TEXT, ORIGIN_ROUTER
from ..scheduling.entry import Entry
from ..wire.messages import FLAG_AGAIN, NO_BUDGET, Hello, Recall, Recalled, Request, Result
from .recollection import DOUBT_S

if TYPE_CHECKING:
    from .router import RouterCore

__all__ = ["ANSWER_WITHIN_S", "SETTLED_AFTER_S", "Inquiries", "Inquiry"]

ANSWER_WITHIN_S = 5.0
"""How long the replicas have for their answers, and those that are not linked for coming back."""
SETTLED_AFTER_S = 3.0
"""A router that has just started waits until it has been up for so long: it does not know all replicas before."""
UNREACHABLE_S = 60.0
"""For so long a replica that went away, and whose end no worker node reported, may run somewhere else."""
_ASKABLE_VERSION = 2

_NOT_RUNNING = ("starting", "dead", "failed")
_NEVER = float("inf")


class Inquiry:
    """One request in question.  first_sent: when a gateway sent it for the first time, this node's clock."""

    __slots__ = ("arrived", "body", "first_sent", "gateway", "head", "message", "said", "waiting_for")

    def __init__(self, gateway: Peer, message: Request, head: bytes, body: bytes, now: float) -> None:
        self.gateway = gateway
        self.message = message
        self.head = head
        self.body = body
        self.arrived = now
        self.first_sent = now - message.age_us * 1e-6 - DOUBT_S
        self.waiting_for: set[Peer] = set()
        self.said: set[Peer] = set()


class _Departed:
    """A replica that this router had a link with.  worker: the node id of its worker node."""

    __slots__ = ("at", "worker")

    def __init__(self, at: float, worker: bytes) -> None:
        self.at = at
        self.worker = worker


class Inquiries:
    """The part of a router's core that has to do with requests in question."""

    def __init__(self, router: RouterCore) -> None:
        self.settled_at = _NEVER
        self.fresh: list[Inquiry] = []
        """Those that no replica has been asked about; see :meth:`ask`."""
        self.begun = 0
        self.found = 0
        self.given_up = 0
        self._router = router
        self._open: dict[bytes, Inquiry] = {}
        self._departed: dict[bytes, _Departed] = {}

    def __len__(self) -> int:
        return len(self._open)

    def link_up(self, now: float) -> None:
        """A link of this router is up: with the first one its life begins."""
        if self.settled_at == _NEVER:
            self.settled_at = now + SETTLED_AFTER_S

    def begin(self, gateway: Peer, message: Request, head: bytes, body: bytes, now: float) -> None:
        known = self._open.get(message.id)
        if known is not None:
            known.gateway = gateway  # its link is a new one
            return
        self.begun += 1
        inquiry = self._open[message.id] = Inquiry(gateway, message, head, body, now)
        self.fresh.append(inquiry)

    def ask(self, now: float) -> None:
        """Ask all replicas about what has come since the last time: one message for each of them."""
        fresh = [inquiry for inquiry in self.fresh if inquiry.message.id in self._open]
        self.fresh = []
        if not fresh:
            return
        for peer, hello in self._router.replicas.links():
            self._ask(peer, hello, fresh, now)
        for inquiry in fresh:
            self._consider(inquiry, now)

    def _ask(self, peer: Peer, hello: Hello, inquiries: list[Inquiry], now: float) -> None:
        if hello.version < _ASKABLE_VERSION:
            return
        oldest = min([inquiry.first_sent for inquiry in inquiries]) + DOUBT_S
        message = Recall([inquiry.message.id for inquiry in inquiries], max(0, int((now - oldest) * 1e6)))
        self._router.out.send(peer, message)
        for inquiry in inquiries:
            inquiry.waiting_for.add(peer)

    # --- replicas -----------------------------------------------------------------------------------------------------

    def joined(self, peer: Peer, hello: Hello, now: float) -> None:
        """A link with a replica is up: it can be asked."""
        self._departed.pop(hello.info.node, None)
        if self._open:
            asked = [inquiry for inquiry in self._open.values() if inquiry not in self.fresh]
            if asked:
                self._ask(peer, hello, asked, now)

    def left(self, peer: Peer, hello: Hello, now: float) -> None:
        """A link with a replica is gone, and what it knew with it, unless it comes back."""
        self._departed[hello.info.node] = _Departed(now, hello.info.worker)
        for inquiry in list(self._open.values()):
            inquiry.waiting_for.discard(peer)
            inquiry.said.discard(peer)

    def recalled(self, peer: Peer, message: Recalled, now: float) -> None:
        """A replica answers."""
        for key in message.held:
            inquiry = self._open.get(key)
            if inquiry is not None:
                self._adopt(inquiry, peer, now)
        for key in message.lost:
            inquiry = self._open.get(key)
            if inquiry is not None:
                self._give_up(inquiry, "a replica that may have run it has no answer to give")
        for key in message.unknown:
            inquiry = self._open.get(key)
            if inquiry is not None and peer in inquiry.waiting_for:
                inquiry.waiting_for.remove(peer)
                inquiry.said.add(peer)
                if not inquiry.waiting_for:
                    self._consider(inquiry, now)

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _consider(self, inquiry: Inquiry, now: float) -> None:
        """Dispatch it, if it is certain by now that it has not been run."""
        if now < self.settled_at or inquiry.waiting_for or self._unasked(inquiry):
            return
        lost = self._lost_since(inquiry.first_sent, now)
        if lost:
            self._give_up(inquiry, lost)
            return
        del self._open[inquiry.message.id]
        message = inquiry.message
        budget_us = message.budget_us
        if budget_us != NO_BUDGET:
            budget_us = max(0, budget_us - int((now - inquiry.arrived) * 1e6))
        # A copy: a gateway in the same process may send this very message once more, and has to say so then, too.
        anew = msgspec.structs.replace(message, flags=message.flags & ~FLAG_AGAIN, budget_us=budget_us)
        self._router.intake.take_in(inquiry.gateway, anew, inquiry.head, inquiry.body, now)

    def _unasked(self, inquiry: Inquiry) -> str:
        """Replicas that are there, and have not said anything."""
        linked: set[bytes] = set()
        missing = []
        for peer, hello in self._router.replicas.links():
            linked.add(hello.info.node)
            if peer not in inquiry.said:
                missing.append(hello.info.name or hello.backend)
        others = {info.node: info.name or info.backend for info in self._router.sync.membership.replicas()}
        for _, status in self._router.replicas.statuses():
            if status.state not in _NOT_RUNNING:
                others[status.node] = f"{status.backend}#{status.index}"
        missing += [name for node, name in others.items() if node not in linked and node not in self._departed]
        return ", ".join(missing[:5])

    def _lost_since(self, first_sent: float, now: float) -> str:
        """Why it can not be known, if a replica went away that may have had it."""
        for node, departed in self._departed.items():
            if departed.at >= first_sent:
                return "a replica that may have run it is gone"
            if now - departed.at < UNREACHABLE_S and not self._router.replicas.has_ended(node, departed.worker):
                return "a replica that may have run it can not be reached"
        return ""

    def _adopt(self, inquiry: Inquiry, peer: Peer, now: float) -> None:
        message = inquiry.message
        if not self._router.can_adopt(peer):
            self._give_up(inquiry, "it runs for a backend that is not known here")
            return
        del self._open[message.id]
        self.found += 1
        budget_us = message.budget_us
        deadline = _NEVER if budget_us == NO_BUDGET else inquiry.arrived + budget_us * 1e-6
        entry = Entry(
            id=message.id,
            endpoint=message.endpoint,
            deadline=deadline,
            priority=message.priority,
            method=message.method,
            flags=message.flags,
            size=len(inquiry.head) + len(inquiry.body),
            head=inquiry.head,
            body=inquiry.body,
            gateway=inquiry.gateway,
            arrived=inquiry.arrived,
        )
        self._router.adopt(entry, peer, now)

    def _give_up(self, inquiry: Inquiry, reason: str) -> None:
        del self._open[inquiry.message.id]
        self.given_up += 1
        text = f"the router that had this request is gone; the request may have run: {reason}"
        result = Result(inquiry.message.id, 502, KIND_TEXT, ORIGIN_ROUTER)
        self._router.out.send(inquiry.gateway, result, b"", text.encode())

    # --- the gateways' side -------------------------------------------------------------------------------------------

    def cancel(self, gateway: Peer, key: bytes) -> None:
        """Nobody waits for it any more."""
        inquiry = self._open.get(key)
        if inquiry is not None and inquiry.gateway == gateway:
            del self._open[key]

    def gateway_gone(self, gateway: Peer) -> None:
        for key in [key for key, inquiry in self._open.items() if inquiry.gateway == gateway]:
            del self._open[key]

    def drain(self) -> list[tuple[Peer, bytes]]:
        """All of them go back: (gateway, request id)."""
        returned = [(inquiry.gateway, key) for key, inquiry in self._open.items()]
        self._open.clear()
        return returned

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second."""
        for inquiry in list(self._open.values()):
            self._consider(inquiry, now)
            if inquiry.message.id in self._open and now - max(inquiry.arrived, self.settled_at) > ANSWER_WITHIN_S:
                self._give_up(inquiry, f"nothing was heard from {self._unasked(inquiry) or 'its replica'}")
        for node, departed in list(self._departed.items()):
            if now - departed.at > UNREACHABLE_S:
                del self._departed[node]

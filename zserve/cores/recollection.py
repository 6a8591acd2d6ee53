"""What a replica says when a router asks whether it knows a request; see :mod:`.inquiries` for the router's side.

The answer has to stay true.  So a request that is not known here is *claimed* for the router that asked: should it
still come from another one (the router that was given up may be alive, or have sent it just before it died), it is
turned away.  One that runs, or has run, gets the asking router as a further waiter, a *guest*: it was asked for and
not sent, so it uses none of that router's credit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..channel.outbox import Outbox, Peer
from ..wire.messages import Recall, Recalled, Result

if TYPE_CHECKING:
    from ..handler.recent import RecentAnswers
    from ..handler.runs import HeldCall
    from .replies import Replies
    from .run_table import RunTable

__all__ = ["CLAIM_S", "DOUBT_S", "Recollection"]

CLAIM_S = 60.0
"""How long a claim lasts: by then whatever a router that was given up had sent has arrived, and its link has ended."""
DOUBT_S = 5.0
"""How much older than it says a request may be: as long as a message may be on its way before the link is given up."""
MAX_CLAIMS = 65_536

_NEVER = float("inf")


class Recollection:
    """Events: :meth:`recall`, :meth:`expire`.  Effects: the outbox, and :attr:`claims`."""

    __slots__ = ("_order", "_out", "_recent", "_replies", "_routers", "_table", "claims", "recalled")

    def __init__(
        self,
        out: Outbox,
        replies: Replies,
        table: RunTable,
        recent: RecentAnswers,
        routers: dict[Peer, bytes],
    ) -> None:
        """*routers*: the node ids of the routers there are links with."""
        self.recalled = 0
        self._out = out
        self._replies = replies
        self._table = table
        self._recent = recent
        self._routers = routers
        self.claims: dict[bytes, bytes] = {}
        """By request id, the node id of the only router that it may come from."""
        self._order: deque[tuple[float, bytes]] = deque()

    def recall(self, peer: Peer, message: Recall, now: float) -> None:
        """A router asks.  Requests that have not started are given up in its favour."""
        said = Recalled([], [], [])
        answers: list[bytes] = []
        certain = now - message.age_us * 1e-6 - DOUBT_S > self._recent.forgotten_at
        for request_id in message.ids:
            self.recalled += 1
            call = self._replies.held.get(request_id)
            if call is not None and call.run is not None and call.run.given:
                (said.held if self._attach(peer, call) else said.lost).append(request_id)
            elif request_id in self._recent:
                kept = self._recent.get(request_id) is not None
                (said.held if kept else said.lost).append(request_id)
                if kept:
                    answers.append(request_id)
            elif call is None and not certain:
                said.lost.append(request_id)
            else:
                if call is not None:
                    self._table.give_up(call, "another router has taken this request over")
                self._claim(request_id, self._routers[peer], now)
                said.unknown.append(request_id)
        self._out.send(peer, said)
        for request_id in answers:
            answer = self._recent.get(request_id)
            if answer is not None:
                result = Result(request_id, answer[0], answer[1], answer[4])
                self._out.send(peer, result, answer[2], answer[3])

    def _attach(self, peer: Peer, call: HeldCall) -> bool:
        """Let the router wait for a call that runs; False if it is too late for that."""
        run = call.run
        if run is None or run.streams or self._table.is_stopping(run):
            return False
        if peer in call.waiters:
            if call.cancelled is not None:
                call.cancelled.discard(peer)
        else:
            call.waiters.append(peer)
            self._replies.guests.add((peer, call.id))
        call.unwanted_at = _NEVER
        return True

    def _claim(self, request_id: bytes, router: bytes, now: float) -> None:
        if request_id not in self.claims:
            self._order.append((now, request_id))
            if len(self._order) > MAX_CLAIMS:
                del self.claims[self._order.popleft()[1]]
        self.claims[request_id] = router

    def expire(self, now: float) -> None:
        """Forget claims that have lasted long enough."""
        order = self._order
        while order and order[0][0] < now - CLAIM_S:
            del self.claims[order.popleft()[1]]

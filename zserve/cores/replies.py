"""What a replica owes the routers: for every call one Result or one Return, on each link that it came from."""

from __future__ import annotations

from ..channel.outbox import Outbox, Peer
from ..handler.runs import HeldCall
from ..http.answers import KIND_TEXT, ORIGIN_REPLICA, Answer
from ..scheduling.credits import CreditPool
from ..wire.messages import Grant, Result, Return

__all__ = ["Replies"]


class Replies:
    """Answers calls, and frees the credit of each with it.  *held* are the calls without an answer, by id."""

    __slots__ = ("_credits", "_out", "_returns", "expired", "guests", "held")

    def __init__(self, out: Outbox, pool: CreditPool) -> None:
        self.held: dict[bytes, HeldCall] = {}
        self.guests: set[tuple[Peer, bytes]] = set()
        """Who waits for a call without having sent it, and so without credit for it."""
        self.expired = 0
        self._out = out
        self._credits = pool
        self._returns: dict[Peer, list[bytes]] = {}

    def answer(self, call: HeldCall, answer: Answer, queue_us: int, batch_us: int = 0, run_us: int = 0) -> None:
        """To all that wait for *call*."""
        self.forget(call)
        status, kind, head, body, origin = answer
        for peer in call.waiters:
            self.send(peer, Result(call.id, status, kind, origin, queue_us, batch_us, run_us), head, body)

    def not_run(self, call: HeldCall, now: float) -> None:
        """Answer a call that has not started and will not."""
        if call.deadline <= now:
            self.expired += 1
            text = b"the deadline passed before the request could be run"
            self.answer(call, (504, KIND_TEXT, b"", text, ORIGIN_REPLICA), int((now - call.arrived) * 1e6))
            return
        self.forget(call)
        for peer in call.waiters:
            if call.cancelled is not None and peer in call.cancelled:
                self.refuse(peer, call.id, 499, "cancelled")
            else:
                self.give_back(peer, call.id)

    def forget(self, call: HeldCall) -> None:
        """It holds no slot any more."""
        del self.held[call.id]
        call.run = None  # no cycle: the body is freed now, not when the collector next comes
        for peer in call.gone:
            self.free(peer, call.id)

    def send(self, peer: Peer, result: Result, head: bytes, body: bytes) -> None:
        self.free(peer, result.id)
        self._out.send(peer, result, head, body)

    def free(self, peer: Peer, request_id: bytes) -> None:
        """The credit that *peer* used for the call, if it did."""
        if (peer, request_id) in self.guests:
            self.guests.remove((peer, request_id))
        else:
            self._credits.finished(peer)

    def refuse(self, peer: Peer, request_id: bytes, status: int, text: str) -> None:
        self.send(peer, Result(request_id, status, KIND_TEXT, ORIGIN_REPLICA), b"", text.encode())

    def give_back(self, peer: Peer, request_id: bytes) -> None:
        """It goes to another replica."""
        self.free(peer, request_id)
        self.over_limit(peer, request_id)

    def over_limit(self, peer: Peer, request_id: bytes) -> None:
        """The same for one that was sent without credit."""
        self._returns.setdefault(peer, []).append(request_id)

    def gone(self, peer: Peer) -> None:
        """The link has ended."""
        self._returns.pop(peer, None)

    @property
    def pending(self) -> bool:
        """Whether :meth:`flush` has something to give back."""
        return bool(self._returns)

    def flush(self, now: float, draining: bool, patient: bool = False) -> None:
        """At the end of each group of events: what goes back, and the grants that have changed.

        *patient*: see :meth:`.CreditPool.settle`."""
        if self._returns:
            returns, self._returns = self._returns, {}
            reason = "draining" if draining else "more than was granted"
            for peer, ids in returns.items():
                self._out.send(peer, Return(ids, reason))
        for peer, epoch, limit in self._credits.settle(now, patient=patient):
            self._out.send(peer, Grant(epoch, limit))

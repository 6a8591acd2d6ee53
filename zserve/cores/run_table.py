"""What runs at a replica and what waits to: which run is given to the executor next, and which is stopped."""

from __future__ import annotations

from collections.abc import Callable

from ..channel.outbox import Peer
from ..handler.pace import Pace
from ..handler.runs import HeldCall, Run
from ..scheduling.credits import CreditPool
from .replies import Replies
from .waiting import WaitingRuns, expired_calls

__all__ = ["RunTable"]

_NEVER = float("inf")


class RunTable:
    """Effects: :attr:`runs` for the executor, in this order, and :attr:`aborts`, those that it should ask to stop.

    A class may mix sync and async methods.  Then there are two heaps: a sync run waits for a thread, an async one
    does not.  *asynchronous* is what the main callable is; *is_other* tells the methods that are not (None: all are).
    """

    def __init__(
        self,
        replies: Replies,
        pool: CreditPool,
        pace: Pace,
        *,
        asynchronous: bool,
        is_other: Callable[[str], bool] | None,
    ) -> None:
        self.runs: list[Run] = []
        self.aborts: list[Run] = []
        self.given: dict[Run, None] = {}
        self.waiting = WaitingRuns()
        self.cancelled = 0
        self.largest_batch = 0
        self.mixed = is_other is not None
        self._others = WaitingRuns()
        self._given_others = 0
        self._replies = replies
        self._credits = pool
        self._pace = pace
        self._asynchronous = asynchronous
        self._is_other = is_other

    # --- from the heap to the executor --------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether something waits for :meth:`give`."""
        return bool(self.waiting.heap or self._others.heap)

    def room(self) -> int:
        """How many runs of the main callable may go past the heap."""
        if self.waiting.heap:
            return 0
        return self._pace.runs(self._credits.capacity) - len(self.given) + self._given_others

    def full(self) -> bool:
        """Whether a run of the main callable that came now would have to wait until another one ends."""
        return len(self.given) - self._given_others >= self._pace.at_once(self._credits.capacity)

    def add(self, run: Run) -> None:
        """It waits for its turn."""
        if len(run.calls) > self.largest_batch:
            self.largest_batch = len(run.calls)
        if self._is_other is not None and self._is_other(run.method):
            run.other = True
            self._others.push(run)
        else:
            self.waiting.push(run)

    def give(self, now: float) -> None:
        """Hand over as many runs as the executor should have."""
        capacity, given = self._credits.capacity, self.given
        if self.waiting.heap:
            self._give(self.waiting, self._pace.runs(capacity) + self._given_others, now)
        if self._others.heap:
            before = len(given)
            self._give(self._others, self._pace.other_runs(capacity) + before - self._given_others, now)
            self._given_others += len(given) - before

    def _give(self, waiting: WaitingRuns, limit: int, now: float) -> None:
        given = self.given
        while waiting.heap and len(given) < limit:
            run = waiting.pop()
            if run.deadline <= now:
                for call in expired_calls(run, now):
                    self._replies.not_run(call, now)
            if not run.calls:
                continue
            run.given = now
            given[run] = None
            self.runs.append(run)

    def ended(self, run: Run) -> bool:
        """The executor is done with it; False when it was taken back meanwhile."""
        if self.given.pop(run, run) is run:
            return False
        if run.other:
            self._given_others -= 1
        return True

    def expire(self, now: float) -> None:
        """Answer what has waited past its deadline."""
        for waiting in (self.waiting, self._others):
            if now >= waiting.next_expiry:
                for call in waiting.expire(now):
                    self._replies.not_run(call, now)

    @property
    def next_expiry(self) -> float:
        return min(self.waiting.next_expiry, self._others.next_expiry)

    def drain(self, now: float) -> None:
        """Send back what has not started."""
        for call in self.waiting.clear() + self._others.clear():
            self._replies.not_run(call, now)
        for run in list(self.given):
            self._take_back(run, now)

    def give_up(self, call: HeldCall, reason: str) -> None:
        """Drop a call that has not been given to the executor; whoever waits for it is told."""
        assert call.run is not None
        call.run.calls.remove(call)
        for peer in list(call.waiters):
            self._replies.refuse(peer, call.id, 499, reason)
        call.waiters = []
        self._replies.forget(call)

    # --- nobody waits -----------------------------------------------------------------------------------------------

    def cancel(self, peer: Peer, request_id: bytes, now: float) -> None:
        """*peer* does not want this answer any more."""
        call = self._replies.held.get(request_id)
        if call is None or peer not in call.waiters:
            return
        run = call.run
        if run is not None and not run.given:
            # Not started: the one who cancels gets its Result now.
            for _ in range(call.waiters.count(peer)):
                call.waiters.remove(peer)
                self._replies.refuse(peer, request_id, 499, "cancelled")
        elif call.cancelled is None:
            call.cancelled = {peer}
        else:
            call.cancelled.add(peer)
        self.check_wanted(call, now)

    def link_down(self, peer: Peer, now: float, grace_s: float) -> None:
        """Nobody there waits any more: what has not started is dropped, unless another router sent it too.  What runs
        goes on for *grace_s*, because the gateway may ask for it through another one; but not what was being streamed.
        """
        for call in [held for held in self._replies.held.values() if peer in held.waiters]:
            call.gone = [*call.gone, *[waiter for waiter in call.waiters if waiter == peer]]
            call.waiters = [waiter for waiter in call.waiters if waiter != peer]
            if call.cancelled is not None:
                call.cancelled.discard(peer)
            self.check_wanted(call, now, 0.0 if call.run is not None and call.run.streams else grace_s)

    def check_wanted(self, call: HeldCall, now: float, grace_s: float = 0.0) -> None:
        """Drop, or ask to stop (*grace_s* seconds from now), a call that nobody waits for any more."""
        if any(call.cancelled is None or peer not in call.cancelled for peer in call.waiters):
            return
        if call.unwanted_at != _NEVER:
            return
        self.cancelled += 1
        call.unwanted_at = now + grace_s
        run = call.run
        if run is None:
            return
        if not run.given:
            run.calls.remove(call)
            self._replies.forget(call)
        elif any(other.unwanted_at == _NEVER for other in run.calls) or self._take_back(run, now):
            return
        elif run.unwanted_since() <= now:
            self.stop(run)

    def _take_back(self, run: Run, now: float) -> bool:
        """Answer or return the calls of a run that the executor has not started; False when it has."""
        if not run.claim():
            return False
        self.ended(run)
        for call in run.calls:
            self._replies.not_run(call, now)
        return True

    def stop(self, run: Run) -> None:
        """Ask it to stop: a coroutine is cancelled, a generator is left where it yields; other sync code runs on."""
        if not run.aborted:
            run.aborted = True
            if self._can_stop(run):
                self.aborts.append(run)

    def is_stopping(self, run: Run) -> bool:
        """Whether it was asked to stop, and does."""
        return run.aborted and self._can_stop(run)

    def _can_stop(self, run: Run) -> bool:
        return run.flow is not None or self._is_asynchronous(run)

    def _is_asynchronous(self, run: Run) -> bool:
        return self._asynchronous != run.other

    def look_after(self, now: float, stuck_after_s: float) -> Run | None:
        """Stop what nobody waits for; a sync run that has not stopped *stuck_after_s* seconds later is returned."""
        stuck = None
        for run in list(self.given):
            since = run.unwanted_since()
            if since > now or self._take_back(run, now):
                continue
            self.stop(run)
            if run.started and now - since >= stuck_after_s and not self._is_asynchronous(run):
                stuck = run
        return stuck

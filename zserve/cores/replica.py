"""The replica's decisions: what runs next, how much the routers may send, and one answer for every call.

Theory of operation.  A call goes through three states:

    READY (in a run on the heap) --given--> RUNNING (with the executor) --finished--> answered
      |            |                             |
      expired 504  cancelled 499                 (cancelled or expired: an async run is aborted, a sync one ends itself)
      drained: Return

Runs wait on a heap, earliest deadline first; one without a deadline sorts as if it had a second, so it never starves.
A few more runs than can run at once are given to the executor ahead, so that short functions do not wait for the event
loop between two calls; how many follows from how long the calls take (nothing ahead of calls of over 20 ms, so that an
urgent call never waits behind work of that kind).

Whatever is received is owed one Result (or, while draining, one Return) on the link that it came from; see
:mod:`.replies`, and :mod:`.shortcuts` for those that go straight to their gateway; which run is next,
:mod:`.run_table` decides.  An answer that is streamed goes
on behind its Result, until its last Chunk; see :mod:`.replica_streams`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..channel.outbox import Outbox, Parcel, Peer
from ..config import BackendConfig
from ..handler.pace import Pace
from ..handler.recent import RecentAnswers
from ..handler.runs import HeldCall, Run, run_of
from ..handler.streams import StreamBegin, StreamEnd, StreamPiece
from ..http.answers import KIND_TEXT, ORIGIN_REPLICA, Answer
from ..scheduling.credits import CreditPool
from ..wire.messages import (
    FLAG_IDEMPOTENT,
    NO_BUDGET,
    Call,
    Cancel,
    Consumed,
    Demand,
    Grant,
    Hello,
    Ping,
    Recall,
    Result,
)
from .recollection import Recollection
from .replica_streams import ReplicaStreams
from .replies import Replies
from .run_table import RunTable
from .shortcuts import ID_SIZE, Shortcuts, gateways_beside
from .waiting import PATIENCE_S

if TYPE_CHECKING:
    from ..handler.executor import Done
    from ..registry.sync import ConfigSync

__all__ = ["PATIENCE_S", "SETTLE_S", "ReplicaCore"]

TICK_S = 1.0
RESEND_GRACE_S = 10.0
"""How long a running call whose router died goes on for the gateway's second try, before it is asked to stop."""
SETTLE_S = 2.0
"""How long a replica that drains waits for the routers' word on how many calls they have sent."""
OVER_LIMIT_SLACK = 16
"""Calls beyond a router's grant that are still taken (and counted); more are sent back."""

_NEVER = float("inf")


class ReplicaCore:
    """Events: those of a node, :meth:`finished`, :meth:`drain`, :meth:`fail`.  Effects: the outbox and the lists below.

    runs: give these to the executor, in this order.  aborts: ask the coroutines or generators of these runs to stop.
    exits: reasons why this process has to be replaced.  streams.consumed: how far clients have come with streamed
    answers, for the executor.
    """

    def __init__(
        self,
        backend: str,
        config: BackendConfig | None = None,
        *,
        accepts_batch: bool = False,
        asynchronous: bool = False,
        is_other: Callable[[str], bool] | None = None,
        stuck_after_s: float = 30.0,
        sync: ConfigSync | None = None,
        recent: RecentAnswers | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """*accepts_batch*, *asynchronous*: what the handler is.  *is_other*: of a class that mixes sync and async
        methods, whether the method of that name is not of the kind that *asynchronous* says; None where all are alike.
        *rng* breaks ties between routers (seeded if None)."""
        self.out = Outbox()
        self.exits: list[str] = []
        self.backend = backend
        self.sync = sync
        self.draining = False
        self.finished_calls = 0
        self.repeated = 0
        self.malformed = 0
        self._settle_by = 0.0
        self._settled = False
        self._stuck_after_s = stuck_after_s
        self._recent = RecentAnswers() if recent is None else recent
        self._links: dict[Peer, bytes] = {}  # the routers' node ids
        self._shortcuts = Shortcuts(self.out)
        self._gateways: Sequence[str] = ()  # where they take answers
        self._gateways_version = -1
        self._credits = CreditPool(1, rng or random.Random(0), slack=OVER_LIMIT_SLACK)
        self._replies = Replies(self.out, self._credits)
        self.streams = ReplicaStreams(self.out, self._replies, self._recent)
        self._held = self._replies.held
        self._answered: list[tuple[Run, Sequence[Answer]]] = []  # not accounted for yet
        self._freed: dict[Peer, int] = {}  # credits of those
        self._next_tick = 0.0
        self._progress_at = 0.0
        self._generation = -1
        self._pace = Pace(
            config or BackendConfig(),
            accepts_batch=accepts_batch,
            asynchronous=asynchronous,
            mixed=is_other is not None,
        )
        self._table = RunTable(self._replies, self._credits, self._pace, asynchronous=asynchronous, is_other=is_other)
        self._recollection = Recollection(self.out, self._replies, self._table, self._recent, self._links)
        self._claims = self._recollection.claims
        self._set_capacity(True)

    # --- config -----------------------------------------------------------------------------------------------------

    def apply_config(self, config: BackendConfig, now: float) -> None:
        """The backend's settings are now these; what waits and runs is kept."""
        self._pace.apply(config)
        self._set_capacity(True)
        self._table.give(now)
        self._replies.flush(now, self.draining)

    @property
    def config(self) -> BackendConfig:
        return self._pace.config

    @property
    def threads(self) -> int:
        """How many sync runs may be in user code at a time."""
        return self._pace.threads

    @property
    def quick(self) -> bool:
        """Whether calls are so short that the thread which runs them may as well receive and answer them."""
        return self._pace.quick and not self.draining

    @property
    def busy(self) -> bool:
        """Whether the executor has anything."""
        return bool(self._table.given)

    @property
    def capacity(self) -> int:
        """How many calls this replica takes at a time, over all routers together."""
        return self._credits.capacity

    def _set_capacity(self, now_lower: bool) -> None:
        """Follow the config and the service time; *now_lower*: by any amount, not only when it has halved."""
        capacity, before = self._pace.capacity(), self._credits.capacity
        if now_lower or capacity > before or 2 * capacity < before:
            self._credits.capacity = capacity

    def _read_registry(self, now: float) -> None:
        assert self.sync is not None
        registry = self.sync.registry
        if registry.generation == self._generation:
            return
        self._generation = registry.generation
        value = registry.backend(self.backend)
        if value is not None and value.config != self.config:
            self.apply_config(value.config, now)

    # --- events of a node -------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        if self.sync is not None:
            self.sync.link_up(peer, hello, self.out, now)
        self._shortcuts.link_up(peer, hello)
        if hello.info.role != "router":
            return
        self._links[peer] = hello.info.node
        self._credits.router_joined(peer, now)
        self._set_capacity(False)
        self._replies.flush(now, self.draining)

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None:
        """What a silent router does not use of its credits comes back by their lease."""
        self._shortcuts.link_doubted(peer, cause)

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        """Nobody there waits any more: what has not started is dropped, unless another router sent it too."""
        if self.sync is not None:
            self.sync.link_down(peer, now, reason)
        self._shortcuts.link_down(peer)
        if peer not in self._links:
            return
        del self._links[peer]
        self._replies.gone(peer)
        self._table.link_down(peer, now, RESEND_GRACE_S)
        self._credits.router_left(peer, now)
        self._set_capacity(False)
        self._table.give(now)
        self._replies.flush(now, self.draining)

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        batch: list[HeldCall] = []
        batch_key: tuple[int, str] | None = None
        taken = -1  # how many calls of this message to take; not asked yet
        room = 0
        unsettled = False
        table, held, known = self._table, self._held, self._recent.known
        claims, draining = self._claims, self.draining
        if peer in self._links:
            self._credits.heard(peer, now)
        for message, head, body in parcels:
            kind = type(message)
            if kind is Call:
                if taken < 0:
                    if peer not in self._links:
                        continue
                    taken = self._credits.received(peer, sum([type(parcel[0]) is Call for parcel in parcels]), now)
                    room = table.room()
                if not taken:
                    self._replies.over_limit(peer, message.id)
                    continue
                taken -= 1
                request_id, budget_us = message.id, message.budget_us
                new = request_id not in held and request_id not in known and len(request_id) == ID_SIZE
                usual = new and budget_us > 0 and not claims and not draining
                if not usual and self._is_answered(peer, message, now):
                    unsettled = True
                    continue
                deadline = _NEVER if budget_us < 0 else now + budget_us * 1e-6
                call = HeldCall(
                    request_id, message.endpoint, message.flags, message.method, head, body, deadline, now, [peer],
                    message.waited_us,
                )  # fmt: skip
                if not held:
                    self._progress_at = now
                held[request_id] = call
                if self._pace.batch == 1:
                    run = run_of([call])
                    if room > 0 and not (table.mixed and message.method):
                        # Nothing waits and there is a place: past the heap.
                        room -= 1
                        table.largest_batch = table.largest_batch or 1
                        run.given = now
                        table.given[run] = None
                        table.runs.append(run)
                    else:
                        table.add(run)
                    continue
                key = (message.batch, message.method)
                if batch and (key != batch_key or len(batch) >= self._pace.batch):
                    table.add(run_of(batch))
                    batch = []
                batch_key = key
                batch.append(call)
            elif kind is Cancel:
                if batch:
                    table.add(run_of(batch))
                    batch = []
                for request_id in message.ids:
                    table.cancel(peer, request_id, now)
                unsettled = True
            elif kind is Consumed:
                self.streams.on_consumed(peer, message)
            elif kind is Recall:
                if peer in self._links:
                    self._recollection.recall(peer, message, now)
                    unsettled = True
            elif kind is Demand:
                urgent_s = None if message.urgent_us < 0 else message.urgent_us * 1e-6
                self._credits.demand(peer, message.epoch, message.sent, message.queued, urgent_s, now)
                unsettled = True
            elif self.sync is not None:
                self.sync.receive(peer, message, self.out, now)
                self._read_registry(now)
        if batch:
            table.add(run_of(batch))
        if self._table.ready:
            self._table.give(now)
        # Calls alone change nothing about the grants.
        if unsettled or self._replies.pending:
            self._replies.flush(now, self.draining)

    def ping(self, peer: Peer, now: float) -> Ping:
        """The heartbeat for *peer*; the grant goes with it once more, in case one was lost."""
        grant = self._credits.grant_for(peer)
        if grant is not None:
            self.out.send(peer, Grant(*grant))
        progress_us = int((now - self._progress_at) * 1e6) if self._held and self._table.full() else -1
        digest = b"" if self.sync is None else self.sync.digest()
        return Ping(digest, 0, progress_us, [], self.draining)

    def tick(self, now: float) -> None:
        if self.draining and now >= self._settle_by:
            self._settled = True
        self._table.expire(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            if self.sync is not None:
                self.sync.tick(self.out, now)
                self._read_registry(now)
            self._look_after_running(now)
            self._set_capacity(False)
            self._recent.expire(now)
            self._recollection.expire(now)
            self._shortcuts.tell(now)
        self._table.give(now)
        self._replies.flush(now, self.draining)

    def next_wakeup(self) -> float:
        at = min(self._next_tick, self._table.next_expiry)
        return min(at, self._settle_by) if self.draining and not self._settled else at

    def routers_known(self) -> Sequence[str]:
        return () if self.sync is None else self.sync.routers_known()

    def gateways_known(self) -> Sequence[str]:
        """Where gateways take answers; the same object as the last time, if they are the same."""
        if self.sync is not None:
            version = self.sync.membership.version_of("gateway")
            if version != self._gateways_version:
                self._gateways_version = version
                self._gateways = gateways_beside(self.sync)
        return self._gateways

    # --- events of the shell ----------------------------------------------------------------------------------------

    def finished(self, done: Sequence[Done], now: float) -> None:
        """The executor is done with these runs, or one whose answer is streamed has come further.

        One answer a call, in the order of ``run.calls``; None for the answers of a run that was not started.
        """
        self.answer(done, now)
        self.account(now)

    def answer(self, done: Sequence[Done], now: float) -> None:
        """The first half of :meth:`finished`, for a shell that sends the answers before it goes on with the other."""
        held = self._held
        ended = self._table.ended
        answered = self._answered
        way: Peer = b""  # where those before came from
        parcels: list[Parcel] = []
        waited: list[int] = []
        direct = self._shortcuts.open
        for run, answers in done:
            if type(answers) is not list and not isinstance(answers, tuple):
                self._came_further(run, answers, now)
                continue
            if not ended(run):
                continue  # taken back meanwhile: it has been answered
            started = run.started
            calls = run.calls
            run_us = int((run.ended - started) * 1e6)
            batch_us = int((started - run.given) * 1e6)
            if len(answers) != len(calls):
                text = f"{len(answers)} answers for {len(calls)} calls".encode()
                answers = [(500, KIND_TEXT, b"", text, ORIGIN_REPLICA)] * len(calls)
            answered.append((run, answers))
            for call, answer in zip(calls, answers):  # noqa: B905 (they are as many)
                request_id = call.id
                queue_us = int((run.given - call.arrived) * 1e6)
                waiters = call.waiters
                if len(waiters) != 1 or call.gone:
                    self._replies.answer(call, answer, queue_us, batch_us, run_us)
                    continue
                del held[request_id]
                call.run = None
                status, kind, head, body, origin = answer
                parcel = (Result(request_id, status, kind, origin, queue_us, batch_us, run_us), head, body)
                if waiters[0] != way:
                    self._send(way, parcels, waited, now)
                    way, parcels, waited = waiters[0], [], []
                parcels.append(parcel)
                if direct:
                    waited.append(call.waited_us)
        self._send(way, parcels, waited, now)

    def _send(self, peer: Peer, parcels: list[Parcel], waited: list[int], now: float) -> None:
        if parcels:
            self._freed[peer] = self._freed.get(peer, 0) + len(parcels)
            self._shortcuts.send(peer, parcels, waited, now)

    def account(self, now: float, *, patient: bool = False) -> None:
        """The other half: what the answers have freed, and what there is to learn from them.

        *patient*: routers may be told later of answers that went past them; see :attr:`untold`."""
        answered, self._answered = self._answered, []
        freed, self._freed = self._freed, {}
        ids: list[bytes] = []
        kept: list[Answer] = []
        times: list[float] = []
        for run, answers in answered:
            calls = run.calls
            if len(calls) == 1:
                times.append(run.ended - run.started)
                call = calls[0]
                if not call.flags & FLAG_IDEMPOTENT:  # another run of those does no harm
                    ids.append(call.id)
                    kept.append(answers[0])
                continue
            self._pace.learn([run.ended - run.started], len(calls))
            self.finished_calls += len(calls)
            for call, answer in zip(calls, answers):  # noqa: B905 (they are as many)
                if not call.flags & FLAG_IDEMPOTENT:
                    ids.append(call.id)
                    kept.append(answer)
        if times:
            self._pace.learn(times)
            self.finished_calls += len(times)
        if ids:
            self._recent.put_all(ids, kept, now)
        for peer, count in freed.items():
            self._credits.finished(peer, count)
        self._progress_at = now
        if self._table.ready:
            self._table.give(now)
        if self._pace.changed:
            self._set_capacity(False)
        self._replies.flush(now, self.draining, self._pace.quick)
        if self._shortcuts.untold and not (patient and self._shortcuts.may_wait(self.out.pending, now)):
            self._shortcuts.tell(now)

    @property
    def untold(self) -> bool:
        """Whether there are answers that routers have to be told of soon: with :meth:`tell_routers`."""
        return self._shortcuts.untold

    def tell_routers(self, now: float) -> None:
        """Tell the routers of answers that went past them."""
        self._shortcuts.tell(now)

    def _came_further(self, run: Run, what: object, now: float) -> None:
        """Anything that the executor says of a run but its answers."""
        if run not in self._table.given:
            return  # taken back meanwhile
        if isinstance(what, StreamPiece):
            self.streams.piece(run, what)
        elif isinstance(what, StreamBegin):
            if not self.streams.begin(run, what, now):
                self._table.stop(run)
        else:
            self._table.ended(run)
            if isinstance(what, StreamEnd):
                self._pace.learn([run.ended - run.started])
                self.finished_calls += 1
                self.streams.end(run, what, now)
            else:
                for call in run.calls:
                    self._replies.not_run(call, now)

    def drain(self, now: float) -> None:
        """Take nothing new, send back what has not started, finish the rest; :attr:`drained` tells when."""
        if self.draining:
            return
        self.draining = True
        self._settle_by = now + SETTLE_S
        self._credits.draining = True
        self._shortcuts.tell(now)
        self._table.drain(now)
        self._replies.flush(now, self.draining)

    @property
    def drained(self) -> bool:
        """Draining, every call has its answer, and none is on its way: the routers have said how many they sent, or
        have not said it in time."""
        if not self.draining or self._held or self._shortcuts.untold:
            return False
        return self._settled or not self._credits.may_come

    def fail(self, reason: str, now: float) -> None:
        """User code asked for the end of the process: answer what can be answered, then exit."""
        self.exits.append(reason)
        self.drain(now)

    @property
    def runs(self) -> list[Run]:
        """Runs for the executor, in this order; set it to a new list when they are taken."""
        return self._table.runs

    @runs.setter
    def runs(self, runs: list[Run]) -> None:
        self._table.runs = runs

    @property
    def aborts(self) -> list[Run]:
        """Runs that the executor should ask to stop."""
        return self._table.aborts

    @aborts.setter
    def aborts(self, aborts: list[Run]) -> None:
        self._table.aborts = aborts

    @property
    def cancelled(self) -> int:
        return self._table.cancelled

    @property
    def largest_batch(self) -> int:
        return self._table.largest_batch

    @property
    def expired(self) -> int:
        """Calls that passed their deadline before they could be run."""
        return self._replies.expired

    @property
    def held(self) -> int:
        """Calls received and not answered."""
        return len(self._held)

    def statistics(self) -> dict[str, Any]:
        """Counters for status and metrics."""
        return {
            "finished": self.finished_calls,
            "held": len(self._held),
            "running": len(self._table.given),
            "expired": self.expired,
            "direct_answers": self._shortcuts.taken,
            "streamed": self.streams.streamed,
            "cancelled": self.cancelled,
            "repeated": self.repeated,
            "recalled": self._recollection.recalled,
            "malformed": self.malformed,
            "largest_batch": self.largest_batch,
            "run_s": self._pace.run_s,
            "credits": self._credits.statistics(),
        }

    def _look_after_running(self, now: float) -> None:
        stuck = self._table.look_after(now, self._stuck_after_s)
        if stuck is not None and not self.exits:
            self.exits.append(
                f"a call of backend {self.backend!r} has been running for {now - stuck.started:.0f} s, "
                f"{now - stuck.unwanted_since():.0f} s after the last one who waited for it was gone"
            )

    # --- a call's way -----------------------------------------------------------------------------------------------

    def _is_answered(self, peer: Peer, message: Call, now: float) -> bool:
        """Whether this call is not to be run, or not once more; who sent it is told now, or when the one that runs is
        done."""
        request_id = message.id
        held = self._held.get(request_id)
        if held is not None:  # it came before through another router: one run, an answer for each
            self.repeated += 1
            if not self.streams.joins_late(peer, held):
                held.waiters.append(peer)
                held.unwanted_at = _NEVER
            return True
        if len(request_id) != ID_SIZE:
            self.malformed += 1
            self._replies.refuse(peer, request_id, 400, f"a request id has {ID_SIZE} bytes, not {len(request_id)}")
            return True
        claims = self._claims
        if claims and claims.get(request_id, self._links[peer]) != self._links[peer]:
            self._replies.refuse(peer, request_id, 499, "another router has taken this request over")
            return True
        if request_id in self._recent:
            self.repeated += 1
            answer = self._recent.get(request_id)
            if answer is not None:
                self._replies.send(peer, Result(request_id, answer[0], answer[1], answer[4]), answer[2], answer[3])
                return True
            if not message.flags & FLAG_IDEMPOTENT:
                self._replies.refuse(peer, request_id, 502, "the request has run; its answer was not kept")
                return True
        if message.budget_us <= 0 and message.budget_us != NO_BUDGET:
            self._replies.expired += 1
            self._replies.refuse(peer, request_id, 504, "the deadline had passed when the replica got the request")
            return True
        if self.draining:
            self._replies.give_back(peer, request_id)
            return True
        return False

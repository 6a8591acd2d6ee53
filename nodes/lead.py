"""The handler's thread receives, runs and answers calls by itself, as long as they are quick.

Where a call takes microseconds, most of its time at a replica goes into two threads waking each other up: the event
loop hands it to the handler's thread, which hands the answer back.  While calls are quick (the core says so), the
handler's thread therefore has the lead: it waits for the routers' sockets, awake for a while where calls come soon
after each other, and the event loop for its timers and for whatever is no call.  The lead ends as soon as the thread
is wanted for something else, a call takes long, or an answer is streamed; then all is as before, until calls have been
quick for a while.
"""

from __future__ import annotations

import functools
import logging
import os
import select
from collections import deque
from collections.abc import Callable
from threading import RLock
from time import monotonic

from zserve.channel.busy_poll import BusyPoll, wait
from zserve.channel.lending import LendingHub
from zserve.channel.loop import Loop
from zserve.channel.outbox import CHUNK
from zserve.cores.replica import ReplicaCore
from zserve.cores.shortcuts import UNTOLD_S
from zserve.handler.executor import Done, Executor
from zserve.handler.invoke import HandlerExit
from zserve.handler.runs import Run
from zserve.scheduling.credits import AHEAD_S

__all__ = ["Lead"]

log = logging.getLogger("zserve.replica")

_LATE_S = 0.005
"""A call that has run so long when the event loop next looks is not quick: the loop reads again meanwhile."""
_CHUNK_S = 0.0005
"""Answers wait for so long for those of the calls that came with theirs."""

_CROWD = 8
"""After so many calls in one reading, the thread sleeps at once where it has to wait: others have the processor, who
have as much to do, and its wake-up is shared by as many.  Echo at 64 connections: 1.03 times the answers, 0.93 of the
processor time."""


class _Term:
    """One time of leading; *descriptors* tell when there is something to read."""

    def __init__(self, descriptors: list[int]) -> None:
        self.descriptors = descriptors
        self.on_stream: Callable[[], None] | None = None


class Lead:
    """Who has the lead.  Everything but :meth:`close` is called under *lock*, in the event loop's thread."""

    def __init__(
        self,
        hub: LendingHub,
        core: ReplicaCore,
        executor: Executor,
        loop: Loop,
        lock: RLock,
        *,
        busy_poll: bool = True,
    ) -> None:
        self._hub = hub
        self._core = core
        self._executor = executor
        self._loop = loop
        self._lock = lock
        self._busy_poll = BusyPoll(allowed=busy_poll)
        self._term: _Term | None = None
        self._lent = False
        self._closed = False
        self._running_since = 0.0
        self._todo: list[Run] = []  # the thread is going to run these
        self._done: deque[Done] = deque()  # it has run these, and nobody knows yet
        self._heard, self._wake = os.pipe()
        os.set_blocking(self._heard, False)
        os.set_blocking(self._wake, False)
        executor.on_wanted = self.end
        hub.on_closing = self.end
        hub.on_watch = self.look

    def offer(self) -> None:
        """Let the handler's thread have the lead, if calls are quick and it has nothing else to do."""
        if self._lent or self._closed or not self._core.quick or self._core.busy:
            return
        if self._executor.threads != 1 or self._executor.jobs:
            return
        term = _Term(self._hub.lend())
        if not term.descriptors:
            return
        term.on_stream = functools.partial(self._on_stream, term)
        self._executor.lend(functools.partial(self._lead, term))
        self._term = term
        self._lent = True

    def end(self) -> None:
        """The event loop reads the sockets again, and what the thread finishes from now on, it reports."""
        if not self._lent:
            return
        self._lent = False
        if self._term is not None:
            self._term = None
            try:
                os.write(self._wake, b"\0")
            except BlockingIOError:
                pass  # it will not overlook all of those that are there
        self._hub.take_back()
        if self._core.untold:
            self._core.tell_routers(monotonic())
            self._hub.poke()

    def look(self) -> None:
        """Now and then: end the lead of a thread that is stuck in a call, and send what it has finished before."""
        since = self._running_since
        if since and monotonic() - since > _LATE_S:
            done = self._take_done()
            if done:
                self._core.finished(done, monotonic())
                self._hub.poke()
            self.end()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
            self.end()

    def _take_back(self) -> None:
        self.end()
        self.offer()

    def _take_done(self) -> list[Done]:
        done = []
        while self._done:
            done.append(self._done.popleft())
        return done

    # --- in the handler's thread ------------------------------------------------------------------------------------

    def _lead(self, term: _Term) -> None:
        try:
            self._follow(term)
        except BaseException:  # of ours: user code's are answered
            log.exception("internal error in the handler's thread")
            with self._lock:
                self._let_go(term)
                self._core.runs = self._todo + self._core.runs
                self._executor.report(self._take_done())
                self._hub.poke()

    def _follow(self, term: _Term) -> None:
        hub, core, lock = self._hub, self._core, self._lock
        poll = select.poll()
        for descriptor in (self._heard, *term.descriptors):
            poll.register(descriptor, select.POLLIN)
        ready = set(term.descriptors)
        runs: list[Run] = []
        while True:
            with lock:
                if self._term is not term:
                    break
                if not hub.read(ready):
                    self._let_go(term)
                came = len(core.runs)
                self._todo = runs = runs + core.runs
                core.runs = []
            read_again = monotonic() + AHEAD_S  # nothing urgent waits for longer
            while runs and monotonic() < read_again:
                self._todo = runs = self._run(term, runs)
            with lock:
                if self._term is not term:
                    break
                due = hub.due
                untold = core.untold
            if runs:
                found = poll.poll(0)
            elif due:
                found = []
            else:
                meanwhile = functools.partial(self._tell, term) if untold else None
                found = wait(poll, self._busy_poll, awake=came <= _CROWD, after_s=UNTOLD_S, meanwhile=meanwhile)
            ready = {descriptor for descriptor, _ in found}
            if self._heard in ready:
                self._hear()
        while runs:  # those it had when the lead ended
            self._todo = runs = self._run(term, runs)
        self._hear()

    def _hear(self) -> None:
        try:
            os.read(self._heard, 65536)
        except BlockingIOError:
            pass

    def _run(self, term: _Term, runs: list[Run]) -> list[Run]:
        """Some of *runs*; returns those that are to be run now."""
        execute, done = self._executor.execute, self._done
        exit_reason = ""
        count = 0
        began = self._running_since = monotonic()
        for run in runs:
            count += 1
            try:
                done.append((run, execute(run, term.on_stream)))
            except HandlerExit as error:
                done.append((run, error.answers))
                exit_reason = error.reason
                break
            if count == CHUNK or run.ended - began > _CHUNK_S:
                break
        self._running_since = 0.0
        self._todo = rest = runs[count:]
        with self._lock:
            finished = self._take_done()
            if self._term is term and not exit_reason:
                now = monotonic()
                self._hub.tell(self._core.answer, finished, now)
                self._hub.tell(self._account, now)  # what nobody waits for
                more, self._core.runs = self._core.runs, []
                if not self._core.quick:
                    self._let_go(term)
                return rest + more
            self._let_go(term)
            self._executor.report(finished)
        if exit_reason:
            self._executor.tell_exit(exit_reason)
        return rest

    def _account(self, now: float) -> None:
        self._core.account(now, patient=True)

    def _tell(self, term: _Term) -> bool:
        """Nothing has come for a while: routers are told now what they could be told with more.  Whether that has
        found something to read, which no descriptor is going to say any more."""
        with self._lock:
            if self._term is not term:
                return True
            self._hub.tell(self._core.tell_routers, monotonic())
            return self._hub.due

    def _on_stream(self, term: _Term) -> None:
        """An answer is going to take a while, and what its client says of it is to be heard meanwhile."""
        self._running_since = 0.0
        with self._lock:
            self._let_go(term)
            self._executor.report(self._take_done())

    def _let_go(self, term: _Term) -> None:
        if self._term is term:
            self._term = None
            self._loop.call_soon(self._take_back)

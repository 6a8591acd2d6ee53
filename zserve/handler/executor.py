"""Where user code runs: the bridge between the replica's event loop and its threads.

Runs go to the threads through one queue; what they give comes back through a deque, and the loop is woken once for a
burst and not once for each run (one ``call_soon_threadsafe``: a lock, a write to a pipe, a system call).  A thread that
has nothing to do waits on the queue and has given up the interpreter lock, so the loop goes on at once; while it
computes, the loop gets its turn after the switch interval (see ``nodes/replica.py``).

``async def`` code runs as tasks on the loop itself.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import RLock
from time import monotonic
from typing import Any

from ..context import current_run
from ..http.answers import KIND_TEXT, ORIGIN_REPLICA, Answer
from .encode import Streamable
from .invoke import Handler, HandlerExit
from .runs import Run
from .streams import Driver, StreamBegin, StreamEnd, StreamEvent, StreamPiece

__all__ = ["Done", "Executor"]

log = logging.getLogger("zserve.handler")

Done = tuple[Run, "Sequence[Answer] | StreamEvent | None"]
"""A run and its answers; None for one that was not started: taken back, or past its deadline.

One whose answer is streamed comes several times: with a StreamBegin, StreamPieces, and a StreamEnd."""


class Executor:
    """Calls *on_done* on the loop with the runs that have ended, and *on_exit* when user code wants to exit.

    At most *threads* sync runs are in user code at a time; threads are started as they are needed, and are daemons, so
    that one which never comes back does not keep the process from ending.

    *on_wanted* may be set: it is called before anything is put into the threads' queue.
    """

    def __init__(
        self,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[list[Done]], None],
        on_exit: Callable[[str], None],
        *,
        threads: int = 1,
        lock: RLock | None = None,
    ) -> None:
        self._handler = handler
        self._loop = loop
        self._on_done = on_done
        self._on_exit = on_exit
        self._lock = RLock() if lock is None else lock
        self.on_wanted: Callable[[], None] = _nothing
        self._queue: SimpleQueue[Run | Callable[[], None] | None] = SimpleQueue()
        self._done: deque[Done] = deque()
        self.jobs = 0
        """Jobs that have not come to their end."""
        self._signalled = False
        self._streamed = False
        self._closed = False
        self._limit = threads
        self._started = 0
        self._with_threads = 0
        self._tasks: dict[Run, asyncio.Task[Any]] = {}
        self._driver = Driver(handler, self._emit, self._emit_on_loop)

    @property
    def threads(self) -> int:
        """Threads that there are now."""
        return self._started

    def submit(self, runs: Sequence[Run]) -> None:
        """Start these runs, in this order, as soon as a thread is free; call it on the loop."""
        if self._closed:
            self._on_done([(run, None) for run in runs])
            return
        self.on_wanted()
        put = self._queue.put
        for run in runs:
            if self._handler.is_asynchronous(run.method):
                self._tasks[run] = self._loop.create_task(self._run_task(run))
                continue
            self._with_threads += 1
            if self._started < self._limit and self._started < self._with_threads:
                self._start_thread()
            if self._with_threads > self._started and len(run.calls) > 1:  # it waits
                self._handler.prepare(run.calls)
            put(run)

    def call(self, job: Callable[[], None]) -> None:
        """Have *job* called in a thread, behind the runs submitted so far; it must not raise."""
        self.on_wanted()
        with self._lock:
            self.jobs += 1
        self.lend(functools.partial(self._do, job))

    def lend(self, job: Callable[[], None]) -> None:
        """The same for one that can be asked to give the thread back (*on_wanted*)."""
        if not self._started:
            self._start_thread()
        self._queue.put(job)

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            with self._lock:
                self.jobs -= 1

    def abort(self, run: Run) -> None:
        """Cancel the task of an asynchronous run that has started; a sync one stops where it yields, or never."""
        task = self._tasks.get(run)
        # A task that is cancelled before its first step never enters its coroutine, and would not report the run.
        if task is not None and run.started:
            task.cancel()
        elif run.flow is not None:
            run.flow.cancel()

    def consumed(self, run: Run, total: int) -> None:
        """The client has taken so much of a streamed answer (see :mod:`zserve.wire.flow`)."""
        if run.flow is not None:
            run.flow.consumed(total)

    def resize(self, threads: int) -> None:
        """Have at most *threads* threads from now on; one too many ends after the run that it is in."""
        self.on_wanted()
        self._limit = threads
        while self._started > threads:
            self._started -= 1
            self._queue.put(None)

    def adopt(self) -> Callable[[], None]:
        """A thread of the caller's becomes one of the threads: it calls what this returns, for as long as that takes.

        Code that was constructed in a thread then also runs in it, as some libraries want (SQLite, CUDA contexts).
        """
        self._started += 1
        return self._work

    def close(self) -> None:
        """Let idle threads end, cancel tasks.  Runs that are in user code are not waited for."""
        self._closed = True
        for run in list(self._tasks):
            if not run.claim():
                self.abort(run)
        self.resize(0)

    # --- threads ----------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"zserve-handler-{self._started}", daemon=True).start()

    def _work(self) -> None:
        get = self._queue.get
        execute = self.execute
        while True:
            item = get()
            if not isinstance(item, Run):
                if item is None:
                    return
                item()
                continue
            try:
                self._report(item, execute(item))
            except HandlerExit as error:
                self._report(item, error.answers)
                self.tell_exit(error.reason)

    def execute(self, run: Run, on_stream: Callable[[], None] | None = None) -> Sequence[Answer] | StreamEvent | None:
        """Call user code in this thread; what there is to report of *run* then.

        *on_stream* is called before an answer is streamed, which takes as long as its client likes.
        Raises HandlerExit.
        """
        started = monotonic()
        if not run.claim() or started >= run.last_deadline:
            return None
        run.started = started
        current_run.set(run)
        try:
            value = self._handler.run(run.calls)
            if type(value) is list:
                return value
            if on_stream is not None:
                on_stream()
            return self._stream(run, value)
        except HandlerExit:
            raise
        except BaseException as error:  # the handler answers for everything; this would be a bug of ours
            log.exception("internal error while running a handler")
            return StreamEnd(False) if run.streams > 0 else _internal_error(run, error)
        finally:
            run.ended = monotonic()
            current_run.set(None)

    def report(self, done: Sequence[Done]) -> None:
        """Runs that were not submitted, but executed in a thread of this executor's, have ended."""
        with self._lock:
            self._with_threads += len(done)
        for run, answers in done:
            self._report(run, answers)

    def _report(self, run: Run, answers: Sequence[Answer] | StreamEvent | None) -> bool:
        """Whether anybody is left to be told: not when the loop is closed."""
        self._done.append((run, answers))
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                return False
        return True

    def _stream(self, run: Run, value: Any) -> list[Answer] | StreamEvent:
        """What a handler gave in a thread is to be streamed."""
        assert isinstance(value, Streamable)
        if not value.asynchronous:
            return self._driver.run(run, value)

        async def drive() -> list[Answer] | StreamEvent:
            task = asyncio.current_task()
            assert task is not None
            self._tasks[run] = task
            current_run.set(run)
            try:
                return await self._driver.run_async(run, value)
            finally:
                del self._tasks[run]

        # A plain function that returns an asynchronous generator: that runs on the loop, and this thread waits for it.
        return asyncio.run_coroutine_threadsafe(drive(), self._loop).result()

    def _emit(self, run: Run, event: StreamBegin | StreamPiece) -> None:
        """Called by a thread."""
        self._streamed = True
        if not self._report(run, event):
            run.aborted = True

    def _emit_on_loop(self, run: Run, event: StreamBegin | StreamPiece) -> None:
        self._on_done([(run, event)])

    def tell_exit(self, reason: str) -> None:
        """User code wants to exit."""
        try:
            self._loop.call_soon_threadsafe(self._on_exit, reason)
        except RuntimeError:
            pass

    def _collect(self) -> None:
        """Everything that the threads have done by now."""
        # The flag first: what is appended after the sweep finds it down and wakes the loop again.
        self._signalled = False
        done = self._done
        count = len(done)
        if count:
            take = done.popleft
            ended = [take() for _ in range(count)]
            with self._lock:
                self._with_threads -= count
                if self._streamed:
                    for _, answers in ended:
                        if type(answers) is StreamPiece or type(answers) is StreamBegin:
                            self._with_threads += 1  # it goes on
                self._on_done(ended)

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _run_task(self, run: Run) -> None:
        started = monotonic()
        answers: Sequence[Answer] | StreamEvent | None = None
        exit_reason: str | None = None
        try:
            if run.claim() and started < run.last_deadline:
                run.started = started
                current_run.set(run)
                try:
                    value = await self._handler.run_async(run.calls)
                    answers = value if isinstance(value, list) else await self._driver.run_async(run, value)
                except HandlerExit as error:
                    exit_reason = error.reason
                    answers = error.answers
                except BaseException as error:
                    log.exception("internal error while running a handler")
                    answers = StreamEnd(False) if run.streams > 0 else _internal_error(run, error)
                run.ended = monotonic()
        finally:
            del self._tasks[run]
            self._done.append((run, answers))
            self._with_threads += 1  # _collect takes it off again
            if not self._signalled:
                self._signalled = True
                self._loop.call_soon(self._collect)
        if exit_reason is not None:
            self._on_exit(exit_reason)


def _nothing() -> None: ...


def _internal_error(run: Run, error: BaseException) -> list[Answer]:
    text = f"internal error: {type(error).__name__}".encode()
    return [(500, KIND_TEXT, b"", text, ORIGIN_REPLICA)] * len(run.calls)

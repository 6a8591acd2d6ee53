"""How every node program runs: one event loop, signals that drain, a life line, an exit status.

The first SIGINT, SIGTERM or SIGHUP, or the end of the life line, sets :attr:`Stop.requested`: the program drains and
returns.  A second signal (SIGINT, or any a moment later), or a drain that outlasts its grace, cancels the program,
which then has :data:`FORCED_CLEANUP_S` for its ``finally`` clauses (children, files); a third ends the process on the
spot.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from zserve.errors import ServeError

from . import logs
from .allocator import tend_memory
from .complaint import complain
from .options import NodeOptions

__all__ = ["FORCED_CLEANUP_S", "SIGNALS", "Stop", "complain", "report", "run_program"]

FORCED_CLEANUP_S = 5.0
"""How long a program that is forced to end may take to leave nothing behind."""

SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
"""What ends a program.  One that must not be interrupted while it starts blocks them; they wait for the loop."""

SAME_WISH_S = 1.0
"""A SIGTERM so soon after the first signal, or after the end of the life line, is not a second one."""

_OPEN_FILES = 65_536

log = logging.getLogger("zserve.program")


class Stop:
    """The wish that a program ends.

    ``requested`` is set once, with ``reason`` beside it (for people); ``forced`` is true once waiting is over.
    """

    __slots__ = ("forced", "on_request", "reason", "requested")

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.reason = ""
        self.forced = False
        self.on_request: Callable[[], None] | None = None

    def request(self, reason: str) -> None:
        """Ask the program to drain and return; only the first *reason* is kept."""
        if not self.requested.is_set():
            self.reason = reason
            self.requested.set()
            if self.on_request is not None:
                self.on_request()

    async def wait(self) -> str:
        """The reason, once there is one."""
        await self.requested.wait()
        return self.reason


def run_program(main: Callable[[Stop], Awaitable[int]], options: NodeOptions) -> int:
    """Run *main* to its end on an event loop of its own; the result is the exit status of the process.

    A :class:`ServeError` ends it with one clear line and the error's exit status; any other exception with a
    traceback and 1; being forced with 1.
    """
    logs.configure(options.log_level, name=options.name)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        try:
            return int(runner.run(_supervised(main, options)))
        except ServeError as error:
            if options.debug:
                log.exception("ended by an error")
            complain(str(error))
            report(options, "failed", error=str(error), exit=error.exit_status)
            return error.exit_status
        except (asyncio.CancelledError, KeyboardInterrupt):
            return 1
        except Exception as error:
            log.exception("ended by an unexpected error")
            report(options, "failed", error=f"{type(error).__name__}: {error}", exit=1)
            return 1


def report(options: NodeOptions, event: str, **facts: Any) -> None:
    """Tell the parent on the status pipe; does nothing where nobody listens.

    Events are "ready" (a router adds address=, a gateway http=) and "failed" (error=, exit=).
    """
    if options.status_fd < 0:
        return
    line = json.dumps({"event": event, **facts}) + "\n"
    try:
        os.write(options.status_fd, line.encode())
    except OSError as error:
        log.debug("status pipe: %s", error)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _raise_file_limit() -> None:
    """As many connections as the system lets us have; libzmq aborts the process when it runs out of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _supervised(main: Callable[[Stop], Awaitable[int]], options: NodeOptions) -> int:
    loop = asyncio.get_running_loop()
    tend_memory()
    stop = Stop()
    task = asyncio.ensure_future(main(stop))
    end = _End(stop, task, options)
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
            continue  # started with nohup: stays that way
        loop.add_signal_handler(number, end.on_signal, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if options.lifeline:
        end.watch_lifeline(sys.stdin.fileno() if sys.stdin is not None else 0)
    try:
        return await task
    finally:
        end.close()


class _End:
    """Turns signals, the life line and the clock into the end of one task."""

    def __init__(self, stop: Stop, task: asyncio.Future[int], options: NodeOptions) -> None:
        self.stop = stop
        self.task = task
        self.options = options
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._lifeline = -1
        self._asked_at: float | None = None
        stop.on_request = lambda: self.limit(options.grace_s)

    def on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.stop.forced:
            os._exit(1)
        elif self._asked_at is not None and self._is_same_wish(number):
            pass
        elif self._asked_at is not None:
            log.info("second signal (%s): ending without waiting", name)
            self.force()
        else:
            self.ask(name, self.options.grace_s)

    def _is_same_wish(self, number: int) -> bool:
        """True for what comes from two sides at once: a service manager signals a parent and its children, and the
        parent passes it on.  Whoever wants to force a program sends SIGINT, or waits a moment."""
        assert self._asked_at is not None
        return number != signal.SIGINT and self._loop.time() - self._asked_at < SAME_WISH_S

    def ask(self, reason: str, grace_s: float) -> None:
        """The parent, or whoever sits at the terminal, wants the program to end."""
        if self._asked_at is None:
            self._asked_at = self._loop.time()
        log.debug("stopping: %s", reason)
        self.stop.request(reason)  # a no-op if the program is ending by itself, as after `zserve shutdown`
        self.limit(grace_s)

    def limit(self, grace_s: float) -> None:
        """Force the end after *grace_s* seconds."""
        self._timers.append(self._loop.call_later(grace_s, self._overdue, grace_s))

    def _overdue(self, grace_s: float) -> None:
        if not self.stop.forced:
            log.warning("still draining after %g s: ending without waiting", grace_s)
        self.force()

    def force(self) -> None:
        if self.stop.forced:
            return
        self.stop.forced = True
        self._timers.append(self._loop.call_later(FORCED_CLEANUP_S, os._exit, 1))
        self.task.cancel()

    def watch_lifeline(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._lifeline = fd
        self._loop.add_reader(fd, self._on_lifeline)

    def _on_lifeline(self) -> None:
        try:
            data = os.read(self._lifeline, 4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._lifeline)
            self._lifeline = -1
            self.ask("the parent process has ended", self.options.orphan_grace_s)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._lifeline >= 0:
            self._loop.remove_reader(self._lifeline)
        # The signal handlers stay until the loop closes: a signal meanwhile must not become a traceback.

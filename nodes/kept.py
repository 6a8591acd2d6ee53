"""A role that is kept running: its process, and the next one when that dies, with back-off."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from zserve.errors import ServeError

from .options import AnyOptions, encode_options
from .roles import run_role
from .supervise import Child, Exit, fork, spawn

__all__ = ["Kept"]

FIRST_RESTART_S = 0.1
LAST_RESTART_S = 10.0
"""A role that dies is started again after 0.1, 0.2, 0.4 ... 10 s; one that has lived for longer begins anew."""

_FORCED_S = 1.0

log = logging.getLogger("zserve.kept")


class Kept:
    """One role: its process, and, while ``keep_running`` is set, the next one when that dies (a clean end is handed to
    ``on_leave`` instead, where there is one)."""

    def __init__(self, options: AnyOptions, *, keep: Sequence[int] = ()) -> None:
        self.options = options
        self.keep = keep
        self.child: Child | None = None
        self.keep_running = False
        self.on_leave: Callable[[], None] | None = None
        self.ready = asyncio.Event()
        self._failure = ""
        self._failure_status = 1
        self._ended = asyncio.Event()
        self._delay_s = FIRST_RESTART_S
        self._started_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def launch(self, *, forked: bool) -> None:
        self._started_at = time.monotonic()
        self._ended.clear()
        if forked:
            self.child = fork(self.options.name, self._run, keep=self.keep)
        else:
            self.child = spawn(self.options.name, self._argv, keep=self.keep)

    def watch(self) -> None:
        assert self.child is not None
        self.child.watch(self._on_status, self._on_exit)

    async def ended(self) -> ServeError:
        """Why it ended, once it has."""
        await self._ended.wait()
        assert self.child is not None
        error = ServeError(self._failure or f"the {self.options.name} {self.child.exit} while it started")
        error.exit_status = self._failure_status
        return error

    async def stop(self, grace_s: float) -> None:
        self.keep_running = False
        if self._timer is not None:
            self._timer.cancel()
        if self.child is not None and self.child.exit is None:
            await self.child.stop(grace_s)

    async def force(self) -> None:
        """End it without waiting for what it does, and see it dead before its files are removed."""
        self.keep_running = False
        if self._timer is not None:
            self._timer.cancel()
        child = self.child
        if child is None or child.exit is not None:
            return
        child.force()
        try:
            await asyncio.wait_for(child.wait(), _FORCED_S)
        except TimeoutError:
            child.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _FORCED_S)

    def _run(self, status_fd: int) -> int:
        with suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write(f"zserve-{self.options.name}")  # what ps and top show
        self.options.status_fd = status_fd
        return run_role(self.options)

    def _argv(self, status_fd: int) -> list[str]:
        self.options.status_fd = status_fd
        return [sys.executable, "-P", "-m", "zserve.nodes.roles", encode_options(self.options).decode()]

    def _on_status(self, report: dict[str, Any]) -> None:
        if report.get("event") == "ready":
            self.ready.set()
        elif report.get("event") == "failed":
            self._failure = str(report.get("error"))
            self._failure_status = int(report.get("exit", 1))

    def _on_exit(self, exit_: Exit) -> None:
        self._ended.set()
        if not self.keep_running:
            return
        if exit_.clean and self.on_leave is not None:  # nobody here asked it to: `zserve shutdown` did
            self.on_leave()
            return
        if time.monotonic() - self._started_at > LAST_RESTART_S:
            self._delay_s = FIRST_RESTART_S
        log.error("the %s %s; starting it again in %g s", self.options.name, exit_, self._delay_s)
        self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._restart)
        self._delay_s = min(self._delay_s * 2, LAST_RESTART_S)

    def _restart(self) -> None:
        if not self.keep_running:
            return
        try:
            self.launch(forked=False)
        except ServeError as error:
            log.error("%s", error)
            self._timer = asyncio.get_running_loop().call_later(LAST_RESTART_S, self._restart)
        else:
            self.watch()

"""The health of a stateful backend: ``check_health()`` called now and then, and what follows if it is not well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from zserve.channel.loop import Loop
from zserve.cores.replica import ReplicaCore
from zserve.handler.executor import Executor
from zserve.handler.invoke import Handler

__all__ = ["HealthChecks"]

log = logging.getLogger("zserve.replica")


class HealthChecks:
    """Calls it every ``health_check_period`` seconds, in the handler's thread, behind what that is busy with.

    *on_ill* is given the reason why the replica has to be replaced: the check raised, returned False, or has not come
    back ``health_check_timeout`` seconds after it began.
    """

    def __init__(
        self,
        handler: Handler,
        executor: Executor,
        loop: Loop,
        core: ReplicaCore,
        on_ill: Callable[[str], None],
    ) -> None:
        self._handler = handler
        self._executor = executor
        self._loop = loop
        self._core = core
        self._on_ill = on_ill
        self._asked = False
        self._began = 0.0

    def start(self) -> None:
        self._loop.call_later(self._core.config.health_check_period, self._look)

    def _look(self) -> None:
        if self._core.draining:
            return
        config = self._core.config
        if not self._asked:
            self._asked = True
            self._executor.call(self._check)
        elif self._began and time.monotonic() - self._began > config.health_check_timeout:
            trouble = f"check_health() has not come back for {config.health_check_timeout:g} s"
            log.error("backend %r is not well: %s", self._core.backend, trouble)
            self._on_ill(trouble)
            return
        period_s = config.health_check_period
        self._loop.call_later(min(period_s, config.health_check_timeout) if self._asked else period_s, self._look)

    def _check(self) -> None:
        """In a thread."""
        self._began = time.monotonic()
        trouble = self._handler.check_health()
        self._began = 0.0
        try:
            self._loop.call_soon_threadsafe(self._checked, trouble)
        except RuntimeError:
            pass  # the loop is closed: the process is about to end

    def _checked(self, trouble: str) -> None:
        self._asked = False
        if trouble and not self._core.draining:
            self._on_ill(trouble)

"""The user's own code in a simulated replica."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..context import current_run
from ..handler.encode import Streamable
from ..handler.invoke import Handler, HandlerExit
from ..handler.runs import Run
from ..handler.streams import Driver
from ..http.answers import Answer
from .replicas import QueueingExecutor

if TYPE_CHECKING:
    from ..control.declarations import BackendSpec

__all__ = ["HandlerExecutor", "JumpingLoop", "LoopThread"]

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps: ``asyncio.sleep(60)`` takes no time, and :meth:`time` is a minute later."""

    def __init__(self) -> None:
        self._jumped_s = 0.0
        super().__init__()

    def time(self) -> float:
        return self._jumped_s

    def _run_once(self) -> None:
        scheduled: Any = getattr(self, "_scheduled")  # noqa: B009 - a heap of timers, in every version since 3.4
        if scheduled and not getattr(self, "_ready"):  # noqa: B009
            self._jumped_s = max(self._jumped_s, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


class LoopThread:
    """A jumping loop in a thread of its own, where the coroutines of handlers run, one run at a time."""

    def __init__(self) -> None:
        self.loop = JumpingLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="zserve-testing", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> tuple[T, float]:
        """The result, and how many seconds the loop's clock jumped meanwhile."""

        async def timed() -> tuple[T, float]:
            started = self.loop.time()
            return await coroutine, self.loop.time() - started

        return asyncio.run_coroutine_threadsafe(timed(), self.loop).result()

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()


class HandlerExecutor(QueueingExecutor):
    """Calls the user's function, class or coroutine function as a replica does.

    A run takes *service_s* virtual seconds, and what a coroutine sleeps besides.  The code itself runs at once, when
    its run begins; what it does happens even if the replica dies before the run has ended.

    Raises ApplicationError when the code cannot be constructed.
    """

    def __init__(self, spec: BackendSpec, name: str, config: Any, loop: LoopThread, service_s: float) -> None:
        super().__init__()
        self._handler = Handler(spec.target, name, spec.init_args, spec.init_kwargs, debug=True, loop=loop.loop)
        if config.user_config is not None:
            self._handler.reconfigure(config.user_config)
        self.accepts_batch = self._handler.accepts_batch
        self.asynchronous = self._handler.asynchronous
        self._driver = Driver(self._handler, _no_pieces, _no_pieces)
        self._loop = loop
        self._service_s = service_s

    def abort(self, run: Run) -> None:
        pass  # its code has run already

    def configure(self, user_config: object) -> None:
        self._handler.reconfigure(user_config)

    def _next(self) -> None:
        replica = self._replica
        hub = replica.hub
        while self._waiting and (self.asynchronous or self._busy < self._threads):
            run = self._waiting.popleft()
            now = hub.now()
            if not run.claim() or now >= run.last_deadline:
                replica.done([(run, None)])
                continue
            self._busy += 1
            run.started = now
            replica.fabric.watch.running(replica, run.calls)
            answers, slept_s, exit_reason = self._call(run)
            replica.fabric.clock.after(self._service_s + slept_s, hub.deliver, self._finish, run, answers, exit_reason)

    def _call(self, run: Run) -> tuple[list[Answer], float, str]:
        handler, slept_s = self._handler, 0.0
        token = current_run.set(run)
        try:
            value: Any
            if handler.is_asynchronous(run.method):
                value, slept_s = self._loop.run(self._run_async(run))
            else:
                value = handler.run(run.calls)
                if isinstance(value, Streamable):
                    if value.asynchronous:
                        value, slept_s = self._loop.run(self._drive(run, value))
                    else:
                        value = self._driver.run(run, value)
            return value, slept_s, ""
        except HandlerExit as error:
            return error.answers, slept_s, error.reason
        finally:
            current_run.reset(token)

    async def _run_async(self, run: Run) -> Any:
        current_run.set(run)
        value = await self._handler.run_async(run.calls)
        return await self._driver.run_async(run, value) if isinstance(value, Streamable) else value

    async def _drive(self, run: Run, value: Streamable) -> Any:
        current_run.set(run)
        return await self._driver.run_async(run, value)

    def _finish(self, run: Run, answers: list[Answer], exit_reason: str) -> None:
        replica = self._replica
        self._busy -= 1
        run.ended = replica.hub.now()
        replica.done([(run, answers)])
        if exit_reason:
            replica.core.fail(exit_reason, replica.hub.now())
            replica.hub.poke()
        self._next()


def _no_pieces(run: Run, event: object) -> None:
    raise AssertionError("nothing is streamed here: answers are collected")

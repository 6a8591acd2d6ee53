"""The engine behind the handles of one process and fabric: a gateway without HTTP, in a thread of its own.

It is a :class:`~zserve.cores.gateway.GatewayCore` with a hub on a private event loop.  Threads leave their calls in a
deque and wake the loop once for a burst; so a call costs its thread the packing and one append.  Whatever happens, each
call that was submitted is completed: by the fabric, by its deadline, or by :meth:`Caller.close`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from ..channel.hub import Hub
from ..cores.gateway import GatewayCore
from ..errors import FabricUnreachable, Overloaded, Refusal, ServeError
from ..registry.neighbours import DEFAULT_MAX_ROUTERS, Neighbours
from ..registry.sync import ConfigSync
from ..registry.time_of_day import TimeOfDay
from ..security.identity import from_environment
from ..wire.messages import NodeInfo

if TYPE_CHECKING:
    from .answer import ServeAnswer

__all__ = ["Caller", "Submission"]

log = logging.getLogger("zserve.handles")

MAX_WAITING = 20_000
"""Calls handed over and not yet taken by the engine's thread; more are refused at once."""
CLOSE_TIMEOUT_S = 3.0


class Submission(NamedTuple):
    """One call on its way to the core; *deadline* in seconds of ``time.monotonic``."""

    answer: ServeAnswer
    endpoint: str
    head: bytes
    body: Any
    deadline: float
    flags: int
    shard: str
    method: str


class _TermHere(concurrent.futures.ThreadPoolExecutor):
    """Runs things in the loop's own thread: at interpreter exit no pool takes work any more, and the only work here is
    the end of the hub's ZeroMQ context."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Caller:
    """Makes calls through the routers at *addresses* and those that it learns of.

    Where ZSERVE_KEY and ZSERVE_KNOWN_KEYS are set, links over tcp use that key.  Raises ServeError when an address is
    not one, or a key file is not in order.  All methods may be called from any thread.
    """

    def __init__(self, addresses: Sequence[str], name: str = "") -> None:
        self._addresses = list(addresses)
        self._name = name
        self._inbox: deque[Submission | Callable[[], None]] = deque()
        self._signalled = False
        self._closed = False
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="zserve-handles", daemon=True)
        self._thread.start()
        self._started.result()

    # --- from any thread --------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> None:
        """Make a call; its answer is completed whatever happens."""
        submission.answer.caller = self
        if len(self._inbox) >= MAX_WAITING:
            submission.answer.fail(Overloaded(f"{len(self._inbox)} calls wait to be sent by this process, its limit"))
            return
        self._do(submission)
        if self._closed:
            self._fail_waiting()

    def cancel(self, answer: ServeAnswer) -> None:
        """Nobody waits for *answer* any more."""
        self._do(lambda: self._abandon(answer))

    def at(self, deadline: float, action: Callable[[], None]) -> Callable[[], None]:
        """Have *action* called in the engine's thread at *deadline*; the result takes that back."""
        timers: list[asyncio.TimerHandle] = []

        def arm() -> None:
            timers.append(self._loop.call_later(max(0.0, deadline - time.monotonic()), action))

        def disarm() -> None:
            for timer in timers:
                timer.cancel()

        self._do(arm)
        return lambda: self._do(disarm)

    def knows(self, endpoint: str) -> bool:
        """Whether the endpoint exists, as far as the engine has heard."""
        return self._core.sync.registry.endpoint(endpoint) is not None

    def statistics(self) -> dict[str, Any]:
        return {**self._core.statistics(), "transport": self._hub.statistics()}

    def close(self) -> None:
        """End the thread; what has no answer fails.  Takes at most a few seconds."""
        self._closed = True
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            pass  # it has ended already
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)
        self._fail_waiting()

    def forget(self) -> None:
        """In a forked child, where the thread does not exist: fail what the child's copy waits for."""
        self._closed = True
        for flight in self._core.open_flights():
            flight.token.fail(_forked())
        self._inbox = deque(self._inbox)
        self._fail_waiting(_forked)

    def _do(self, item: Submission | Callable[[], None]) -> None:
        self._inbox.append(item)
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                self._fail_waiting()

    def _fail_waiting(self, error: Callable[[], ServeError] | None = None) -> None:
        while True:
            try:
                item = self._inbox.popleft()
            except IndexError:
                return
            if isinstance(item, Submission):
                item.answer.fail(error() if error is not None else _closed())

    # --- in the engine's thread -------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._loop.set_default_executor(_TermHere(1))
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                log.exception("the thread that makes handle calls has ended")
        finally:
            self._closed = True
            self._fail_flights()
            self._loop.close()
            self._fail_waiting()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        security = from_environment(self._addresses)
        node = secrets.token_bytes(16)
        info = NodeInfo(
            node=node if security is None else security.node_id(node),
            boot=secrets.token_bytes(8),
            role="caller",
            name=self._name,
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        time_of_day = TimeOfDay()
        self._core = GatewayCore(
            ConfigSync(info, time_of_day.earliest_ms, latest_ms=time_of_day.latest_ms),
            id_prefix=info.boot,
            neighbours=Neighbours(info.node, DEFAULT_MAX_ROUTERS),
        )
        self._hub = Hub(self._core, info, join=self._addresses, on_turn=self._deliver, security=security)
        try:
            self._hub.start()
            self._started.set_result(None)
            await self._stop.wait()
            self._deliver()
            self._fail_flights()
        finally:
            await self._hub.stop("the caller has ended")

    def _take(self) -> None:
        """Everything that the threads have left by now."""
        # The flag first: what is left after the sweep finds it down and wakes the loop again.
        self._signalled = False
        inbox = self._inbox
        now = time.monotonic()
        for _ in range(len(inbox)):
            item = inbox.popleft()
            if type(item) is not Submission:
                item()  # type: ignore[operator]
                continue
            answer, endpoint, head, body, deadline, flags, shard, method = item
            if answer.done():
                continue
            opened = self._core.open(
                endpoint, head, body, deadline, answer, now, flags=flags, shard=shard, method=method
            )
            if type(opened) is Refusal:
                error = Overloaded(opened.reason.replace("the gateway", "this process"))
                error.retry_after_s = opened.retry_after_s
                answer.fail(error)
            else:
                answer.flight = opened
        self._hub.poke()

    def _deliver(self) -> None:
        core = self._core
        core.pieces.clear()  # a handler's stream comes as one value
        if core.answers:
            answers, core.answers = core.answers, []
            for answer, result, head, body in answers:
                answer.arrived(result, head, body)

    def _abandon(self, answer: ServeAnswer) -> None:
        flight, answer.flight = answer.flight, None
        if flight is not None:
            self._core.abandon(flight)

    def _fail_flights(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None:
            for flight in core.open_flights():
                flight.token.fail(_closed())
                core.abandon(flight)


def _closed() -> ServeError:
    return FabricUnreachable("the fabric of this handle was left (serve.shutdown()) before the answer came")


def _forked() -> ServeError:
    return ServeError("this answer belongs to the process that was forked; make the call again here")

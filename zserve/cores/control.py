"""Control calls at a router: writes that wait until they are in force, questions, and status.

A write is applied here (compare-and-set), published, and answered once every gateway and router that this one has a
link with has confirmed it, or after :data:`~zserve.registry.barrier.BARRIER_TIMEOUT_S` with a warning that names those
that have not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from ..channel.outbox import Peer
from ..config import user_config_digest
from ..errors import ApplicationError, ServeError
from ..registry.barrier import WriteBarrier
from ..registry.changes import CHANGES
from ..registry.operations import OPERATIONS
from ..registry.placement import CannotPlace
from ..wire.messages import Confirmed, Control, ControlReply, Hello
from .placing import Placing
from .status import stat_of, status_of

if TYPE_CHECKING:
    from .router import RouterCore

__all__ = ["ControlDesk"]

MAX_WAITING = 1024
_CONFIRMING = frozenset(("gateway", "router"))
_WRITES = {**OPERATIONS, **CHANGES}
_OWN_ERRORS = (TypeError, ValueError, KeyError, ServeError)


class _Waiter:
    """A call that is answered later."""

    __slots__ = ("backend", "barrier", "configured", "deadline", "id", "peer", "reply", "unplaced", "version")

    def __init__(self, peer: Peer, call_id: int, deadline: float) -> None:
        self.peer = peer
        self.id = call_id
        self.deadline = deadline
        self.barrier: WriteBarrier | None = None
        self.reply: dict[str, Any] = {}
        self.backend = ""
        self.version = ""
        self.configured = False
        self.unplaced = False  # the worker nodes were still joining: whether there is room for it is not known yet


class ControlDesk:
    """The part of a router's core that answers :class:`~zserve.wire.messages.Control`."""

    def __init__(self, router: RouterCore, wall_ms: Callable[[], int]) -> None:
        self._router = router
        self._wall_ms = wall_ms
        self._peers: dict[Peer, Hello] = {}
        self._waiters: list[_Waiter] = []
        self._placing = Placing(router.sync, router.out)
        self._questions: dict[str, Callable[[Peer, Control, dict[str, Any], float], Any]] = {
            "status": self._status,
            "stat": self._stat,
            "wait_backend": self._wait_backend,
            "wait_configured": self._wait_configured,
            "shutdown": self._shutdown,
        }

    # --- events -----------------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self._peers[peer] = hello
        self.views_changed(now)
        if hello.info.role == "replica":
            self._look_at_backends(now)

    def link_down(self, peer: Peer, now: float) -> None:
        self._peers.pop(peer, None)
        self._waiters = [waiter for waiter in self._waiters if waiter.peer != peer]
        self._placing.forget(peer)
        for waiter in self._waiters:
            if waiter.barrier is not None:
                waiter.barrier.lost(peer)
        self._settle()

    def reported(self, now: float) -> None:
        """A worker node has said something about its replicas."""
        self._look_at_backends(now)

    def confirmed(self, peer: Peer, message: Confirmed) -> None:
        """*peer* has a record in force."""
        hello = self._peers.get(peer)
        if hello is None or hello.info.role == "client":
            self._router.misplaced += 1
            return
        self._router.sync.on_confirmed(peer, message, self._router.out)
        for waiter in self._waiters:
            if waiter.barrier is not None:
                waiter.barrier.confirmed(peer, message.key, message.stamp)
        self._settle()

    def tick(self, now: float) -> None:
        for waiter in self._waiters:
            if waiter.barrier is not None:
                waiter.barrier.tick(now)
        self._settle()
        self._look_at_backends(now)
        self.views_changed(now)

    def call(self, peer: Peer, message: Control, now: float) -> None:
        """One control call.  Whatever is wrong with it becomes its reply."""
        hello = self._peers.get(peer)
        if hello is None or hello.info.role != "client":
            self._router.misplaced += 1
            return
        try:
            try:
                args = orjson.loads(message.args or b"{}")
            except ValueError:
                args = None
            if not isinstance(args, dict):
                raise ValueError("the arguments of a control call must be a JSON object")
            waiting = len(self._waiters) + len(self._placing)
            if waiting >= MAX_WAITING:
                raise ServeError(f"{waiting} control calls are waiting already; try again later")
            question = self._questions.get(message.op)
            if question is not None:
                result = question(peer, message, args, now)
                if result is not None:
                    self._reply(peer, message.id, {"result": result, "warnings": []})
            elif message.op in _WRITES:
                self._operate(peer, message, args, now)
            else:
                known = ", ".join(sorted([*_WRITES, *self._questions]))
                raise ValueError(f"unknown control call {message.op!r}; there are: {known}")
        except _OWN_ERRORS as error:
            self._fail(peer, message.id, error)

    # --- writes -----------------------------------------------------------------------------------------------------

    def _operate(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> None:
        router = self._router
        if router.sync.standing.in_doubt:
            raise ServeError(
                "this router was away for so long that it has to learn first what was deleted meanwhile; ask another "
                "one, or try again in a minute"
            )
        try:
            self._placing.check(message.op, args)
        except CannotPlace as error:
            if not self._placing.wait(peer, message, args, now):
                raise ServeError(str(error)) from None
            return
        self._write(peer, message, args, now)

    def views_changed(self, now: float) -> None:
        """Worker nodes may have come."""
        for (peer, message, args, _), error in self._placing.take(now):
            try:
                if error is not None:
                    raise ServeError(str(error))
                self._write(peer, message, args, now)
            except _OWN_ERRORS as failure:
                self._fail(peer, message.id, failure)

    def _write(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> None:
        router = self._router
        new = message.op == "create_endpoint" and router.sync.registry.endpoint(str(args.get("name"))) is None
        if new and "policy" not in args:  # a repeat leaves its policy alone
            args = {"policy": router.default_policy, "policy_kwargs": router.default_policy_kwargs, **args}
        outcome = _WRITES[message.op](router.sync.registry, args, self._wall_ms())
        reply = {"result": outcome.result, "warnings": list(outcome.warnings)}
        if not outcome.written:
            self._reply(peer, message.id, reply)
            return
        confirming = [link for link, hello in self._peers.items() if hello.info.role in _CONFIRMING]
        barrier = router.sync.spread(outcome.written, confirming, router.out, now)
        waiter = _Waiter(peer, message.id, now)
        waiter.barrier = barrier
        waiter.reply = reply
        self._waiters.append(waiter)
        self._settle()

    def _settle(self) -> None:
        """Answer the writes that are over."""
        waiting = []
        for waiter in self._waiters:
            barrier = waiter.barrier
            if barrier is None or not barrier.done:
                waiting.append(waiter)
                continue
            laggards = barrier.laggards()
            if laggards:
                waiter.reply["warnings"].append(f"written, but not confirmed within 5 s by: {', '.join(laggards)}")
            self._reply(waiter.peer, waiter.id, waiter.reply)
        self._waiters = waiting

    # --- questions --------------------------------------------------------------------------------------------------

    def _status(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> Any:
        return status_of(self._router, now)

    def _stat(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> Any:
        return stat_of(self._router)

    def _shutdown(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> Any:
        self._router.shut_down(str(args.get("reason", "zserve shutdown"))[:200])
        return {"shutting_down": True}

    def _wait_backend(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> Any:
        """Until all replicas of the backend are up."""
        self._wait(peer, message, args, now, configured=False)

    def _wait_configured(self, peer: Peer, message: Control, args: dict[str, Any], now: float) -> Any:
        """Until those that are up work with the ``user_config`` in force."""
        self._wait(peer, message, args, now, configured=True)

    def _wait(self, peer: Peer, message: Control, args: dict[str, Any], now: float, *, configured: bool) -> None:
        name, timeout_s = args.get("name"), args.get("timeout_s", 60.0)
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= 86_400:
            raise ValueError(f"timeout_s must be between 0 and 86400, not {timeout_s!r}")
        value = self._router.sync.registry.backend(name)
        if value is None:
            raise KeyError(f"there is no backend {name!r}")
        waiter = _Waiter(peer, message.id, now + timeout_s)
        waiter.backend = name
        waiter.version = value.version
        waiter.configured = configured
        waiter.unplaced = not self._placing.settled(now)
        self._waiters.append(waiter)
        self._look_at_backends(now)

    def _look_at_backends(self, now: float) -> None:
        """Answer those who wait for a backend whose fate is known by now."""
        if not any(waiter.backend for waiter in self._waiters):
            return
        waiting = []
        for waiter in self._waiters:
            if not waiter.backend:
                waiting.append(waiter)
                continue
            try:
                ready = (self._configured if waiter.configured else self._backend_ready)(waiter, now)
            except _OWN_ERRORS as error:
                self._fail(waiter.peer, waiter.id, error)
                continue
            if ready:
                self._reply(waiter.peer, waiter.id, {"result": None, "warnings": []})
            else:
                waiting.append(waiter)
        self._waiters = waiting

    def _backend_ready(self, waiter: _Waiter, now: float) -> bool:
        router, name = self._router, waiter.backend
        value = router.sync.registry.backend(name)
        if value is None:
            raise ServeError(f"backend {name!r} was deleted meanwhile")
        ready = router.replicas.ready(name, value.version)
        if ready >= value.config.num_replicas:
            return True
        for _, status in router.replicas.statuses():
            if status.backend == name and status.code == value.version and status.state == "failed":
                raise ApplicationError(f"backend {name!r} failed to start:\n{status.reason}")
        if waiter.unplaced and self._placing.settled(now):
            waiter.unplaced = False
            try:
                self._placing.check_placed(name)
            except CannotPlace as error:
                raise ServeError(str(error)) from None
        if now >= waiter.deadline:
            wanted = value.config.num_replicas
            where = "" if router.sync.membership.workers() else "; no worker node is linked with this router"
            where += self._starting(name, now)
            raise ServeError(f"backend {name!r}: {ready} of {wanted} replicas are up after the time given{where}")
        return False

    def _configured(self, waiter: _Waiter, now: float) -> bool:
        router, name = self._router, waiter.backend
        value = router.sync.registry.backend(name)
        if value is None:
            raise ServeError(f"backend {name!r} was deleted meanwhile")
        wanted, lacking = user_config_digest(value.config), 0
        for _, status in router.replicas.statuses():
            if status.backend != name or status.code != value.version or status.state != "ready":
                continue
            if status.refused == wanted:
                raise ApplicationError(status.reason or f"reconfigure() of backend {name!r} failed")
            lacking += status.configured != wanted
        if lacking and now >= waiter.deadline:
            raise ServeError(f"backend {name!r}: reconfigure() is not done in {lacking} replicas after the time given")
        return not lacking

    def _starting(self, name: str, now: float) -> str:
        """What hangs: a constructor that has not come back."""
        replicas = self._router.replicas
        for_s = [replicas.starting_for(status.node, now) for _, status in replicas.statuses() if status.backend == name]
        longest = max([seconds for seconds in for_s if seconds is not None], default=None)
        if longest is None:
            return ""
        return f"; its code has been starting for {longest:.0f} s (importing it, its constructor, or reconfigure())"

    # --- replies ----------------------------------------------------------------------------------------------------

    def _reply(self, peer: Peer, call_id: int, payload: dict[str, Any]) -> None:
        self._router.out.send(
            peer, ControlReply(call_id, True, orjson.dumps(payload, default=_plain, option=orjson.OPT_NON_STR_KEYS))
        )

    def _fail(self, peer: Peer, call_id: int, error: Exception) -> None:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        payload = {"error": type(error).__name__, "message": text}
        self._router.out.send(peer, ControlReply(call_id, False, orjson.dumps(payload)))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b16encode(value).decode().lower()
    if isinstance(value, Iterable):
        return list(value)
    return msgspec.to_builtins(value)

"""The worker node program: replica processes, started and stopped as the core decides.

:class:`zserve.cores.worker.WorkerCore` decides which replicas this node runs; this file has them run.  A replica is a
process of its own (``python -m zserve.nodes.replica``) that dials the routers itself: no request passes through here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from contextlib import suppress
from typing import Any

import msgspec

from zserve.channel.hub import Hub
from zserve.cores.worker import Configure, Start, WorkerCore
from zserve.cores.worker import Stop as StopReplica
from zserve.errors import ServeError
from zserve.registry.neighbours import Neighbours
from zserve.registry.sync import ConfigSync
from zserve.registry.time_of_day import TimeOfDay
from zserve.security.identity import KEY_VARIABLE, KNOWN_KEYS_VARIABLE

from .identity import new_info
from .joining import keep_joined, plain
from .keys import open_security
from .options import WorkerOptions
from .program import Stop, report, run_program
from .supervise import Child, Exit, spawn

__all__ = ["run"]

KILL_MARGIN_S = 2.0
"""What a replica gets on top of its own grace, to say goodbye and leave as Python does."""

log = logging.getLogger("zserve.worker")


def run(options: WorkerOptions) -> int:
    """Run a worker node to its end; the result is the exit status."""
    return run_program(lambda stop: _Worker(options, stop).run(), options)


class _Replica:
    """One replica process, of one version of a backend.  ``last_words``: why it said it would exit."""

    __slots__ = ("backend", "child", "last_words", "name", "ready", "version")

    def __init__(self, name: str, backend: str, version: str, child: Child) -> None:
        self.name = name
        self.backend = backend
        self.version = version
        self.child = child
        self.ready = False
        self.last_words = ""


class _Worker:
    def __init__(self, options: WorkerOptions, stop: Stop) -> None:
        self._options = options
        self._stop = stop
        security = open_security(options)
        info = new_info("worker", options.name, security=security)
        info.slots = options.slots
        info.resources = options.resources
        neighbours = Neighbours(info.node, options.max_routers)
        time_of_day = TimeOfDay()
        sync = ConfigSync(info, time_of_day.earliest_ms, latest_ms=time_of_day.latest_ms)
        self._core = WorkerCore(sync, random.Random(), neighbours=neighbours)
        self._hub = Hub(self._core, info, join=plain(options.join), on_turn=self._on_turn, security=security)
        self._replicas: dict[bytes, _Replica] = {}
        self._has_started: dict[str, str] = {}
        """Backend to the version of it that has been ready here."""
        self._spare: Child | None = None
        self._stopping: set[asyncio.Task[Exit]] = set()
        self._drained = asyncio.Event()
        self._environment = _environment(options)

    async def run(self) -> int:
        hub, core, options = self._hub, self._core, self._options
        hub.start()
        self._get_ahead()
        joining = asyncio.ensure_future(keep_joined(hub, options))
        requested = asyncio.ensure_future(self._stop.wait())
        try:
            report(options, "ready")
            log.info("offering %d slots", options.slots)
            await asyncio.wait({requested, joining}, return_when=asyncio.FIRST_COMPLETED)
            if joining.done():
                joining.result()
                await requested
            log.info("draining: %s", self._stop.reason)
            # Where the whole fabric ends, there is no one to hand over to.
            core.drain(time.monotonic(), handover_s=0.0 if core.shutdown_reason else options.grace_s / 2)
            hub.poke()
            await self._drained.wait()
            return 0
        finally:
            requested.cancel()
            joining.cancel()
            await self._kill_all()
            await hub.stop("the worker node is shutting down")

    # --- what the core wants ----------------------------------------------------------------------------------------

    def _on_turn(self) -> None:
        core = self._core
        while core.actions:
            for action in core.take_actions():
                if isinstance(action, Start):
                    self._start(action)
                elif isinstance(action, StopReplica):
                    self._stop_replica(action)
                else:
                    # A replica has a link with the routers and follows the config of its backend by itself.
                    assert isinstance(action, Configure)
        if core.shutdown_reason:
            self._stop.request(core.shutdown_reason)
        if core.drained:
            self._drained.set()

    def _spawn(self) -> Child:
        """A replica process that waits to be told what to run.  Raises ServeError."""
        return spawn(
            "replica",
            lambda status_fd: [sys.executable, "-P", "-m", "zserve.nodes.replica", str(status_fd)],
            env=self._environment,
        )

    def _get_ahead(self) -> None:
        """Start a process for the first replica while its backend is still being declared."""
        if self._options.head_start_s > 0:
            with suppress(ServeError):
                self._spare = self._spawn()
                asyncio.get_running_loop().call_later(self._options.head_start_s, self._end_spare)

    def _take_spare(self) -> Child | None:
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.reap() is None else None

    def _end_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.watch()
            spare.kill()
            self._stopping.add(asyncio.ensure_future(spare.wait()))

    def _start(self, action: Start) -> None:
        name = f"{action.backend}#{action.index}"
        try:
            child = self._take_spare() or self._spawn()
            child.name = f"replica {name}"
        except ServeError as error:
            self._core.replica_failed(action.node, str(error), time.monotonic())
            return
        replica = self._replicas[action.node] = _Replica(name, action.backend, action.value.version, child)
        child.watch(
            lambda status: self._on_status(action.node, replica, status),
            lambda exit_: self._on_exit(action.node, replica, exit_),
        )
        child.send_line(self._spec(action, child.status_fd))
        self._core.replica_started(action.node, child.pid, time.monotonic())
        log.debug("replica %s started as process %d", name, child.pid)

    def _spec(self, action: Start, status_fd: int) -> bytes:
        options, value = self._options, action.value
        return msgspec.json.encode(
            {
                "node": action.node.hex(),
                "worker": self._core.info.node.hex(),
                "backend": action.backend,
                "index": action.index,
                "code": value.code,
                "version": value.version,
                "init_args": value.init_args,
                "init_kwargs": value.init_kwargs,
                "config": value.config,
                "app_dir": options.app_dirs[0] if options.app_dirs else None,
                "code_dir": options.code_dir or None,
                "routers": list(dict.fromkeys([*self._hub.joins, *self._core.routers_known()])),
                "status_fd": status_fd,
                "log_level": options.log_level,
                "log_json": not os.isatty(2),
                "debug": options.debug,
                "busy_poll": options.busy_poll,
            }
        )

    def _stop_replica(self, action: StopReplica) -> None:
        replica = self._replicas.get(action.node)
        if replica is None or replica.child.exit is not None:
            return
        task = asyncio.ensure_future(replica.child.stop(action.grace_s + KILL_MARGIN_S))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    # --- what becomes of replicas -----------------------------------------------------------------------------------

    def _on_status(self, node: bytes, replica: _Replica, status: dict[str, Any]) -> None:
        state, now = status.get("state"), time.monotonic()
        if state == "ready":
            replica.ready = True
            self._has_started[replica.backend] = replica.version
            log.info("replica %s is ready (process %d)", replica.name, replica.child.pid)
            self._core.replica_ready(node, now)
        elif state == "failed":
            replica.last_words = str(status.get("reason", ""))
            is_new = self._has_started.get(replica.backend) != replica.version
            level = logging.INFO if is_new and self._options.told_elsewhere else logging.ERROR
            log.log(level, "replica %s cannot start: %s", replica.name, replica.last_words.rstrip())
            self._core.replica_failed(node, replica.last_words, now)
        elif state == "configured":
            user_config, reason = bytes.fromhex(str(status.get("user_config", ""))), str(status.get("reason", ""))
            if reason:
                log.error("replica %s goes on with the user_config that it had: %s", replica.name, _first_line(reason))
            self._core.replica_configured(node, user_config, reason, now)
        elif state == "exiting":
            replica.last_words = str(status.get("reason", ""))
        self._hub.poke()

    def _on_exit(self, node: bytes, replica: _Replica, exit_: Exit) -> None:
        del self._replicas[node]
        how = f"process {replica.child.pid} {exit_}"
        if replica.last_words:
            how = f"{replica.last_words}; {how}"
        if exit_.asked:
            log.debug("replica %s has ended: %s", replica.name, how)
        elif replica.ready:
            log.error("replica %s ended: %s", replica.name, how)
        self._core.replica_exited(node, how, time.monotonic())
        self._hub.poke()

    async def _kill_all(self) -> None:
        """Nothing outlives this node, however it ends."""
        left = list(self._replicas.values())
        for replica in left:
            replica.child.kill()
        self._end_spare()
        await asyncio.gather(*(replica.child.wait() for replica in left), *self._stopping)


def _environment(options: WorkerOptions) -> dict[str, str]:
    """What replicas find in their environment.

    What user code prints is to be seen at once.  The first folder with user code is for the replica to add, after it
    has imported what it needs itself; only further ones (those of ``sys.path`` in the script that called ``init``) have
    to come this way.  The node's key is theirs, too, for their own links and for the handles that their code uses.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for variable, path in ((KEY_VARIABLE, options.key), (KNOWN_KEYS_VARIABLE, options.known_keys)):
        environment.pop(variable, None)
        if path:
            environment[variable] = os.path.abspath(path)
    further = [*options.app_dirs[1:], *filter(None, [os.environ.get("PYTHONPATH", "")])]
    if further:
        environment["PYTHONPATH"] = os.pathsep.join(further)
    return environment


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]

"""The router program: a core, its sockets, and the registry on disk."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Iterable

from zserve.channel.hub import Hub
from zserve.cores.router import RouterCore
from zserve.errors import ServeError
from zserve.registry.standing import ALONE_S, JOINING_S
from zserve.registry.sync import ConfigSync
from zserve.registry.time_of_day import TimeOfDay

from .descriptors import Descriptors
from .identity import new_info, wall_ms
from .joining import keep_joined, plain
from .keys import open_security
from .options import RouterOptions
from .program import Stop, report, run_program
from .state import RouterState

__all__ = ["Router", "run"]

log = logging.getLogger("zserve.router")


def run(options: RouterOptions) -> int:
    """Run a router to its end; the result is the exit status."""
    return run_program(lambda stop: Router(options, stop).run(), options)


def _publish_address(options: RouterOptions) -> str:
    """Where to publish if nothing is said: beside the ROUTER socket, on any free port or with a suffix."""
    if options.publish:
        return options.publish
    if options.bind.startswith("tcp://"):
        return f"{options.bind.rpartition(':')[0]}:*"
    return options.bind + ".pub"


def _open_to_user_code(app_dirs: Iterable[str]) -> None:
    """Traffic policies of users can be imported from *app_dirs*; nothing there shadows a module of the fabric."""
    sys.path += [path for path in app_dirs if path not in sys.path]
    os.environ["ZSERVE_ROUTER"] = "1"  # so that an init() in their modules is told where it is


class Router:
    """One router on the running event loop; ``hub`` is its place in the fabric, ``started`` set once it listens.

    alone: no gateway shares its process, so whatever it gets leaves through a socket again.
    """

    def __init__(self, options: RouterOptions, stop: Stop, *, alone: bool = True) -> None:
        self._options = options
        self._stop = stop
        _open_to_user_code(options.app_dirs)
        self._state = RouterState(options.state_dir)
        node = bytes.fromhex(options.node_id) if options.node_id else self._state.node_id()
        security = open_security(options)
        info = new_info("router", options.name, node, security)
        self._time = TimeOfDay()
        sync = ConfigSync(info, self._time.earliest_ms, latest_ms=self._time.latest_ms)
        self._state.load_into(sync, wall_ms(), JOINING_S if options.join else ALONE_S)
        self._saved = sync.registry.generation
        self._refusals: set[str] = set()
        self._core = RouterCore(
            sync,
            random.Random(),
            self._time.earliest_ms,
            policy=options.policy,
            policy_kwargs=options.policy_kwargs,
            queued_bytes=options.max_queued_bytes,
        )
        self.started = asyncio.Event()
        self.hub = Hub(
            self._core,
            info,
            bind=options.bind,
            publish=_publish_address(options),
            advertise=options.advertise,
            join=plain(options.join),
            on_turn=self._on_turn,
            security=security,
            forwards=alone,
        )

        self._core.transport = self.hub.statistics

    async def run(self) -> int:
        hub, core, options = self.hub, self._core, self._options
        if not options.bind:
            raise ServeError("a router needs an address to listen on: --bind tcp://127.0.0.1:7700")
        try:
            core.endpoints.check_policy(options.policy, options.policy_kwargs)
        except (TypeError, ValueError) as error:
            raise ServeError(f"queueing policy: {error}") from None
        hub.start()
        self.started.set()
        joining = asyncio.ensure_future(keep_joined(hub, options))
        saving = asyncio.ensure_future(self._save_again())
        try:
            gc.collect()
            gc.freeze()
            report(options, "ready", address=hub.info.address)
            log.info("listening on %s", hub.info.address)
            requested = asyncio.ensure_future(self._stop.requested.wait())
            done, _ = await asyncio.wait({requested, joining}, return_when=asyncio.FIRST_COMPLETED)
            if joining in done:
                joining.result()
                await requested
            log.info("draining: %s", self._stop.reason)
            core.drain(time.monotonic())
            hub.poke()
            while not core.drained:
                await asyncio.sleep(0.01)
            # The last answers leave with this turn, the GOODBYE behind them.
            await asyncio.sleep(0.02)
            return 0
        finally:
            joining.cancel()
            saving.cancel()
            await hub.stop("the router is shutting down")
            if not core.sync.standing.in_doubt:
                self._state.save(core.sync.registry, wall_ms())
                self._state.touch(wall_ms(), 0)
            self._state.close()

    def _on_turn(self) -> None:
        # Before the outbox leaves: a write is on disk when it is acknowledged.
        registry, standing = self._core.sync.registry, self._core.sync.standing
        if standing.given_up:
            self._state.given_up(standing.given_up)
            standing.given_up = 0
            self._saved = -1
        if registry.generation != self._saved and not standing.in_doubt:
            self._saved = registry.generation
            self._state.save(registry, wall_ms())
        notices = self._core.endpoints.notices
        while notices:
            log.warning("%s", notices.popleft())
        if self._core.shutdown_reason:
            self._stop.request(self._core.shutdown_reason)

    def _mention_refused_records(self) -> None:
        """Records of others that are not taken in, each reason once."""
        for key, reason in self._core.sync.registry.refusals:
            if key not in self._refusals:
                self._refusals.add(key)
                log.warning("%s of another router is not taken in: %s", key, reason)
        # A record that is not asked for again is forgotten, and would be mentioned anew.
        self._refusals.intersection_update([key for key, _ in self._core.sync.registry.refusals])

    async def _save_again(self) -> None:
        """Once a second: try again what could not be saved, note now and then that this router runs."""
        descriptors = Descriptors()
        while True:
            await asyncio.sleep(1.0)
            descriptors.look()
            self._time.look()
            self._mention_refused_records()
            if self._core.sync.standing.in_doubt:
                continue
            if self._state.behind:
                self._state.save(self._core.sync.registry, wall_ms())
            self._state.touch(wall_ms())

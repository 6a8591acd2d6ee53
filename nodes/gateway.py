"""The gateway program: uvicorn's server and the fabric's sockets in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from zserve.channel.busy_poll import BusyPoll, Wakeful
from zserve.channel.hub import Hub
from zserve.cores.gateway import GatewayCore, GatewayLimits
from zserve.errors import ServeError
from zserve.http.front import HttpFront
from zserve.http.protocol import FabricProtocol
from zserve.http.system import system_pages
from zserve.http.tokens import TokenFront, with_tokens
from zserve.http.writes import Gatherer, open_writes
from zserve.registry.neighbours import Neighbours
from zserve.registry.sync import ConfigSync
from zserve.registry.time_of_day import TimeOfDay
from zserve.security.tokens import TokenTable, parse_tokens
from zserve.security.watched import Watched, Watcher

from .complaint import complain
from .descriptors import Descriptors, within_descriptors
from .https import Certificate
from .identity import new_info
from .joining import keep_joined, plain
from .keys import open_security
from .listen import adopt, is_loopback, listen, stop_taking, url_of
from .metrics import render_gateway
from .options import GatewayOptions
from .processors import may_poll
from .program import Stop, report, run_program
from .run_directory import RunDirectory

__all__ = ["Gateway", "open_listener", "run"]

log = logging.getLogger("zserve.gateway")
logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # start and stop are said here, in our words

_LARGE_BODIES = 1 << 20
"""Bytes of bodies under way from which on a gateway does not poll: copying them gives every processor something to do.
Uploads of 1 MiB: 0.94 of the processor time."""
_FIRST_SYNC_S = 2.0
"""A gateway without a router says so itself after this time."""


def run(options: GatewayOptions) -> int:
    """Run a gateway to its end; the result is the exit status."""
    try:
        listener = open_listener(options)
    except ServeError as error:
        complain(str(error))
        report(options, "failed", error=str(error), exit=error.exit_status)
        return error.exit_status
    with listener:
        return run_program(lambda stop: Gateway(options, listener, stop).run(), options)


def open_listener(options: GatewayOptions) -> socket.socket:
    """The listening socket: handed over, or bound before anything else, so that a port in use is one clear error."""
    if options.http_fd >= 0:
        return adopt(options.http_fd)
    return listen(options.http_host, options.http_port)


def _place_for_answers() -> RunDirectory | None:
    """The private folder of a socket to which replicas on this machine bring their answers; None where there can be
    none, and they go through the routers."""
    try:
        return RunDirectory("answers")
    except ServeError as error:
        log.warning("no answers straight from replicas: %s", error)
        return None


def _gatherer() -> Gatherer | None:
    """What writes answers together, where the system lets it."""
    writes = open_writes()
    return Gatherer(writes) if writes is not None else None


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the program has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, but connections that the kernel has accepted and uvicorn has not are served as well:
        closing the listening socket would reset them."""
        loop = asyncio.get_running_loop()
        waiting: list[socket.socket] = []
        spares = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for spare in spares:
            waiting += stop_taking(spare)
        for connection in waiting:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class Gateway:
    """One gateway on the running event loop.  *beside*: the hub of a router in the same process, linked in memory."""

    def __init__(self, options: GatewayOptions, listener: socket.socket, stop: Stop, beside: Hub | None = None) -> None:
        self._beside = beside
        self._options = options
        self._listener = listener
        self._stop = stop
        self._certificate = Certificate(options.tls_cert, options.tls_key) if options.tls_cert else None
        scheme = "http" if self._certificate is None else "https"
        self._url = url_of(listener, scheme)
        security = open_security(options)
        info = new_info("gateway", options.name, security=security)
        info.http = self._url
        self._time = TimeOfDay()
        self._core = GatewayCore(
            ConfigSync(info, self._time.earliest_ms, latest_ms=self._time.latest_ms),
            id_prefix=info.boot,
            limits=GatewayLimits(options.max_requests, options.limits.held_bytes),
            neighbours=Neighbours(info.node, options.max_routers, beside.info.node if beside is not None else b""),
        )
        self._answers = _place_for_answers() if options.direct_answers and beside is None else None
        self._hub = Hub(
            self._core,
            info,
            bind=self._answers.socket_address("answers") if self._answers is not None else None,
            join=plain(options.join),
            on_turn=self._on_turn,
            security=security,
        )
        self._wakeful = Wakeful(asyncio.get_running_loop(), BusyPoll(allowed=options.busy_poll and may_poll()))
        self._tokens: Watched[TokenTable] | None = None
        front: Callable[..., HttpFront] = HttpFront
        if options.tokens:
            self._tokens = Watched(Path(options.tokens), parse_tokens, "the token file")
            front = functools.partial(TokenFront, tokens=self._tokens_in_force)
            if scheme == "http" and not is_loopback(listener):
                log.warning("tokens travel in clear text, for all in between to read: use --tls-cert, or a TLS proxy")
        self._front = front(
            self._core,
            self._hub.poke_now,
            limits=within_descriptors(options.limits),
            default_timeout_s=options.default_timeout_s,
            scheme=scheme,
            gatherer=_gatherer(),
        )

    async def run(self) -> int:
        hub, front, options = self._hub, self._front, self._options
        hub.start()
        if self._beside is not None:
            hub.link_beside(self._beside)
        joining = asyncio.ensure_future(keep_joined(hub, options))
        await self._first_sync(joining)
        server = self._server()
        serving = asyncio.ensure_future(server.serve(sockets=[self._listener]))
        front.server_state = server.server_state
        sweeping = asyncio.ensure_future(self._sweep())
        watchers = self._watch_files()
        try:
            while not server.started and not serving.done():
                await asyncio.sleep(0.002)
            # Everything allocated so far lives as long as the process: keep the collector from walking it again.
            gc.collect()
            gc.freeze()
            report(options, "ready", http=self._url)
            log.info("listening on %s", self._url)
            await self._first(self._stop.requested.wait(), serving, joining)
            log.info("draining: %s", self._stop.reason or "the server ended")
            front.draining = True
            self._core.leaving = True
            for peer, _ in hub.links.open_links():
                self._core.out.send(peer, self._core.ping(peer, time.monotonic()))
            server.should_exit = True
            await serving
            return 0
        finally:
            sweeping.cancel()
            for watcher in watchers:
                watcher.stop()
            joining.cancel()
            await hub.stop("the gateway is shutting down")
            if self._answers is not None:
                self._answers.remove()

    async def _first_sync(self, joining: asyncio.Future[None]) -> None:
        """Know the routes before the first request comes: until then clients wait in the listening socket, where an
        answer would have to be 404."""
        end = time.monotonic() + _FIRST_SYNC_S
        while not (self._core.sync.synced or self._stop.requested.is_set() or time.monotonic() > end):
            if joining.done() and joining.exception() is not None:
                return  # it is raised where the gateway waits
            await asyncio.sleep(0.002)

    async def _first(self, stopped: Any, serving: asyncio.Future[None], joining: asyncio.Future[None]) -> None:
        """Wait for the wish to stop, the end of the server, or the failure to join."""
        waiting = asyncio.ensure_future(stopped)
        try:
            pending = {waiting, serving, joining}
            while not (waiting.done() or serving.done()):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if joining in done:
                    joining.result()
        finally:
            waiting.cancel()

    def _server(self) -> _Server:
        protocol = type("GatewayProtocol", (FabricProtocol,), {"front": self._front})
        pages = system_pages(self._core, lambda: render_gateway(self._core, self._hub, self._front))
        config = uvicorn.Config(
            app=pages if self._tokens is None else with_tokens(pages, self._tokens_in_force),
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[("server", "zserve")],
            backlog=2048,
            timeout_graceful_shutdown=max(1, int(self._options.grace_s)),
        )
        config.load()
        if self._certificate is not None:
            config.ssl = self._certificate.context
        return _Server(config)

    def _tokens_in_force(self) -> TokenTable:
        assert self._tokens is not None
        return self._tokens.value

    def _watch_files(self) -> list[Watcher]:
        """Tokens and certificates are read again when their files change."""
        watchers = []
        if self._tokens is not None:
            watchers.append(Watcher([self._tokens], lambda: None))
        if self._certificate is not None:
            watchers.append(self._certificate.watch(asyncio.get_running_loop()))
        return watchers

    def _on_turn(self) -> None:
        self._front.deliver()
        if self._core.held_bytes < _LARGE_BODIES:
            self._wakeful.happened()
        if self._core.shutdown_reason:
            self._stop.request(self._core.shutdown_reason)

    async def _sweep(self) -> None:
        descriptors = Descriptors()
        while True:
            await asyncio.sleep(1.0)
            self._front.sweep()
            descriptors.look()
            self._time.look()

"""Several gateways on one port: processes that share it (SO_REUSEPORT), kept running by one parent.

Each is a gateway of its own to the fabric.  The parent holds the listening sockets, so that connections that come while
one of them is started again wait instead of being refused.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec

from zserve.errors import ServeError

from .complaint import complain
from .kept import Kept
from .listen import listen_all, url_of
from .options import GatewayOptions
from .program import Stop, report, run_program

__all__ = ["run"]

_MARGIN_S = 5.0

log = logging.getLogger("zserve.gateways")


def run(options: GatewayOptions) -> int:
    """Run ``options.processes`` gateways to their end; the result is the exit status."""
    try:
        listeners = listen_all(options.http_host, options.http_port, options.processes)
    except ServeError as error:
        complain(str(error))
        report(options, "failed", error=str(error), exit=error.exit_status)
        return error.exit_status
    try:
        # The gateways are given the grace; this process has some more, to see them end.
        grace_s = options.grace_s + _MARGIN_S
        parent = msgspec.structs.replace(options, grace_s=grace_s, orphan_grace_s=grace_s)
        return run_program(lambda stop: _Gateways(options, listeners, stop).run(), parent)
    finally:
        for listener in listeners:
            listener.close()


class _Gateways:
    def __init__(self, options: GatewayOptions, listeners: list[socket.socket], stop: Stop) -> None:
        self._options = options
        self._listeners = listeners
        self._stop = stop
        self._roles = [
            Kept(
                msgspec.structs.replace(
                    options,
                    name=f"{options.name or 'gateway'}-{number}",
                    processes=1,
                    http_port=listener.getsockname()[1],
                    http_fd=listener.fileno(),
                    lifeline=True,
                    status_fd=-1,
                ),
                keep=(listener.fileno(),),
            )
            for number, listener in enumerate(listeners, 1)
        ]

    async def run(self) -> int:
        options, roles = self._options, self._roles
        try:
            for role in roles:
                role.launch(forked=False)
                role.watch()
            if not await self._ready():
                return 0
            url = url_of(self._listeners[0], "https" if options.tls_cert else "http")
            report(options, "ready", http=url)
            log.info("%d gateways listen on %s", len(roles), url)
            for role in roles:
                role.keep_running = True
                role.on_leave = lambda: self._stop.request("the fabric was shut down")
            await self._stop.wait()
            return 0
        finally:
            await self._end()

    async def _ready(self) -> bool:
        """True once all of them are; False if they are to stop before.  Raises ServeError when one ends first."""
        ready = asyncio.ensure_future(self._all_ready())
        stopped = asyncio.ensure_future(self._stop.wait())
        ended = [asyncio.ensure_future(role.ended()) for role in self._roles]
        try:
            done, _ = await asyncio.wait([ready, stopped, *ended], return_when=asyncio.FIRST_COMPLETED)
            for role in ended:
                if role in done and ready not in done and stopped not in done:
                    raise role.result()
            return ready in done
        finally:
            for task in (ready, stopped, *ended):
                task.cancel()

    async def _all_ready(self) -> None:
        for role in self._roles:
            await role.ready.wait()

    async def _end(self) -> None:
        for listener in self._listeners:
            listener.close()  # or connections would go on coming to a socket that nobody serves
        if self._stop.forced:
            await asyncio.gather(*(role.force() for role in self._roles))
        else:
            await asyncio.gather(*(role.stop(self._options.grace_s + _MARGIN_S / 2) for role in self._roles))

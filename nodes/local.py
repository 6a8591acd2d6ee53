"""The all-in-one: a gateway with a router in one child process, a worker node in another, over ipc sockets.

    python -m zserve.nodes.local --port 8000 --app-dir .

prints one line of JSON on standard output, {"address", "http", "code_dir", "run_dir"} once HTTP answers or
{"error", "exit"}, and stays until its standard input ends or a signal comes.  ``zserve run`` and ``serve.init()`` start
it and hold the other end of that input, so that nothing is left behind whatever becomes of them.

How the roles are started: by ``fork``, from a process that has imported what all of them need and has no thread, event
loop or ZeroMQ context yet; three more interpreters that import the same modules anew would cost more time than all the
rest of the start (docs/running.md has the measurement).  A role that is started again later, when this process has an
event loop, is started as a program of its own; so are all of them on macOS, where a fork without exec is not safe.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from zserve.errors import ServeError
from zserve.http.limits import HttpLimits

from .kept import Kept
from .listen import listen_all, url_of
from .options import GatewayOptions, NodeOptions, RouterOptions, TogetherOptions, WorkerOptions
from .program import SIGNALS, Stop, run_program
from .run_directory import RunDirectory

__all__ = ["LocalOptions", "main"]

START_TIMEOUT_S = 20.0
"""How long the roles may take until HTTP answers."""
HEAD_START_S = 10.0
"""For so long a replica process is kept that was started before anyone knew what it would run."""
_MARGIN_S = 5.0


class LocalOptions(NodeOptions, kw_only=True, tag="local"):
    """Options of the fabric as a whole; see :class:`GatewayOptions` and :class:`WorkerOptions`."""

    http_host: str = "127.0.0.1"
    http_port: int = 8000
    gateways: int = 1
    slots: int = 64
    busy_poll: bool = True
    app_dirs: list[str] = []
    state_dir: str = ""
    policy: str = "random"
    policy_kwargs: dict[str, Any] = {}
    limits: HttpLimits = HttpLimits()
    tokens: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    lifeline: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a fabric to its end; the result is the exit status."""
    # A signal that comes while the children start waits until the event loop can deal with it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    options = _parse(arguments)
    try:
        listeners = listen_all(options.http_host, options.http_port, options.gateways)
        with ExitStack() as held, RunDirectory(options.name) as run_directory:
            for listener in listeners:
                held.enter_context(listener)
            fabric = _Fabric(options, run_directory, listeners)
            fabric.launch()
            # The roles are given the grace; this process has some more, to see them end.
            grace_s = options.grace_s + _MARGIN_S
            return run_program(
                fabric.serve, msgspec.structs.replace(options, grace_s=grace_s, orphan_grace_s=grace_s)
            )
    except ServeError as error:
        return _failed(error)


class _Fabric:
    """The roles of one fabric, and what keeps them running.  *listeners*: a socket for each gateway, of one port."""

    def __init__(self, options: LocalOptions, run_directory: RunDirectory, listeners: list[socket.socket]) -> None:
        self.options = options
        self.run_directory = run_directory
        self.listeners = listeners
        listener = listeners[0]
        self.address = run_directory.socket_address("router")
        self.http = url_of(listener, "https" if options.tls_cert else "http")
        common: dict[str, Any] = {
            "lifeline": True,
            "log_level": options.log_level,
            "debug": options.debug,
            "grace_s": options.grace_s,
        }
        web: dict[str, Any] = {
            "limits": options.limits,
            "tokens": options.tokens,
            "tls_cert": options.tls_cert,
            "tls_key": options.tls_key,
            "busy_poll": options.busy_poll,
        }
        self.roles = {
            # In one process: two hops fewer, and faster by a fifth at 64 connections (docs/performance.md).
            "gateway and router": Kept(
                TogetherOptions(
                    name="gateway and router",
                    router=RouterOptions(
                        name="router",
                        bind=self.address,
                        publish=run_directory.socket_address("publish"),
                        # A router that crashes has to find its registry again, if only as long as the fabric lives.
                        state_dir=options.state_dir or str(run_directory.state),
                        policy=options.policy,
                        policy_kwargs=options.policy_kwargs,
                        app_dirs=options.app_dirs,
                        **common,
                    ),
                    gateway=GatewayOptions(
                        name="gateway",
                        http_host=options.http_host,
                        http_port=listener.getsockname()[1],
                        http_fd=listener.fileno(),
                        **web,
                        **common,
                    ),
                    **common,
                ),
                keep=(listener.fileno(),),
            ),
            "worker": Kept(
                WorkerOptions(
                    name="worker",
                    join=[self.address],
                    slots=options.slots,
                    busy_poll=options.busy_poll,
                    app_dirs=options.app_dirs,
                    code_dir=str(run_directory.code),
                    told_elsewhere=True,
                    head_start_s=HEAD_START_S,
                    **common,
                )
            ),
        }

        for number, more in enumerate(listeners[1:], 2):
            name = f"gateway-{number}"
            self.roles[name] = Kept(
                GatewayOptions(
                    name=name,
                    join=[self.address],
                    http_host=options.http_host,
                    http_port=more.getsockname()[1],
                    http_fd=more.fileno(),
                    **web,
                    **common,
                ),
                keep=(more.fileno(),),
            )

    def launch(self) -> None:
        """Start all roles at once; they find each other, because the addresses are known beforehand."""
        if sys.platform == "linux":
            _import_what_all_roles_need()
            gc.freeze()  # a collection in a child must not copy all pages that it shares with this process
        for role in self.roles.values():  # the gateway comes first: it has the most to import
            role.launch(forked=sys.platform == "linux")

    async def serve(self, stop: Stop) -> int:
        """Until *stop*: keep all roles running."""
        try:
            for role in self.roles.values():
                role.watch()
            try:
                await self._until_it_answers(stop)
            except ServeError as error:
                return _failed(error)
            if not stop.requested.is_set():
                self.run_directory.announce(address=self.address, http=self.http)
                _say(
                    {
                        "address": self.address,
                        "http": self.http,
                        "code_dir": str(self.run_directory.code),
                        "run_dir": str(self.run_directory.path),
                    }
                )
                for role in self.roles.values():
                    role.keep_running = True
                    role.on_leave = lambda: stop.request("the fabric was shut down")
            await stop.wait()
            return 0
        finally:
            await self._stop(stop)

    async def _until_it_answers(self, stop: Stop) -> None:
        """Until HTTP answers, or *stop*; raises :class:`ServeError` if a role ends first or it takes too long."""
        ready = asyncio.ensure_future(self._ready())
        others = [asyncio.ensure_future(role.ended()) for role in self.roles.values()]
        stopped = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait(
                [ready, stopped, *others], timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if stopped in done or ready in done:
                return
            for other in others:
                if other in done:
                    raise other.result()
            raise ServeError(f"the fabric did not answer on {self.http} within {START_TIMEOUT_S:g} s")
        finally:
            for task in (ready, stopped, *others):
                task.cancel()

    async def _ready(self) -> None:
        await self.roles["gateway and router"].ready.wait()
        for name, role in self.roles.items():
            if name.startswith("gateway-"):
                await role.ready.wait()
        # The socket listens already, so that this waits for the gateway without asking again and again.
        while not await _http_answers(self.listeners[0], secure=bool(self.options.tls_cert)):
            await asyncio.sleep(0.02)

    async def _stop(self, stop: Stop) -> None:
        """End all roles in the order in which nothing is lost; or at once if the time for that is over."""
        for role in self.roles.values():
            role.keep_running = False
        for listener in self.listeners:
            listener.close()  # so that the port is free as soon as the gateways have closed it
        try:
            if not stop.forced:
                grace_s = self.options.grace_s + _MARGIN_S / 2
                # Gateways that have no router beside them first: those that have are the last who can reach it.
                more = [role for name, role in self.roles.items() if name.startswith("gateway-")]
                await asyncio.gather(*(role.stop(grace_s) for role in more))
                for name in ("gateway and router", "worker"):
                    await self.roles[name].stop(grace_s)
        finally:
            await asyncio.gather(*(role.force() for role in self.roles.values()))


def _import_what_all_roles_need() -> None:
    import uvloop  # noqa: F401
    import zmq  # noqa: F401

    from zserve.channel import hub  # noqa: F401
    from zserve.registry import sync  # noqa: F401

    from . import joining  # noqa: F401


async def _http_answers(listener: socket.socket, *, secure: bool) -> bool:
    """True once a health check is answered, with whatever status.  *secure*: with TLS, whatever the certificate."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=_any_certificate() if secure else None)
    except OSError:
        return False
    try:
        writer.write(b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await reader.read(5)) == b"HTTP/"
    except OSError:
        return False
    finally:
        writer.close()


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _failed(error: ServeError) -> int:
    _say({"error": str(error), "exit": error.exit_status, "class": type(error).__name__})
    return error.exit_status


def _say(facts: dict[str, Any]) -> None:
    """The one line for whoever has started this."""
    with suppress(OSError):
        os.write(1, json.dumps(facts).encode() + b"\n")


def _limits(text: str) -> HttpLimits:
    return msgspec.json.decode(text, type=HttpLimits)


def _parse(arguments: Sequence[str] | None) -> LocalOptions:
    parser = argparse.ArgumentParser(prog="python -m zserve.nodes.local", description="A fabric in one go, over ipc.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--gateways", type=int, default=1, help="processes that answer HTTP, on one port")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--no-busy-poll", dest="busy_poll", action="store_false")
    parser.add_argument("--name", default="")
    parser.add_argument("--app-dir", action="append", help="a folder with user code; repeatable")
    parser.add_argument("--queueing-policy", default="random")
    parser.add_argument("--policy-kwargs", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--state-dir", default="")
    parser.add_argument("--limits", type=_limits, default=HttpLimits(), metavar="JSON", help="of HTTP")
    parser.add_argument("--tokens", default="")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that a drain may take")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--debug", action="store_true")
    given = parser.parse_args(arguments)
    return LocalOptions(
        http_host=given.host,
        http_port=given.port,
        gateways=given.gateways,
        slots=given.slots,
        busy_poll=given.busy_poll,
        name=given.name,
        app_dirs=[os.path.abspath(path) for path in given.app_dir or ()],
        policy=given.queueing_policy,
        policy_kwargs=given.policy_kwargs,
        state_dir=given.state_dir,
        limits=given.limits,
        tokens=given.tokens,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        grace_s=given.grace,
        log_level=given.log_level,
        debug=given.debug,
    )


if __name__ == "__main__":
    sys.exit(main())

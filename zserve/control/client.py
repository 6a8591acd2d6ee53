"""The client side of a control call: one DEALER socket, one question, one answer.

A call says HELLO, waits for the router's HELLO, sends :class:`~zserve.wire.messages.Control`, waits for the
:class:`~zserve.wire.messages.ControlReply` and leaves with GOODBYE.  A socket for each call keeps the client free of
threads and of state between calls: any number of threads may share one :class:`ControlClient`, a fork does no harm, and
a router that was restarted in between is not even noticed.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket as _socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import orjson
import zmq
from zmq.utils.monitor import parse_monitor_message

from .. import errors
from ..errors import FabricUnreachable, ServeError, ServeWarning
from ..security.identity import Security, from_environment
from ..wire.codec import WireError, decode, encode
from ..wire.messages import (
    ASK_FOR_HELLO,
    MIN_VERSION,
    VERSION,
    Control,
    ControlReply,
    Goodbye,
    Hello,
    NodeInfo,
    Ping,
    Reset,
)
from .callers import user_stacklevel

__all__ = ["CALL_TIMEOUT_S", "CONNECT_TIMEOUT_S", "ControlClient", "normal_address", "raise_remote"]

CONNECT_TIMEOUT_S = 4.5
"""How long a call looks for a router that answers HELLO."""
CALL_TIMEOUT_S = 30.0
"""How long a call waits for its reply, unless it says otherwise."""
SILENCE_LIMIT_S = 10.0
"""A router says something every second (PING); one that says nothing for this long is gone."""
PING_INTERVAL_S = 1.0
_RESET_PAUSE_S = 0.05

_BUILTIN_ERRORS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError, "KeyError": KeyError}


_HANDSHAKE_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


def normal_address(address: str) -> str:
    """*address* with its transport: ``host:port`` becomes ``tcp://host:port``.

    Raises TypeError if it is not a string, and ValueError if it is neither ``tcp://host:port``, ``host:port`` nor
    ``ipc://path``.
    """
    if not isinstance(address, str):
        raise TypeError(f"address must be a string, not {type(address).__name__}: {address!r}")
    text = address.strip()
    if "://" not in text:
        text = f"tcp://{text}"
    scheme, _, rest = text.partition("://")
    if scheme == "ipc" and rest:
        return text
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and port.isdecimal() and 0 < int(port) < 65536:
        return text
    raise ValueError(f"address must look like tcp://host:port or ipc://path, not {address!r}")


def raise_remote(payload: bytes) -> NoReturn:
    """Raise the error that a reply carries, as its own class: a builtin for arguments, else a ServeError."""
    try:
        fault = orjson.loads(payload)
        name, message = str(fault["error"]), str(fault["message"])
    except (ValueError, KeyError, TypeError):
        raise ServeError(f"the router refused the call without a readable reason: {payload[:200]!r}") from None
    known = _BUILTIN_ERRORS.get(name)
    if known is None:
        found = getattr(errors, name, None)
        if not (isinstance(found, type) and issubclass(found, ServeError)):
            raise ServeError(f"{name}: {message}")
        known = found
    raise known(message)


class ControlClient:
    """Makes control calls to the router at *address* (``tcp://host:port`` or ``ipc://path``).

    Over tcp it uses the key that ZSERVE_KEY and ZSERVE_KNOWN_KEYS name, if they are set.

    Synchronous and safe to share between threads.  Nothing is opened before the first call; :meth:`close` (or leaving
    the ``with`` block) frees the ZeroMQ context.
    """

    def __init__(self, address: str, *, name: str = "", connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self.address = normal_address(address)
        self.connect_timeout_s = connect_timeout_s
        self._name = name
        self._node = secrets.token_bytes(16)
        self._security: Security | None = None
        self._renew()

    def _renew(self) -> None:
        # A forked child must use neither its parent's context nor its routing ids.
        self._pid = os.getpid()
        self._boot = secrets.token_bytes(8)
        self._sockets = itertools.count(1)
        self._calls = itertools.count(1)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ControlClient({self.address!r})"

    def close(self) -> None:
        """Free what the calls used.  A later call opens it again."""
        context, self._context = self._context, None
        if context is not None and self._pid == os.getpid():
            context.term()  # calls of other threads end with ContextTerminated and close their sockets

    def call(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Have the router carry out *op* with *args* (anything that JSON can say) and return its result.

        Warnings in the reply are issued as :class:`~zserve.errors.ServeWarning`.

        Raises FabricUnreachable when no router answers within ``connect_timeout_s`` seconds or it goes silent,
        ServeError when the reply takes longer than *timeout_s* seconds, and whatever error the router answers with.
        """
        request = orjson.dumps(args or {})
        reply = self._exchange(op, request, timeout_s)
        if not reply.ok:
            raise_remote(reply.payload)
        try:
            answer = orjson.loads(reply.payload) if reply.payload else None
        except ValueError:
            raise ServeError(f"the router at {self.address} answered {op} with something unreadable") from None
        if isinstance(answer, dict) and "result" in answer and answer.keys() <= {"result", "warnings"}:
            for text in answer.get("warnings") or ():
                warnings.warn(str(text), ServeWarning, stacklevel=user_stacklevel())
            return answer["result"]
        return answer

    # --- the exchange -------------------------------------------------------------------------------------------------

    def _exchange(self, op: str, request: bytes, timeout_s: float) -> ControlReply:
        connect_until = time.monotonic() + self.connect_timeout_s
        with self._link(connect_until) as link:
            call_id = next(self._calls)
            link.send(Control(call_id, op, request))
            deadline = time.monotonic() + timeout_s
            heard = time.monotonic()
            while True:
                now = time.monotonic()
                if now >= deadline:
                    raise ServeError(f"{op}: no answer from {self.address} within {timeout_s:g} s; it may still happen")
                if now >= heard + SILENCE_LIMIT_S:
                    raise FabricUnreachable(
                        f"the router at {self.address} went silent during {op}, which may or may not have been done; "
                        f"look with `zserve status`"
                    )
                messages = link.receive(min(deadline, now + PING_INTERVAL_S))
                if messages:
                    heard = time.monotonic()
                for message in messages:
                    if isinstance(message, ControlReply) and message.id == call_id:
                        return message
                    if isinstance(message, (Reset, Goodbye)):
                        raise FabricUnreachable(
                            f"the router at {self.address} left during {op} ({message.reason or 'no reason given'}); "
                            f"the call may or may not have been done"
                        )
                link.ping()

    @contextmanager
    def _link(self, until: float) -> Iterator[_Link]:
        """A socket that has exchanged HELLO with the router."""
        self._refuse_missing_path()
        while True:
            link = self._open()
            try:
                if link.greet(until):
                    yield link
                    link.leave()
                    return
            except zmq.ContextTerminated:
                raise FabricUnreachable(f"the client of {self.address} was closed during the call") from None
            finally:
                link.close()
            time.sleep(_RESET_PAUSE_S)

    def _open(self) -> _Link:
        if self._pid != os.getpid():
            self._renew()
        if self._context is None:
            self._security = from_environment([self.address])
            if self._security is not None:
                self._node = self._security.node_id(self._node)
            self._context = zmq.Context()
        security, server = self._security, b""
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a router that is not there
            socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
            socket.setsockopt(zmq.IPV6, 1)
            # Unique for each socket: a repeated routing id would be ignored by the router for ever.
            number = next(self._sockets) & 0xFFFFFFFF
            socket.setsockopt(zmq.ROUTING_ID, self._node + self._boot + number.to_bytes(4, "big"))
            if security is not None:
                server = security.router_key(self.address)
                socket.setsockopt(zmq.CURVE_SERVERKEY, server)
                socket.setsockopt(zmq.CURVE_PUBLICKEY, security.pair.public)
                socket.setsockopt(zmq.CURVE_SECRETKEY, security.pair.secret)
            link = _Link(socket, self.address, security, server)
            socket.connect(self.address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise FabricUnreachable(f"cannot connect to {self.address}: {error}") from None
        link.hello.info.node = self._node
        link.hello.info.boot = self._boot
        link.hello.info.name = self._name
        return link

    def _refuse_missing_path(self) -> None:
        scheme, _, path = self.address.partition("://")
        if scheme == "ipc" and not path.startswith("@") and not os.path.exists(path):
            raise FabricUnreachable(
                f"no fabric at {self.address}: there is no such socket; check the address, or start one with "
                f"`zserve run`"
            )


class _Link:
    """One socket during one call."""

    def __init__(self, socket: zmq.Socket[bytes], address: str, security: Security | None, server: bytes) -> None:
        info = NodeInfo(b"", b"", "client", pid=os.getpid(), host=_socket.gethostname())
        self.hello = Hello(VERSION, MIN_VERSION, info)
        self._socket = socket
        self._address = address
        self._security = security
        self._server = server
        self._monitor = None if security is None else socket.get_monitor_socket(_HANDSHAKE_EVENTS)
        self._pinged = time.monotonic()

    def close(self) -> None:
        if self._monitor is not None:
            if not self._socket.closed:
                self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket.close(0)

    def send(self, message: Any) -> None:
        self._socket.send_multipart(encode([(message, b"", b"")]), zmq.NOBLOCK)

    def greet(self, until: float) -> bool:
        """Exchange HELLO.  False: the router said RESET, so that a new socket is needed."""
        if self._monitor is not None and not self._shake_hands(self._monitor, until):
            return False
        if not self._socket.poll(_ms_until(until), zmq.POLLOUT):
            raise self._unreachable("no router answers")
        self.send(self.hello)
        while time.monotonic() < until:
            for message in self.receive(until):
                if isinstance(message, Hello):
                    if message.version < MIN_VERSION or message.min_version > VERSION:
                        raise FabricUnreachable(
                            f"the router at {self._address} speaks protocol {message.version}, this client {VERSION}: "
                            f"install the same version of zserve on both sides"
                        )
                    return True
                if isinstance(message, Reset):
                    if self._security is not None and message.reason != ASK_FOR_HELLO:
                        raise self._unreachable(f"the router refuses the key in ZSERVE_KEY (--key): {message.reason};")
                    return False
                if isinstance(message, Goodbye):
                    raise self._unreachable("the router is shutting down")
        raise self._unreachable("something listens but does not answer as a zserve router")

    def _shake_hands(self, monitor: zmq.Socket[bytes], until: float) -> bool:
        """Wait until the keys have been exchanged.  False: another key of a router is to be tried."""
        assert self._security is not None
        while monitor.poll(_ms_until(until)):
            event = parse_monitor_message(monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._security.found(self._address, self._server)
                return True
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise self._unreachable("the key in ZSERVE_KEY (--key) is not known")
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                raise self._unreachable("there is a key in ZSERVE_KEY (--key), but the router uses none")
            self._security.not_found(self._address)
            return False
        raise self._unreachable("no router answers")

    def receive(self, until: float) -> list[Any]:
        """The messages of the next wire message, [] when nothing readable came before *until*."""
        if not self._socket.poll(_ms_until(until), zmq.POLLIN):
            return []
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            return [message for message, _head, _body in decode(frames)]
        except (zmq.Again, WireError):
            return []

    def ping(self) -> None:
        """Heartbeat, at most once a second, so that the router does not take the client for dead in a long call."""
        now = time.monotonic()
        if now - self._pinged >= PING_INTERVAL_S:
            self._pinged = now
            try:
                self.send(Ping())
            except zmq.Again:
                pass  # not connected at the moment; the silence limit decides

    def leave(self) -> None:
        try:
            self.send(Goodbye("done"))
        except zmq.Again:
            return
        # With linger 0 a close drops what the I/O thread has not written yet.  A moment is enough on a live link, and
        # a goodbye that is lost costs the router nothing but a dead-link timeout.
        self._socket.setsockopt(zmq.LINGER, 50)
        self._socket.close()

    def _unreachable(self, what: str) -> FabricUnreachable:
        return FabricUnreachable(
            f"{what} at {self._address}; check the address (`zserve status` on a node of the fabric prints it) and "
            f"that the fabric is running"
        )


def _ms_until(until: float) -> int:
    return max(0, int((until - time.monotonic()) * 1000) + 1)

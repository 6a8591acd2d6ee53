"""What no node sends, to the ZeroMQ sockets of routers and gateways: drawn from a seed, each with how it is counted."""

from __future__ import annotations

import os
import pickle
import random
import socket
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq

from zserve.security.roles import may_send
from zserve.wire.codec import MAX_MESSAGES, WireError, decode, encode
from zserve.wire.messages import VERSION, Hello, NodeInfo

from ..wire.samples import samples

__all__ = ["SocketFuzzer", "bomb"]

SESSION = 400
"""Messages that one socket sends."""
ROLES = ("gateway", "caller", "worker", "replica", "client")
_LARGE = (1 << 16, 1 << 20)
_GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x01NULL" + b"\x00" * 16 + b"\x00" * 32


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def bomb(marker: Path) -> bytes:
    """A pickle that makes the file *marker* when it is loaded."""
    return pickle.dumps(_Bomb(marker))


class SocketFuzzer:
    """Talks to the ROUTER socket at *address* and the PUB socket at *publish* ("" if there is none) of a *listener*, a
    router or a gateway.

    sent: messages so far; expected: of these, how many that has to count as refused, all of them but what libzmq
    keeps to itself (bytes that are not ZMTP, subscriptions).  raw: connections with such bytes; a few of them are ZMTP
    by chance, and are counted, too.
    """

    def __init__(self, seed: int, address: str, publish: str, marker: Path, listener: str = "router") -> None:
        self.sent = 0
        self.expected = 0
        self.raw = 0
        self._rng = random.Random(seed)
        self._address = address
        self._publish = publish
        self._listener = listener
        self._roles = [role for role in ROLES if may_send(role, listener)]
        self._bomb = bomb(marker)
        self._context: zmq.Context[Any] = zmq.Context()
        self._captured: list[list[bytes]] = []

    def close(self) -> None:
        self._context.term()

    def session(self) -> None:
        """One socket's worth."""
        kinds = [self._strange, self._strange, self._strange, self._misplaced, self._bytes]
        if self._publish:
            kinds.append(self._subscriber)
        self._rng.choice(kinds)()

    # --- before HELLO -------------------------------------------------------------------------------------------------

    def _strange(self) -> None:
        """Noise, and messages of nodes that were changed, cut, joined, or recorded from another socket, by a peer that
        does not say HELLO (or says one that is not good)."""
        dealer = self._dealer(self._rng.randbytes(self._rng.choice((4, 28))).replace(b"\x00", b"\x01"))
        try:
            for _ in range(SESSION):
                frames = self._draw()
                try:
                    parcels = decode(frames)
                except WireError:
                    self.expected += 1
                else:
                    if not parcels:
                        continue  # says nothing at all
                    # Every HELLO that is refused, and the first message of another kind: behind that nothing is read.
                    hellos = list(takewhile(lambda parcel: type(parcel[0]) is Hello, parcels))
                    self.expected += len(hellos) + (len(parcels) > len(hellos))
                dealer.send_multipart(frames)
                self.sent += 1
        finally:
            dealer.close()

    def _draw(self) -> list[bytes]:
        rng = self._rng
        kind = rng.randrange(8)
        if kind == 0:
            return [rng.randbytes(rng.randint(0, 200)) for _ in range(rng.randint(1, 4))]
        if kind == 1:
            return [self._bomb] * rng.randint(1, 3)
        if kind == 2 and rng.random() < 0.02:
            size = rng.choice(_LARGE)
            return rng.choice(
                ([b"\x90" + bytes(size)], [b"\xdd" + (MAX_MESSAGES + 1).to_bytes(4, "big") + b"\xc0" * size])
            )
        if kind == 3 and self._captured:
            return rng.choice(self._captured)
        frames = encode([self._parcel() for _ in range(rng.choice((1, 1, 2, 5)))])
        if len(self._captured) < 200:
            self._captured.append(frames)
        if kind >= 5:
            at = rng.randrange(len(frames))
            frames[at] = self._mutated(frames[at])
        return frames

    def _parcel(self) -> tuple[Any, bytes, bytes]:
        message = self._rng.choice(samples())
        parted = hasattr(message, "body")
        return message, self._bomb if parted else b"", self._bomb if parted and self._rng.random() < 0.5 else b""

    def _mutated(self, data: bytes) -> bytes:
        rng = self._rng
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data = data[:at]
            elif kind == 1:
                data = data[:at] + rng.randbytes(1) + data[at + 1 :]
            elif kind == 2:
                data = data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:]
            else:
                data = data[at:] + data[:at]
        return data

    # --- after it -----------------------------------------------------------------------------------------------------

    def _misplaced(self) -> None:
        """A peer that says HELLO, and then what its role may not say."""
        role = self._rng.choice(self._roles)
        node, boot = os.urandom(16), os.urandom(8)
        dealer = self._dealer(node + boot + b"0001")
        allowed = may_send(role, self._listener)
        try:
            dealer.send_multipart(
                encode([(Hello(VERSION, 1, NodeInfo(node, boot, role, "fuzz"), "fuzz", "1"), b"", b"")])
            )
            for _ in range(SESSION):
                wrong = [message for message in samples() if type(message) not in allowed]
                dealer.send_multipart(encode([(self._rng.choice(wrong), b"", b"")]))
                self.sent += 1
                self.expected += 1
            dealer.send_multipart(encode([(_goodbye(), b"", b"")]))
        finally:
            dealer.close()

    def _subscriber(self) -> None:
        """Subscriptions to anything, and messages where only subscriptions belong."""
        subscriber = self._context.socket(zmq.XSUB)
        subscriber.setsockopt(zmq.LINGER, 2000)
        try:
            subscriber.connect(self._publish)
            for _ in range(SESSION):
                subscriber.send(
                    self._rng.choice((b"\x01", b"\x00", b"\x02", b"")) + self._rng.choice((b"", self._bomb))
                )
                self.sent += 1
        finally:
            subscriber.close()

    def _bytes(self) -> None:
        """Bytes that are not even ZMTP, or stop being it after the greeting, to either socket."""
        for _ in range(SESSION // 20):
            with _plain(self._rng.choice((self._address, self._publish or self._address))) as connection:
                connection.settimeout(self._rng.choice((0.0, 0.002)))
                try:
                    if self._rng.random() < 0.7:
                        connection.sendall(_GREETING)
                    size = self._rng.choice(
                        (b"\x06" + b"\xff" * 8, b"\x02" + b"\x7f" + b"\xff" * 7, b"\x04\x29\x05READY")
                    )
                    connection.sendall(self._rng.choice((size, b"")) + self._rng.randbytes(self._rng.randint(0, 300)))
                    connection.sendall(self._bomb)
                    connection.recv(4096)
                except OSError:
                    pass  # it may end the connection at any time, or wait for more
            self.sent += 1
            self.raw += 1

    def _dealer(self, name: bytes) -> zmq.Socket[bytes]:
        dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, name)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.SNDTIMEO, 60_000)
        dealer.setsockopt(zmq.LINGER, 60_000)
        dealer.connect(self._address)
        return dealer


def _goodbye() -> Any:
    return next(message for message in samples() if type(message).__name__ == "Goodbye")


def _plain(address: str) -> socket.socket:
    if address.startswith("ipc://"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30.0)
        connection.connect(address.removeprefix("ipc://"))
        return connection
    place = urlsplit(address)
    assert place.hostname is not None
    assert place.port is not None
    return socket.create_connection((place.hostname, place.port), 30.0)

"""What a hub does besides where its node has a key: it asks the guard about every message, and turns out whose key was
taken away.  A hub without keys has none of this in its way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from ..security.connections import Connections
from ..security.guard import Guard
from ..security.identity import Security, keyed
from ..security.keys import KeyPair
from ..security.zap import ZapHandler
from ..wire.codec import WireError, decode
from ..wire.messages import Message, Reset
from .links import Links
from .loop import Loop
from .outbox import Peer
from .sockets import KeyedSocket

__all__ = ["Gate"]

log = logging.getLogger("zserve.security")

_SAY_EVERY_S = 5.0


class Gate:
    """Stands between the sockets and the *links* of one hub.

    *reject* is called with what can not be decoded, *poke* when there is something for the hub to do.
    """

    def __init__(
        self,
        security: Security,
        links: Links,
        loop: Loop,
        reject: Callable[[Peer, WireError], None],
        poke: Callable[[], None],
    ) -> None:
        self.security = security
        self.guard = Guard(links.info.role, security.known)
        self._links = links
        self._loop = loop
        self._reject = reject
        self._poke = poke
        self._zap: ZapHandler | None = None
        self._connections = Connections()
        self._said_at = -_SAY_EVERY_S
        self._watcher = security.watch(self._files_changed)

    def pair_for(self, address: str) -> KeyPair | None:
        """The key to use at *address*: none where links stay on this machine."""
        return self.security.pair if keyed(address) else None

    def pair_to_bind(self, context: zmq.Context[Any], address: str) -> KeyPair | None:
        """The same for a socket of *context* that is going to listen there, and let in only keys that are known."""
        pair = self.pair_for(address)
        if pair is not None and self._zap is None:
            self._zap = ZapHandler(context, lambda key: self.security.known().get(key) is not None)
        return pair

    def close(self) -> None:
        self._watcher.stop()

    def statistics(self) -> dict[str, Any]:
        zap = self._zap
        return {
            "refused_messages": self.guard.refused,
            "refused_keys": zap.refused if zap is not None else 0,
            "known_keys_broken": int(bool(self.security.error)),
        }

    # --- towards routers --------------------------------------------------------------------------------------------

    def expect(self, peer: Peer, address: str) -> tuple[KeyPair | None, bytes]:
        """For a new socket *peer* towards *address*: the own key, and the one that has to be there; none for ipc."""
        pair = self.pair_for(address)
        if pair is None:
            return None, b""
        server = self.security.router_key(address)
        self.guard.dialled(peer, server)
        return pair, server

    def ended(self, peer: Peer) -> None:
        """A link has ended, or never began."""
        self.guard.forget(peer)

    # --- messages ---------------------------------------------------------------------------------------------------

    def on_router_frames(self, socket: KeyedSocket, frames: list[bytes]) -> None:
        """A wire message by a bound *socket*."""
        public, descriptor = socket.sender()
        peer = frames[0]
        if public is not None and not self.guard.knows(peer):
            self._connections.saw(descriptor, public)
        self._receive(peer, public, frames[1:])
        if self._links.hello_of(peer) is None:
            self.guard.forget(peer)

    def on_frames_of_router(self, peer: Peer, server: bytes, frames: list[bytes]) -> None:
        """A wire message by a socket that had to find the key *server* at the other end."""
        self._receive(peer, server, frames)

    def on_subscription(self, socket: KeyedSocket, _frames: list[bytes]) -> None:
        """Somebody has subscribed to the publishing *socket*."""
        public, descriptor = socket.sender()
        if public is not None:
            self._connections.saw(descriptor, public)

    def _receive(self, peer: Peer, public: bytes | None, frames: list[bytes]) -> None:
        try:
            parcels = decode(frames)
        except WireError as error:
            self._reject(peer, error)
            return
        verdict = self.guard.judge(peer, public, parcels)
        if verdict.refused:
            self._refused(peer, verdict.refused, verdict.answers)
        if verdict.admitted:
            self._links.received(peer, verdict.admitted, time.monotonic())
        self._poke()

    def _refused(self, peer: Peer, reason: str, answers: Sequence[Message]) -> None:
        for answer in answers:
            self._links.core.out.send(peer, answer)
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_S:
            self._said_at = now
            log.warning("refused: %s (%d messages so far)", reason, self.guard.refused)

    # --- keys -------------------------------------------------------------------------------------------------------

    def _files_changed(self) -> None:
        """In the watcher's thread."""
        try:
            self._loop.call_soon_threadsafe(self._revoke)
        except RuntimeError:
            self._watcher.stop()  # the loop has ended

    def _revoke(self) -> None:
        known = self.security.known()
        gone = self.guard.revoked()
        for peer in gone:
            reason = f"the key of {self.guard.name_of(peer)} was revoked"
            log.warning("a link ends: %s", reason)
            self._links.core.out.send(peer, Reset(reason))
            self._links.lost(peer, reason, time.monotonic())
        self._poke()
        for public in self._connections.holders():
            if known.get(public) is None:
                # Behind what was just left for it: it is told why, if it still listens.
                self._loop.call_later(0.1, self._cut, public)

    def _cut(self, public: bytes) -> None:
        if self.security.known().get(public) is None:
            count = self._connections.cut(public)
            if count:  # most are gone by themselves
                log.warning("cut %d connections of a key that is not known any more", count)

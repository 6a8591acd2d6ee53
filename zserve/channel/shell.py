"""What the shell of a node does whatever carries its bytes: ZeroMQ (:mod:`.hub`) or the simulated network.

It takes a core's effects at the end of each turn, and dials the nodes that the core names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..cores.node import NodeCore
from ..wire.messages import NodeInfo
from .links import Links
from .outbox import Parcel, Peer

__all__ = ["HubCore", "Shell"]

_FORGET_S = 60.0
"""An address that nobody names any more and that does not answer is dialled for this long."""
_MAX_ROUNDS = 100
"""Effects that cause effects that ...: more in one turn than this wait for the next."""


class HubCore(NodeCore, Protocol):
    """A core that may learn of further routers."""

    def routers_known(self) -> Sequence[str]:
        """Addresses of all routers of the fabric, as far as known."""
        ...


class Shell(ABC):
    """Base of the hubs.

    join: routers to dial in any case.  follow: dial those too that the core names.  also: names further addresses, of
    nodes that may as well not be reached; another object when they are others.  *on_turn* is called once a turn
    after the core was told something, before the outbox is sent: there the shell of the role takes the core's other
    effects.
    """

    _dials: Mapping[Peer, Any]

    def __init__(
        self,
        core: HubCore,
        info: NodeInfo,
        links: Links,
        join: Sequence[str],
        follow: bool,
        on_turn: Callable[[], None] | None,
        also: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self.core = core
        self.info = info
        self.links = links
        self._join = list(join)
        self._follow = follow
        self._on_turn = on_turn
        self._also = also
        self._also_dialled: Sequence[str] = ()
        self._dialled: dict[str, Peer | None] = {}  # None: to be dialled again soon; b"": never, it is this node
        self._named_at: dict[str, float] = {}

    # --- what carries the bytes -------------------------------------------------------------------------------------

    @abstractmethod
    def now(self) -> float:
        """This process's monotonic clock, seconds."""

    @abstractmethod
    def poke(self) -> None:
        """The core was told something from outside: take its effects and set its timer, this turn."""

    @abstractmethod
    def _ended(self) -> bool:
        """Nothing is sent any more."""

    @abstractmethod
    def _send(self, peer: Peer, parcels: list[Parcel]) -> None: ...

    @abstractmethod
    def _publish(self, parcels: list[Parcel]) -> None: ...

    @abstractmethod
    def _dial(self, address: str) -> None: ...

    @abstractmethod
    def _close_dial(self, peer: Peer, reason: str, again: bool) -> None: ...

    @abstractmethod
    def _forget_dial(self, peer: Peer) -> None:
        """Close it without a word."""

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _take_effects(self) -> None:
        """Take all effects; they may cause others (a link that turns out to be dead), so until there are none."""
        out = self.core.out
        if self._also is not None and (addresses := self._also()) is not self._also_dialled:
            self._also_dialled = addresses
            self._dial_known(addresses, self.now())
        for _ in range(_MAX_ROUNDS):
            if self._on_turn is not None:
                self._on_turn()
                if self._ended():
                    return
            if out.pending:
                for peer, parcels in out.take().items():
                    self._send(peer, parcels)
            if out.publications:
                self._publish([(message, b"", b"") for message in out.take_publications()])
            if out.closed:
                now = self.now()
                for peer, reason in out.take_closed():
                    self.links.lost(peer, reason, now)
            dropped = self.links.dropped
            if dropped:
                self.links.dropped = []
                # GOODBYE and RESET may have been left for those that go.
                for peer, parcels in out.take().items():
                    self._send(peer, parcels)
                for peer, reason, again in dropped:
                    self._close_dial(peer, reason, again)
            if not out.pending and not out.publications and not out.closed:
                break

    # --- dialling ---------------------------------------------------------------------------------------------------

    def _dial_has_ended(self, address: str, reason: str, again: bool) -> bool:
        """Whether to dial *address* again, in a while."""
        if again:
            self._dialled[address] = None
            return True
        self._dialled.pop(address, None)
        if reason == "own node id":
            self._dialled[address] = b""  # that is ourselves: never again
        return False

    def _dial_known(self, addresses: Sequence[str], now: float) -> None:
        for address in addresses:
            self._named_at[address] = now
            if address not in self._dialled and address != self.info.address:
                self._dial(address)

    def _may_fail(self, address: str) -> bool:
        """Whether it does not matter if nobody is reached at *address*."""
        return self._also is not None and address not in self._join and address not in self.core.routers_known()

    def _redial(self, address: str) -> None:
        if not self._ended() and self._dialled.get(address, b"") is None:
            self._dial(address)
            self.poke()

    def _tend_dials(self, now: float) -> None:
        """Follow the membership: dial new routers, let go of those that are neither named nor answering."""
        for peer in list(self._dials):
            if self.links.unanswered(peer, now):
                self.links.lost(peer, "no answer to HELLO", now)
        if not self._follow:
            return
        known = list(self.core.routers_known())
        if not self.links.linked_with_router():
            known += self._join  # the way back in, where the links with them were ended as not needed
        if self._also is not None:
            known += self._also()
        self._dial_known(known, now)
        for address, dialled in list(self._dialled.items()):
            if address in self._join or now - self._named_at.get(address, now) < _FORGET_S:
                continue
            if dialled and self.links.hello_of(dialled) is None:
                self._forget_dial(dialled)
                self.links.forget(dialled)
                del self._dialled[address]

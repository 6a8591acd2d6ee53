"""Saying that a record is in force, once it is."""

from __future__ import annotations

from ..channel.outbox import Outbox, Peer
from ..wire.messages import Confirm, Confirmed, Records
from .registry import Registry

__all__ = ["MAX_WAITING", "Confirming"]

MAX_WAITING = 1024
"""Records that one router may wait for on this node."""


class _Wait:
    """``open``: the gateways that have not said so yet, of those that a router speaks for."""

    __slots__ = ("open", "stamp")

    def __init__(self, stamp: bytes, open_: set[Peer]) -> None:
        self.stamp = stamp
        self.open = open_


class Confirming:
    """Who waits on this node for which records.

    A router answers for the gateways too that have a link with it and none with the router that asks.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waits: dict[Peer, dict[str, _Wait]] = {}

    def asked(self, peer: Peer, confirm: Confirm, beyond: set[Peer], out: Outbox) -> bool:
        """The router *peer* wants to know; *beyond* are the gateways to ask for it.  False if the record is not here
        yet, and has to be asked for."""
        here = self._registry.applied(confirm.key, confirm.stamp)
        if here and not beyond:
            out.send(peer, Confirmed(confirm.key, confirm.stamp))
            return True
        waits = self._waits.setdefault(peer, {})
        before = waits.get(confirm.key)
        if before is None or before.stamp < confirm.stamp:
            if before is None and len(waits) >= MAX_WAITING:
                return True
            waits[confirm.key] = _Wait(confirm.stamp, beyond)
            record = self._registry.get(confirm.key)
            for gateway in sorted(beyond):
                if here and record is not None:
                    out.send(gateway, Records([record]))
                out.send(gateway, confirm)
        return here

    def confirmed(self, peer: Peer, confirmed: Confirmed, out: Outbox) -> None:
        """A gateway has it."""
        for waits in self._waits.values():
            wait = waits.get(confirmed.key)
            if wait is not None and wait.stamp <= confirmed.stamp:
                wait.open.discard(peer)
        self.answer(out)

    def link_down(self, peer: Peer) -> None:
        """Who is gone is not waited for, and does not wait."""
        self._waits.pop(peer, None)
        for waits in self._waits.values():
            for wait in waits.values():
                wait.open.discard(peer)

    def answer(self, out: Outbox) -> None:
        """Tell those whose wait is over."""
        for peer, waits in self._waits.items():
            for key, wait in list(waits.items()):
                if not wait.open and self._registry.applied(key, wait.stamp):
                    del waits[key]
                    out.send(peer, Confirmed(key, wait.stamp))

"""What a simulated fabric tells whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..registry.record import Record

if TYPE_CHECKING:
    from ..handler.runs import HeldCall
    from .gateways import Ticket
    from .nodes import SimNode
    from .replicas import SimReplica

__all__ = ["Watch"]


class Watch:
    """Is told of everything that the invariants are about; this one does not care."""

    def opened(self, ticket: Ticket) -> None:
        """A gateway has taken a request on."""

    def answered(self, ticket: Ticket) -> None:
        """A request has got an answer (``ticket.status``); each time that happens."""

    def running(self, replica: SimReplica, calls: Sequence[HeldCall]) -> None:
        """User code is being called."""

    def received(self, replica: SimReplica) -> None:
        """A replica has been sent something; its core has taken it in."""

    def replica_ended(self, replica: SimReplica) -> None:
        """Its process is gone, or was told to end."""

    def wrote(self, router: SimNode, client: bytes, call: int, records: Sequence[Record]) -> None:
        """A router accepted a write; call *call* of *client* asked for it."""

    def node_changed(self, node: SimNode, what: str) -> None:
        """A node started, ended, was stopped or went on."""

    def before_loss(self, node: SimNode) -> None:
        """Memory or disk of a router is about to be lost."""

    def after_loss(self, node: SimNode) -> None: ...

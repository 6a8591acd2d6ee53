"""Gateways on the virtual network: requests come from a load instead of HTTP connections."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..cores.gateway import GatewayCore, GatewayLimits
from ..errors import Refusal
from ..registry.sync import ConfigSync
from ..wire.messages import FLAG_IDEMPOTENT, NodeInfo, Result
from .hub import SimHub
from .nodes import SimNode

if TYPE_CHECKING:
    from .fabric import SimFabric

__all__ = ["SimGateway", "Ticket"]


class Ticket:
    """One request that a gateway has taken on, and what became of it.

    deadline: virtual seconds.  answers: how many it has got; more than one is a bug.  boot: which process of the
    gateway took it on.
    """

    __slots__ = (
        "answered_at",
        "answers",
        "body",
        "boot",
        "deadline",
        "endpoint",
        "gateway",
        "id",
        "idempotent",
        "on_answer",
        "opened_at",
        "origin",
        "reply",
        "result",
        "status",
    )

    def __init__(self, gateway: SimGateway, endpoint: str, body: bytes, deadline: float, idempotent: bool) -> None:
        self.gateway = gateway
        self.boot = gateway.boots
        self.endpoint = endpoint
        self.body = body
        self.deadline = deadline
        self.idempotent = idempotent
        self.opened_at = gateway.fabric.clock.now
        self.id = b""
        self.answers = 0
        self.answered_at = math.nan
        self.status = 0
        self.origin = 0
        self.reply = b""
        self.result: tuple[Result, bytes] | None = None
        self.on_answer: Callable[[Ticket], None] | None = None


class SimGateway(SimNode):
    """A gateway without HTTP."""

    role = "gateway"

    def __init__(self, fabric: SimFabric, name: str, limits: GatewayLimits | None = None, host: str = "") -> None:
        super().__init__(fabric, name, host)
        self.core: GatewayCore
        self._limits = limits

    def _build(self, info: NodeInfo, offset_s: float) -> SimHub:
        info.http = f"http://{self.name}"
        self.sync = ConfigSync(info, self.wall_ms, self.fabric.make_registry(info.node))
        self.core = GatewayCore(self.sync, info.boot, self._limits, neighbours=self.fabric.neighbours(info.node))
        return SimHub(
            self.fabric.network,
            self.core,
            info,
            self.host,
            bind=f"sim://{self.name}/answers",
            join=self.fabric.addresses_to_join(),
            on_turn=self._on_turn,
            clock_offset_s=offset_s,
        )

    def request(
        self,
        endpoint: str,
        body: bytes,
        budget_s: float,
        *,
        idempotent: bool,
        head: bytes = b"",
        flags: int = 0,
        shard: str = "",
        method: str = "",
        on_answer: Callable[[Ticket], None] | None = None,
    ) -> Ticket | Refusal:
        """Take a request on; *budget_s* in seconds, infinity for no deadline."""
        ticket = Ticket(self, endpoint, body, self.fabric.clock.now + budget_s, idempotent)
        ticket.on_answer = on_answer
        now = self.hub.now()
        if idempotent:
            flags |= FLAG_IDEMPOTENT
        flight = self.core.open(
            endpoint, head, body, now + budget_s, ticket, now, flags=flags, shard=shard, method=method
        )
        if isinstance(flight, Refusal):
            return flight
        ticket.id = flight.message.id
        self.fabric.watch.opened(ticket)
        self.hub.poke()
        return ticket

    def _on_turn(self) -> None:
        core = self.core
        if core.answers:
            answers, core.answers = core.answers, []
            for ticket, result, head, body in answers:
                ticket.answers += 1
                ticket.answered_at = self.fabric.clock.now
                ticket.status = result.status
                ticket.origin = result.origin
                ticket.reply = body
                ticket.result = (result, head)
                self.fabric.watch.answered(ticket)
                if ticket.on_answer is not None:
                    ticket.on_answer(ticket)
        if core.leaving and not core.in_flight and self.leaving:
            self._leave_now()
        if core.shutdown_reason:
            self.leave()

    def _drain(self) -> None:
        self.core.leaving = True
        for peer, _ in self.hub.links.open_links():
            self.core.out.send(peer, self.core.ping(peer, self.hub.now()))

"""Answers that go straight to their gateways, and get lost on the way: in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from zserve.errors import Refusal
from zserve.testing.clients import Call
from zserve.testing.fabric import SimFabric
from zserve.testing.gateways import SimGateway, Ticket
from zserve.testing.invariants import Invariants
from zserve.testing.replicas import ServiceModel


class Site:
    """A router, and a gateway and two replicas on one machine."""

    def __init__(self, seed: int, service_s: float = 0.002) -> None:
        self.fabric = fabric = SimFabric(seed)
        self.watch = fabric.watch = Invariants(fabric)
        self.router = fabric.add_router("router-0")
        self.worker = fabric.add_worker("worker-0")
        self.gateway: SimGateway = fabric.add_gateway("gateway-0", host="worker-0")
        fabric.models["backend-0"] = ServiceModel(service_s)
        self._client = fabric.add_client("client-0")
        assert fabric.run_until(lambda: bool(self._client.linked()), 5.0)
        self._do("create_backend", name="backend-0", code="app:run", version="1", config={"num_replicas": 2})
        self._do("create_endpoint", name="e", route="/e", methods=["GET", "POST"], backend="backend-0")
        assert fabric.run_until(lambda: len(list(fabric.replicas())) == 2, 30.0)
        fabric.run_for(3.0)
        self.tickets: list[Ticket] = []

    def _do(self, op: str, **args: object) -> None:
        ended: list[Call] = []
        self._client.call(op, args, on_end=ended.append)
        assert self.fabric.run_until(lambda: bool(ended), 10.0)
        assert ended[0].state == "ok", ended[0].text

    def ask(self, count: int, *, idempotent: bool, every_s: float = 0.005) -> None:
        for number in range(count):
            ticket = self.gateway.request("e", b"%d" % number, 30.0, idempotent=idempotent)
            assert not isinstance(ticket, Refusal)
            self.tickets.append(ticket)
            self.fabric.run_for(every_s)

    def statuses(self) -> Counter[int]:
        self.fabric.run_for(35.0)
        assert all(ticket.answers == 1 for ticket in self.tickets)
        return Counter(ticket.status for ticket in self.tickets)


@pytest.mark.parametrize("idempotent", [False, True])
def test_they_do_not_go_through_the_router(idempotent: bool) -> None:
    site = Site(1)
    site.ask(100, idempotent=idempotent)
    assert site.statuses() == {200: 100}
    assert site.router.core.direct_answers == 100
    assert site.router.core.entries == {}
    assert not site.watch.violations


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("idempotent", [False, True])
def test_what_is_lost_with_a_connection_is_found_again(seed: int, idempotent: bool) -> None:
    """The replicas live, and remember: even what must not run twice has its answer."""
    site = Site(seed)
    fabric = site.fabric
    broken: list[int] = []

    def break_them() -> None:
        broken.append(fabric.network.reset_connections("worker-0", "worker-0"))
        fabric.clock.after(0.3, again)

    again: Callable[[], None] = break_them
    fabric.clock.after(0.1, break_them)
    site.ask(200, idempotent=idempotent)
    again = lambda: None  # noqa: E731
    assert site.statuses() == {200: 200}
    assert sum(broken) >= 4
    assert not site.watch.violations


@pytest.mark.parametrize("seed", range(6))
def test_what_is_lost_with_a_replica_is_run_again_if_it_may_be(seed: int) -> None:
    site = Site(seed)
    site.ask(40, idempotent=True)
    next(site.fabric.replicas()).kill(lossy=True)
    site.ask(40, idempotent=True)
    assert site.statuses() == {200: 80}
    assert not site.watch.violations


@pytest.mark.parametrize("seed", range(6))
def test_what_is_lost_with_a_replica_and_must_not_run_twice_is_said_to_be(seed: int) -> None:
    site = Site(seed)
    site.ask(40, idempotent=False)
    next(site.fabric.replicas()).kill(lossy=True)
    site.ask(40, idempotent=False)
    statuses = site.statuses()
    assert statuses.keys() <= {200, 502}
    assert statuses[200] >= 70
    assert not site.watch.violations

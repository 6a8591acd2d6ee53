"""Whole fabrics whose nodes stop, stall, lose power, are cut off or leave: who is suspected, why, and who is not."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.testing.fabric import SimFabric
from zserve.testing.gateways import SimGateway, Ticket
from zserve.testing.simulate import simulate


class Overheard:
    """A core, but for some of its methods."""

    def __init__(self, core: Any, **methods: Any) -> None:
        self._core = core
        vars(self).update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


class Ears:
    """What the cores of a fabric are told about their links, by (node that is told, node that it is about)."""

    def __init__(self, fabric: SimFabric) -> None:
        self.doubts: list[tuple[str, str, str]] = []
        self.downs: list[tuple[str, str, str]] = []
        for name, node in fabric.nodes.items():
            self.listen(name, node)
        for replica in fabric.replicas():
            self.listen(replica.name, replica)

    def listen(self, name: str, node: Any) -> None:
        links, core = node.hub.links, node.hub.core
        doubted, down = core.link_doubted, core.link_down

        def about(peer: bytes) -> str:
            hello = links.hello_of(peer)
            return "" if hello is None else hello.info.name

        names: dict[bytes, str] = {peer: about(peer) for peer, _ in links.open_links()}

        def link_doubted(peer: bytes, cause: str, now: float) -> None:
            names[peer] = about(peer)
            self.doubts.append((name, names[peer], cause))
            doubted(peer, cause, now)

        def link_down(peer: bytes, reason: str, now: float) -> None:
            self.downs.append((name, names.get(peer, ""), reason))
            down(peer, reason, now)

        links.core = Overheard(core, link_doubted=link_doubted, link_down=link_down)

    def causes(self, about: str, told: str = "") -> list[str]:
        return [cause for who, whom, cause in self.doubts if whom == about and (not told or who == told)]


def fabric(seed: int = 1, routers: int = 2, gateways: int = 1, workers: int = 2, replicas: int = 2) -> SimFabric:
    made = SimFabric(seed)
    for number in range(routers):
        made.add_router(f"router-{number}")
    for number in range(gateways):
        made.add_gateway(f"gateway-{number}")
    for number in range(workers):
        made.add_worker(f"worker-{number}", slots=4)
    client = made.add_client("client")
    made.run_for(0.5)
    for op, args in [
        ("create_backend", {"name": "b", "code": "m:f", "version": "1", "config": {"num_replicas": replicas}}),
        ("create_endpoint", {"name": "e", "route": "/e", "methods": ["GET"], "backend": "b"}),
    ]:
        call = client.call(op, args)
        assert call is not None
        assert made.run_until(lambda call=call: call.state != "waiting", 10.0)
        assert call.state == "ok", call.text
    made.run_for(3.0)
    return made


def ask(gateway: SimGateway, count: int = 1, budget_s: float = 60.0, idempotent: bool = False) -> list[Ticket]:
    tickets = [gateway.request("e", str(number).encode(), budget_s, idempotent=idempotent) for number in range(count)]
    assert all(isinstance(ticket, Ticket) for ticket in tickets)
    return [ticket for ticket in tickets if isinstance(ticket, Ticket)]


@pytest.mark.parametrize(
    ("hung", "cause"),
    [(False, "its process {} is stopped (SIGSTOP)"), (True, "its process {} runs, but its event loop is stalled")],
)
def test_a_replica_that_does_not_answer_is_told_apart_by_its_worker_node(hung: bool, cause: str) -> None:
    """Routers and replicas are on different machines: only the worker node can look at the process."""
    made = fabric()
    ears = Ears(made)
    replica = next(iter(made.replicas()))
    replica.hub.pause(hung=hung)
    made.run_for(3.5)
    wanted = cause.format(replica.hub.info.pid)
    for router in made.routers():
        assert ears.causes(replica.hub.info.name, router.name)[-1] == wanted
    gateway = made.gateways()[0]
    tickets = ask(gateway, 20)
    made.run_for(0.5)
    assert [ticket.status for ticket in tickets] == [200] * 20, "not one was given to it, all were served by the other"
    replica.hub.resume()
    made.run_for(0.1)
    assert not any(router.core.doubts for router in made.routers())
    assert ears.downs == []
    tickets = ask(gateway, 20)
    made.run_for(1.0)
    assert [ticket.status for ticket in tickets] == [200] * 20


def test_a_router_that_is_stopped_loses_nothing_and_is_used_again() -> None:
    made = fabric()
    ears = Ears(made)
    router, gateway = made.routers()[0], made.gateways()[0]
    router.pause()
    early = ask(gateway, 10)
    made.run_for(3.5)
    assert ears.causes(router.name, gateway.name), "suspected"
    late = ask(gateway, 10)
    made.run_for(0.5)
    assert [ticket.status for ticket in late] == [200] * 10, "all through the other one"
    assert {ticket.status for ticket in early} == {0, 200}
    served = router.core.requests
    router.resume()
    made.run_for(1.0)
    assert [ticket.status for ticket in early] == [200] * 10
    assert ears.downs == []
    assert ears.causes(router.name, gateway.name)[-1] == ""
    ask(gateway, 10)
    made.run_for(1.0)
    assert router.core.requests >= served + 10, "those of before, and its share of the new ones"


def test_a_machine_without_power_is_not_heard_and_nobody_there_can_tell() -> None:
    made = fabric(replicas=4)
    ears = Ears(made)
    worker = made.workers()[0]
    names = [worker.name, *(replica.hub.info.name for replica in worker.replicas.values())]
    worker.kill(silent=True)
    made.run_for(7.0)
    for name in names:
        assert any(cause.startswith(f"host {worker.host} is not heard, nor by router") for cause in ears.causes(name))
    reasons = [reason for _, about, reason in ears.downs if about in names]
    assert len(reasons) == 2 * len(names)
    assert all(reason.startswith("silent for ") and worker.host in reason for reason in reasons)


def test_a_way_that_is_blocked_is_not_the_nodes_death() -> None:
    made = fabric()
    ears = Ears(made)
    worker, router = made.workers()[0], made.routers()[0]
    made.network.block(worker.host, router.host)
    scores = []
    for _ in range(8):
        made.run_for(1.0)
        scores.append(router.hub.links.health.score)
    assert max(scores) > 0, "it has accused somebody who was well"
    fault = "it is heard by router router-1: the connection with it is at fault"
    assert fault in ears.causes(worker.name, router.name)
    assert ears.causes(worker.name, "router-1") == []
    assert not [reason for who, about, reason in ears.downs if (who, about) == (router.name, worker.name)], "twice 5 s"
    made.network.heal()
    made.run_for(2.0)
    assert ears.causes(worker.name, router.name)[-1] == ""
    assert router.hub.links.health.score == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_leave_is_never_reported_as_a_death(seed: int) -> None:
    made = fabric(seed, routers=3, gateways=2, workers=3)
    ears = Ears(made)
    leaving = [made.routers()[seed % 3], made.gateways()[seed % 2], made.workers()[seed % 3]]
    for node in leaving:
        node.leave()
        for gateway in made.gateways():
            if gateway.alive and not gateway.leaving:
                ask(gateway, 3)
        made.run_for(1.5)
    made.run_for(40.0)
    assert not any(node.alive for node in leaving)
    assert ears.doubts == []
    assert len(ears.downs) > 10
    reasons = {reason.partition(":")[0] for _, _, reason in ears.downs}
    assert reasons <= {"goodbye", "shutting down", "replica stopped"}, "one side says it, the other one hears it"


def test_who_was_stopped_himself_accuses_nobody() -> None:
    made = fabric()
    ears = Ears(made)
    router = made.routers()[0]
    router.pause()
    made.run_for(4.0)
    router.resume()
    made.run_for(3.0)
    assert [whom for who, whom, _ in ears.doubts if who == router.name] == []
    assert router.hub.links.health.score >= 1


def test_the_simulator_has_a_fault_for_it() -> None:
    from zserve.testing.simulate import Scenario

    outcome = simulate(3, Scenario(faults="hang"))
    assert outcome.ok, outcome.violations
    assert outcome.answers[200] > 0

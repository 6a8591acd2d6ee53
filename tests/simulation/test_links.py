"""Gateways and worker nodes with links to some of the routers, and what gateways remember when routers do not."""

from __future__ import annotations

import pytest

from zserve.registry import registry, standing, sync
from zserve.registry.relay import Relay
from zserve.testing.clients import Call, SimClient
from zserve.testing.fabric import SimFabric
from zserve.testing.simulate import Scenario, simulate

MANY = Scenario(routers=6, gateways=3, workers=4)


def links(fabric: SimFabric, at_most: int) -> None:
    fabric.max_routers = at_most


@pytest.mark.parametrize("at_most", [1, 2])
def test_the_invariants_hold_with_few_links_to_many_routers(at_most: int) -> None:
    for seed in range(6):
        outcome = simulate(seed, MANY, lambda fabric: links(fabric, at_most))
        assert outcome.violations == [], f"seed {seed}"
        assert outcome.acknowledged > 0


def test_it_is_found_when_views_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "pass_view_on", lambda self, view, sender, links, out: None)
    monkeypatch.setattr(Relay, "newer", lambda self, known, asker: iter(()))
    found = [
        violation.name
        for seed in range(10)
        for violation in simulate(seed, MANY, lambda fabric: links(fabric, 1)).violations
    ]
    assert "as many replicas as asked for" in found


def build(routers: int, gateways: int = 2, workers: int = 0, at_most: int = 0, seed: int = 0) -> SimFabric:
    fabric = SimFabric(seed)
    fabric.max_routers = at_most
    for number in range(routers):
        fabric.add_router(f"router-{number}")
    for number in range(gateways):
        fabric.add_gateway(f"gateway-{number}")
    for number in range(workers):
        fabric.add_worker(f"worker-{number}")
    fabric.add_client("client")
    fabric.run_for(8.0)
    return fabric


def call(fabric: SimFabric, op: str, router: str = "", **args: object) -> Call:
    client = fabric.nodes["client"]
    assert isinstance(client, SimClient)
    peer = next(peer for peer, hello in client.linked().items() if router in ("", hello.info.name))
    ended: list[Call] = []
    client.call(op, args, peer=peer, on_end=ended.append)
    assert fabric.run_until(lambda: bool(ended), 30.0)
    assert ended[0].state == "ok", ended[0].text
    return ended[0]


def endpoints(fabric: SimFabric) -> dict[str, list[str]]:
    """What each node has in force."""
    nodes = [node for node in fabric.nodes.values() if node.role != "client" and node.alive]
    return {node.name: sorted(node.sync.registry.endpoints()) for node in nodes}


def test_a_write_at_any_router_is_in_force_on_all_gateways_when_it_is_answered() -> None:
    fabric = build(5, gateways=5, at_most=2)
    for number in range(5):
        answer = call(fabric, "create_endpoint", f"router-{number}", name=f"e{number}", route=f"/{number}")
        assert answer.warnings == []
        assert all(f"e{number}" in gateway.sync.registry.endpoints() for gateway in fabric.gateways())


def test_nodes_know_each_other_by_few_links_and_find_others_when_these_die() -> None:
    fabric = build(6, gateways=3, workers=6, at_most=2)

    def linked(name: str) -> list[str]:
        return sorted(hello.info.name for _, hello in fabric.nodes[name].hub.links.open_links())

    def known(name: str) -> list[str]:
        return sorted(info.name for info in fabric.nodes[name].sync.membership.nodes().values())

    everyone = sorted(name for name in fabric.nodes if name != "client")
    others = [name for name in everyone if not name.startswith("router")]
    assert all(len(linked(name)) == 2 for name in others), {name: linked(name) for name in others}
    for name in everyone:
        assert known(name) == everyone or name.startswith("gateway"), name

    for name in linked("worker-0"):
        fabric.nodes[name].kill(silent=True)
    fabric.run_for(25.0)
    alive = [name for name in everyone if fabric.nodes[name].alive]
    assert len(alive) == len(everyone) - 2
    for name in others:
        assert len(linked(name)) == 2
        assert set(linked(name)) <= set(alive)
    for name in alive:
        assert known(name) == alive or name.startswith("gateway"), name


DAY_S = 1.0
"""A day, in the tests of long absences."""


@pytest.fixture
def short_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes are remembered for seven seconds, and looked through every second."""
    monkeypatch.setattr(registry, "TOMBSTONE_MS", int(7 * DAY_S * 1000))
    monkeypatch.setattr(standing, "ABSENT_MS", int(6 * DAY_S * 1000))
    monkeypatch.setattr(standing, "BLANK_S", 3.0)
    monkeypatch.setattr(sync, "EXPIRE_EVERY_S", 0.5)


def absence(fabric: SimFabric) -> None:
    """router-2 is away while "gone" is deleted, and until nobody remembers."""
    call(fabric, "create_endpoint", name="gone", route="/gone")
    call(fabric, "create_endpoint", name="kept", route="/kept")
    fabric.run_for(1.0)
    fabric.nodes["router-2"].kill()
    fabric.run_for(1.0)
    call(fabric, "delete_endpoint", "router-0", name="gone")
    fabric.run_for(10.0 * DAY_S)
    assert all(node.sync.registry.get("endpoint/gone") is None for node in fabric.gateways())
    fabric.nodes["router-2"].restart()
    fabric.run_for(10.0)


def test_what_was_deleted_while_a_router_was_away_for_long_does_not_come_back(short_days: None) -> None:
    fabric = build(3)
    absence(fabric)
    assert set(map(tuple, endpoints(fabric).values())) == {("kept",)}
    call(fabric, "create_endpoint", "router-2", name="new", route="/new")
    assert set(map(tuple, endpoints(fabric).values())) == {("kept", "new")}


def test_without_the_rule_it_comes_back(short_days: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "ABSENT_MS", 1 << 60)
    fabric = build(3)
    absence(fabric)
    assert "gone" in endpoints(fabric)["router-0"]


def test_a_gateway_that_was_cut_off_for_long_brings_nothing_back(short_days: None) -> None:
    fabric = build(2)
    call(fabric, "create_endpoint", name="gone", route="/gone")
    call(fabric, "create_endpoint", name="kept", route="/kept")
    fabric.partition(["gateway-0"])
    call(fabric, "delete_endpoint", name="gone")
    fabric.run_for(10.0 * DAY_S)
    assert endpoints(fabric)["gateway-0"] == ["gone", "kept"]
    fabric.heal()
    fabric.run_for(5.0)
    assert set(map(tuple, endpoints(fabric).values())) == {("kept",)}


def test_after_a_long_absence_of_all_routers_the_last_state_is_in_force(short_days: None) -> None:
    fabric = build(2, gateways=0)
    call(fabric, "create_endpoint", name="gone", route="/gone")
    call(fabric, "create_endpoint", name="kept", route="/kept")
    fabric.run_for(1.0)
    fabric.nodes["router-0"].kill()
    fabric.run_for(1.0)
    call(fabric, "delete_endpoint", "router-1", name="gone")
    fabric.nodes["router-1"].kill()
    fabric.run_for(10.0 * DAY_S)
    for router in fabric.routers():
        router.restart()
    fabric.run_for(standing.QUIET_S + 5.0)
    assert endpoints(fabric) == {"router-0": ["kept"], "router-1": ["kept"]}


def test_when_all_disks_are_lost_gateways_bring_back_what_is_in_force_and_nothing_that_was_deleted() -> None:
    fabric = build(3)
    call(fabric, "create_endpoint", name="gone", route="/gone")
    call(fabric, "create_endpoint", name="kept", route="/kept")
    fabric.partition(["gateway-0"])
    fabric.run_for(10.0)
    call(fabric, "delete_endpoint", "router-0", name="gone")
    assert "gone" in endpoints(fabric)["gateway-0"], "it does not know of the delete"
    for router in fabric.routers():
        router.kill()
        router.wipe()
        router.restart()
    fabric.run_for(1.0)
    fabric.heal()
    fabric.run_for(10.0)
    assert set(map(tuple, endpoints(fabric).values())) == {("kept",)}
    for node in fabric.routers():
        record = node.sync.registry.get("endpoint/gone")
        assert record is not None
        assert record.value is None

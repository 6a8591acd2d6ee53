from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.registry.operations import OPERATIONS
from zserve.registry.record import Record
from zserve.registry.registry import Registry
from zserve.registry.sync import PULL_RARELY_S, ConfigSync
from zserve.registry.values import EndpointValue, encode_value
from zserve.wire.messages import Confirm, Confirmed, Ping, Pull, Records, View, ViewChange

from .network import START_MS, Network, Node


def write(node: Node, name: str = "e", route: str | None = "/x") -> Record:
    """Write an endpoint (None deletes it) as a control call on this router would."""
    key = "endpoint/" + name
    current = node.registry.get(key)
    text = None if route is None else encode_value(EndpointValue(route=route))
    record = node.registry.write(key, text, current.stamp if current else None, node.sync.wall_ms())
    node.sync.publish([record], node.out)
    return record


def digests(network: Network) -> set[bytes]:
    return {node.sync.digest() for node in network.nodes.values()}


# --- spreading --------------------------------------------------------------------------------------------------------


def test_a_publication_reaches_everyone_at_once() -> None:
    network = Network()
    nodes = [network.add("r1"), network.add("r2"), network.add("g", "gateway"), network.add("w", "worker")]
    network.settle()
    write(nodes[0])
    network.settle()
    assert all(node.registry.endpoint("e") == EndpointValue(route="/x") for node in nodes)
    assert nodes[2].sync.take_changes() == ["endpoint/e"]


def test_one_who_misses_every_publication_gets_everything_with_the_next_heartbeat() -> None:
    network = Network(publish_loss=1.0)
    router, gateway = network.add("r1"), network.add("g", "gateway")
    network.settle()
    write(router)
    network.settle()
    assert gateway.registry.endpoint("e") is None
    network.run(1.3)
    assert gateway.registry.endpoint("e") == EndpointValue(route="/x")


def test_one_who_joins_late_gets_everything_at_once() -> None:
    network = Network(publish_loss=1.0)
    router = network.add("r1")
    for number in range(5):
        write(router, f"e{number}")
    write(router, "e0", None)
    gateway, other = network.add("g", "gateway"), network.add("r2")
    network.settle()
    assert digests(network) == {router.sync.digest()}
    assert sorted(gateway.registry.endpoints()) == ["e1", "e2", "e3", "e4"]
    assert other.registry.endpoints() == gateway.registry.endpoints()


def test_a_router_passes_on_what_it_learnt_by_pulling_once() -> None:
    network = Network()
    r1, r2, gateway = network.add("r1"), network.add("r2"), network.add("g", "gateway")
    network.settle()
    # The gateway has lost its link with r1, and r2 learns only now what r1 has written.
    network.partition(["r1"], ["r2", "g"])
    record = write(r1)
    network.settle()
    network.sides = {"g": 1}
    network.connect()
    network.settle()
    assert r2.registry.get(record.key) == gateway.registry.get(record.key) == record
    assert not r2.out.publications
    r2.sync.receive(next(iter(r2.sync.peers("router"))), Records([record]), r2.out, network.now)
    assert not r2.out.publications, "known already"


def test_large_registries_travel_in_several_messages() -> None:
    network = Network(publish_loss=1.0)
    router = network.add("r1")
    for number in range(6):
        write(router, f"e{number}", "/" + "x" * 2000)
        text = encode_value(EndpointValue(policy="m:P", policy_kwargs={"filler": "y" * 200_000}))
        router.registry.write(f"endpoint/large{number}", text, None, START_MS)
    gateway = network.add("g", "gateway")
    before = network.messages
    network.settle()
    assert gateway.sync.digest() == router.sync.digest()
    assert network.messages - before >= 4


def test_one_pull_between_routers_goes_both_ways() -> None:
    network = Network(publish_loss=1.0)
    r1, r2 = network.add("r1"), network.add("r2")
    network.settle()
    mine, theirs = write(r1, "mine"), write(r2, "theirs")
    peer = r2.sync.peers("router")[0]
    r2.receive(peer, Pull(r1.registry.summary()))
    (parcel,) = r2.out.take()[peer]
    assert parcel[0] == Records([theirs], [mine.key])
    r1.receive(peer, parcel[0])
    network.settle()
    assert r1.sync.digest() == r2.sync.digest()


def test_only_routers_are_listened_to() -> None:
    network = Network()
    router, gateway = network.add("r1"), network.add("g", "gateway")
    network.settle()
    (peer,) = router.sync.peers("gateway")
    stranger = Registry(b"x" * 16).write("endpoint/e", encode_value(EndpointValue()), None, START_MS)
    view = View(gateway.info.node, gateway.info.boot, 99, [])
    for message in (Records([stranger]), view, Confirm("endpoint/e", stranger.stamp)):
        router.receive(peer, message)
    assert (len(router.registry), router.sync.ignored) == (0, 3)
    gateway.receive(peer, Pull([]))
    gateway.receive(b"unknown", Records([stranger]))
    assert (len(gateway.registry), gateway.sync.ignored) == (0, 2)


def test_what_a_router_says_of_others_is_of_no_interest_to_a_gateway() -> None:
    network = Network()
    network.add("r1")
    gateway = network.add("g", "gateway")
    network.settle()
    (peer,) = gateway.sync.peers("router")
    before = dict(gateway.sync.membership.nodes())
    assert not gateway.sync.on_view(peer, View(b"x" * 16, b"y" * 8, 99, []), gateway.out, network.now)
    assert gateway.sync.ignored == 1
    assert gateway.sync.membership.nodes() == before


def test_a_record_that_is_refused_is_asked_for_ever_more_rarely() -> None:
    network = Network()
    router = network.add("r1", skew_ms=600_000)  # ten minutes fast
    gateway = network.add("g", "gateway")
    network.settle()
    write(router)
    pulls = []
    receive = router.receive

    def counted(peer: bytes, message: Any) -> None:
        if isinstance(message, Pull):
            pulls.append(network.now)
        receive(peer, message)

    router.receive = counted  # type: ignore[method-assign]
    network.run(200.0)
    assert gateway.registry.endpoint("e") is None
    assert "in the future" in gateway.registry.refusals[0][1]
    assert 6 <= len(pulls) <= 16
    assert PULL_RARELY_S <= pulls[-1] - pulls[-2] <= PULL_RARELY_S + 2
    # What else is written is not held up by it.
    write(router, "f", "/f")
    router.skew_ms = 0
    network.run(1.5)
    assert gateway.registry.endpoint("f") is None, "written by the same fast clock"
    network.run(650.0)
    assert digests(network) == {gateway.sync.digest()}, "time has caught up with it"


def test_a_losing_write_becomes_known_everywhere() -> None:
    network = Network()
    names = ["r1", "r2", "r3"]
    routers = [network.add(name) for name in names]
    network.settle()
    write(routers[0])
    network.settle()
    network.partition(["r1", "r3"], ["r2"])
    loser = write(routers[0], "e", "/loser")
    network.run(0.1)
    write(routers[1], "e", "/winner")
    network.settle()
    network.heal()
    network.run(3.0)
    for router in routers:
        assert router.registry.endpoint("e") == EndpointValue(route="/winner")
        assert [conflict.loser for conflict in router.registry.conflicts()] == [loser]


# --- confirmations ----------------------------------------------------------------------------------------------------


def test_a_barrier_is_over_in_one_round_trip_although_publications_are_lost() -> None:
    network = Network(publish_loss=1.0)
    router = network.add("r1")
    gateways = [network.add(f"g{number}", "gateway") for number in range(3)]
    network.settle()
    outcome = OPERATIONS["create_endpoint"](router.registry, {"name": "e", "route": "/e"}, START_MS)
    barrier = router.sync.spread(outcome.written, router.sync.peers("gateway", "router"), router.out, network.now)
    assert barrier.laggards() == ["gateway g0", "gateway g1", "gateway g2"]
    (peer,) = [peer for peer in router.sync.peers() if peer.startswith(gateways[2].info.node)]
    barrier.lost(peer)
    network.settle()
    assert len(router.confirmed) == 3
    for message, sender in zip(router.confirmed, router.sync.peers("gateway"), strict=True):
        barrier.confirmed(sender, message.key, message.stamp)
    assert barrier.done
    assert all(gateway.registry.endpoint("e") for gateway in gateways)


def test_who_has_not_got_the_record_yet_asks_for_it_and_confirms_then() -> None:
    network = Network(publish_loss=1.0)
    router, gateway = network.add("r1"), network.add("g", "gateway")
    network.settle()
    network.run(2.0)
    record = write(router)
    (peer,) = router.sync.peers("gateway")
    gateway.receive(peer, Confirm(record.key, record.stamp))
    assert [type(message) for message, _, _ in gateway.out.pending[peer]] == [Pull]
    network.settle()
    assert router.confirmed == [Confirmed(record.key, record.stamp)]
    gateway.receive(peer, Confirm(record.key, record.stamp))
    network.settle()
    assert len(router.confirmed) == 2, "and at once if it is there already"


# --- membership -------------------------------------------------------------------------------------------------------


def test_everyone_learns_of_everyone() -> None:
    network = Network(publish_loss=0.5)
    for name, role in (("r1", "router"), ("r2", "router"), ("g", "gateway"), ("w", "worker"), ("c", "client")):
        network.add(name, role)
    network.run(4.0)
    for node in network.nodes.values():
        assert sorted(info.name for info in node.sync.membership.nodes().values()) == ["g", "r1", "r2", "w"]
        assert sorted(node.sync.routers_known()) == ["sim://r1", "sim://r2"]


def test_everyone_learns_of_a_leave_and_of_a_death() -> None:
    network = Network(publish_loss=0.5)
    gateway = network.add("g", "gateway")
    for name, role in (("r1", "router"), ("r2", "router"), ("w", "worker"), ("w2", "worker")):
        network.add(name, role)
    network.run(4.0)
    network.nodes["w"].info.leaving = True
    network.run(4.0)
    assert [info.leaving for info in gateway.sync.membership.workers()] == [True, False]
    network.remove("w2")
    network.run(4.0)
    assert [info.name for info in gateway.sync.membership.workers()] == ["w"]
    network.remove("r2")
    network.run(6.5)
    assert gateway.sync.routers_known() == ["sim://r1"]


def test_a_router_that_says_goodbye_takes_its_view_with_it() -> None:
    network = Network()
    network.add("r1")
    network.add("w", "worker")
    gateway = network.add("g", "gateway")
    network.settle()
    network.run(0.3)
    (peer,) = gateway.sync.peers("router")
    gateway.sync.link_down(peer, network.now, "goodbye: the router is shutting down")
    assert gateway.sync.membership.nodes() == {}


def test_a_replica_is_a_member_with_its_backend() -> None:
    network = Network()
    router, worker = network.add("r1"), network.add("w", "worker")
    replica = network.add("x", "replica")
    router.sync.link_down(router.sync.peers("replica")[0], network.now)
    hello = msgspec.structs.replace(Network._hello(replica), backend="b", code="v1")
    router.sync.link_up(b"p", hello, router.out, network.now)
    network.run(0.3)
    (info,) = worker.sync.membership.replicas()
    assert (info.backend, info.code) == ("b", "v1")


def test_many_joins_make_few_publications() -> None:
    network = Network()
    router = network.add("r1")
    network.run(1.0)
    router.out.take_publications()
    for number in range(20):
        network.add(f"w{number}", "worker")
    router.tick()
    assert len(router.out.publications) == 1
    network.now += 1.0
    router.tick()
    assert len(router.out.publications) == 2
    first, second = router.out.publications
    assert isinstance(first, ViewChange)
    assert isinstance(second, ViewChange)
    assert len(first.joined) + len(second.joined) == 20
    assert (second.base, second.serial) == (first.serial, router.sync.view_serial)


def test_a_second_link_with_a_node_keeps_it_a_member() -> None:
    network = Network()
    router, worker = network.add("r1"), network.add("w", "worker")
    (first,) = router.sync.peers("worker")
    router.sync.link_up(b"second", Network._hello(worker), router.out, network.now)
    router.sync.link_down(first, network.now)
    assert worker.info.node in router.sync.membership.nodes()
    router.sync.link_down(b"second", network.now)
    assert worker.info.node not in router.sync.membership.nodes()
    router.sync.link_down(b"second", network.now)
    router.sync.receive(b"second", Ping(), router.out, network.now)


def test_the_sync_says_who_is_linked() -> None:
    network = Network()
    router, gateway = network.add("r1"), network.add("g", "gateway")
    (peer,) = router.sync.peers()
    assert (router.sync.role_of(peer), router.sync.role_of(b"x")) == ("gateway", "")
    assert router.sync.info_of(peer) == gateway.info
    assert isinstance(router.sync, ConfigSync)


# --- properties -------------------------------------------------------------------------------------------------------

_NAMES = ["r0", "r1", "r2", "g0", "g1", "w0"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.2]))
def test_all_nodes_agree_after_any_faults(seed: int, publish_loss: float, lossy: float) -> None:
    """Writes, deletes, partitions, restarts and skewed clocks; then five seconds of peace."""
    rng = random.Random(seed)
    network = Network(seed, publish_loss=publish_loss, lossy=lossy)
    for name in _NAMES:
        role = {"r": "router", "g": "gateway", "w": "worker"}[name[0]]
        network.add(name, role, skew_ms=rng.randint(-20_000, 20_000))
    written: dict[str, bytes] = {}
    for _ in range(25):
        action = rng.random()
        if action < 0.6:
            router = network.nodes[f"r{rng.randrange(3)}"]
            name = f"e{rng.randrange(3)}"
            live = router.registry.endpoint(name) is not None
            record = write(router, name, None if live and rng.random() < 0.3 else f"/{rng.random()}")
            written[record.key] = max(record.mark, written.get(record.key, b""))
        elif action < 0.7:
            side = {name for name in _NAMES if rng.random() < 0.5}
            network.partition(side, set(_NAMES) - side)
        elif action < 0.8:
            network.heal()
        elif action < 0.9:
            name = rng.choice(_NAMES[3:])  # a router that dies before it was heard takes its writes with it
            network.remove(name)
            network.add(name, {"g": "gateway", "w": "worker"}[name[0]])
        network.run(rng.choice([0.1, 0.5, 1.5]))
    network.heal()
    network.run(5.0 if not lossy else 20.0)
    assert digests(network) == {network.nodes["r0"].sync.digest()}
    assert {name: node.registry.endpoints() for name, node in network.nodes.items()} == {
        name: network.nodes["r0"].registry.endpoints() for name in network.nodes
    }
    # No write is lost (but to a later one), and nothing is in force that was never written.
    assert {record.key: record.mark for record in network.nodes["r0"].registry.records()} == written
    members = [sorted(info.name for info in node.sync.membership.nodes().values()) for node in network.nodes.values()]
    assert members == [sorted(_NAMES)] * len(_NAMES)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_delete_that_was_seen_by_one_survives_the_return_of_those_who_missed_it(seed: int) -> None:
    rng = random.Random(seed)
    network = Network(seed, publish_loss=0.5)
    for name in _NAMES:
        network.add(name, {"r": "router", "g": "gateway", "w": "worker"}[name[0]])
    for number in range(3):
        write(network.nodes[f"r{number}"], f"e{number}")
    network.run(4.0)
    away = f"r{rng.randrange(3)}"
    network.partition([away], [name for name in _NAMES if name != away])
    deleting = network.nodes[rng.choice([name for name in ("r0", "r1", "r2") if name != away])]
    for number in range(3):
        write(deleting, f"e{number}", None)
    network.run(rng.uniform(0.1, 60.0), step=0.5)
    network.heal()
    network.run(5.0)
    for node in network.nodes.values():
        assert node.registry.endpoints() == {}


@pytest.mark.parametrize("count", [30])
def test_many_nodes_on_lossy_publications_agree_within_two_heartbeats(count: int) -> None:
    network = Network(7, publish_loss=0.9)
    routers = [network.add(f"r{number}") for number in range(3)]
    for number in range(count):
        network.add(f"g{number}", "gateway")
    network.run(3.0)
    write(routers[0])
    network.run(2.2)
    assert digests(network) == {routers[0].sync.digest()}


# --- what all routers have lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["gateway", "worker", "replica"])
def test_a_router_that_lost_everything_gets_it_back_from_those_who_have_it_in_force(role: str) -> None:
    network = Network()
    first, member = network.add("r1"), network.add("m", role)
    network.settle()
    kept, deleted = write(first, "kept"), write(first, "deleted")
    deleted = write(first, "deleted", None)
    network.settle()
    network.remove("r1")
    second = network.add("r2")
    network.settle()
    network.run(1.5)
    assert second.registry.get("endpoint/kept") == kept
    assert second.registry.get("endpoint/deleted") == deleted
    assert second.sync.digest() == member.sync.digest()


def test_from_others_a_router_takes_only_what_it_asked_for() -> None:
    network = Network()
    router, gateway = network.add("r1"), network.add("g", "gateway")
    network.settle()
    (peer,) = router.sync.peers("gateway")
    stranger = Registry(b"x" * 16)
    asked = stranger.write("endpoint/asked", encode_value(EndpointValue()), None, START_MS)
    other = stranger.write("endpoint/other", encode_value(EndpointValue()), None, START_MS)
    router.receive(peer, Records([asked]))
    assert len(router.registry) == 0
    router.receive(peer, Pull([(asked.key, asked.mark)]))
    assert router.out.take()[peer][0][0] == Records([], [asked.key])
    router.receive(peer, Records([other, asked], ["endpoint/kept"]))
    assert [record.key for record in router.registry.records()] == [asked.key]
    assert peer not in router.out.take()  # and it asks for nothing
    assert gateway.sync.ignored == 0


def test_a_client_is_asked_for_nothing() -> None:
    network = Network()
    router, _ = network.add("r1"), network.add("c", "client")
    network.settle()
    (peer,) = router.sync.peers("client")
    record = Registry(b"x" * 16).write("endpoint/e", encode_value(EndpointValue()), None, START_MS)
    router.receive(peer, Pull([(record.key, record.mark)]))
    assert peer not in router.out.take()
    router.receive(peer, Records([record]))
    assert len(router.registry) == 0

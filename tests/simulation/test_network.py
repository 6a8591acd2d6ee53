"""The virtual network does to connections and publications what it says."""

from __future__ import annotations

import random
from collections.abc import Sequence

from zserve.channel.outbox import Outbox, Parcel, Peer
from zserve.testing.clock import VirtualClock
from zserve.testing.hub import SimHub
from zserve.testing.network import Network, Weather
from zserve.wire.messages import Cancel, Hello, NodeInfo, Ping


class Probe:
    """A core that only notes what happens."""

    def __init__(self) -> None:
        self.out = Outbox()
        self.peers: list[Peer] = []
        self.downs: list[tuple[float, str]] = []
        self.got: list[tuple[float, str]] = []

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.peers.append(peer)

    def link_doubted(self, peer: Peer, cause: str, now: float) -> None: ...

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.downs.append((now, reason))

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        self.got += [(now, message.ids[0].decode()) for message, _, _ in parcels if isinstance(message, Cancel)]

    def ping(self, peer: Peer, now: float) -> Ping:
        return Ping()

    def tick(self, now: float) -> None: ...

    def next_wakeup(self) -> float | None:
        return None

    def routers_known(self) -> Sequence[str]:
        return ()

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.got]


class Pair:
    """A router and a gateway, linked."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.network = Network(self.clock, random.Random(seed))
        self.router, self.gateway = Probe(), Probe()
        self.router_hub = self._hub(self.router, "router", b"r" * 16, bind="sim://r")
        self.router_hub.start()
        self.gateway_hub = self._hub(self.gateway, "gateway", b"g" * 16, join=["sim://r"])
        self.gateway_hub.start()
        self.run(0.5)

    def _hub(self, core: Probe, role: str, node: bytes, bind: str = "", join: Sequence[str] = ()) -> SimHub:
        return SimHub(self.network, core, NodeInfo(node, b"b" * 8, role, role), role, bind=bind, join=join)

    def run(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def up(self, text: str) -> None:
        self.gateway.out.send(self.gateway.peers[-1], Cancel([text.encode()]))

    def down(self, text: str) -> None:
        self.router.out.send(self.router.peers[-1], Cancel([text.encode()]))

    def publish(self, text: str) -> None:
        self.router.out.publish(Cancel([text.encode()]))


def test_a_connection_keeps_the_order_whatever_the_delays() -> None:
    pair = Pair()
    pair.network.weather = Weather(delay_s=0.01, spike=0.5, spike_s=0.2)
    for number in range(50):
        pair.up(str(number))
        pair.down(str(number))
        pair.run(0.001)
    pair.run(1.0)
    assert pair.router.texts == [str(number) for number in range(50)]
    assert pair.gateway.texts == pair.router.texts
    assert len({at for at, _ in pair.router.got}) > 3


def test_a_short_partition_only_delays() -> None:
    pair = Pair()
    pair.network.partition(["gateway"])
    pair.up("a")
    pair.down("b")
    pair.run(2.0)
    assert pair.router.texts == pair.gateway.texts == []
    pair.network.heal()
    pair.run(1.5)
    assert (pair.router.texts, pair.gateway.texts) == (["a"], ["b"])
    assert pair.router.downs == pair.gateway.downs == []


def test_a_long_partition_ends_the_link_and_a_new_one_comes_up() -> None:
    pair = Pair()
    pair.network.partition(["gateway"])
    pair.run(8.0)
    assert "silent" in pair.gateway.downs[0][1]
    assert "silent" in pair.router.downs[0][1]
    pair.network.heal()
    pair.run(6.0)
    pair.up("again")
    pair.run(0.1)
    assert pair.router.texts == ["again"]
    assert len(set(pair.gateway.peers)) == 2


def test_one_way_blocked() -> None:
    pair = Pair()
    pair.network.block("gateway", "router")
    pair.up("a")
    pair.down("b")
    pair.run(0.5)
    assert (pair.router.texts, pair.gateway.texts) == ([], ["b"])


def test_a_reset_loses_what_is_under_way_and_both_learn_of_it() -> None:
    pair = Pair()
    pair.up("lost")
    pair.down("lost too")
    pair.run(0.0)  # sent, not arrived
    assert pair.network.reset_connections("router", "gateway") == 1
    pair.run(2.5)
    assert pair.router.texts == pair.gateway.texts == []
    assert pair.gateway.downs[0][1] == "connection lost"
    assert pair.router.downs[0][1] == "unreachable"  # found out at the next heartbeat
    assert len(pair.gateway.peers) == 2


def test_the_news_of_a_reset_waits_for_the_end_of_a_partition() -> None:
    pair = Pair()
    pair.network.partition(["gateway"])
    pair.network.reset_connections("router", "gateway")
    pair.run(2.0)
    assert pair.gateway.downs == []
    pair.network.heal()
    pair.run(1.5)
    assert [reason for _, reason in pair.gateway.downs] == ["connection lost"]


def test_so_does_the_half_of_it_that_one_end_has_not_heard() -> None:
    pair = Pair()
    pair.network.block("router", "gateway")
    pair.network.reset_connections("router", "gateway")
    pair.run(2.0)
    assert pair.gateway.downs == []
    pair.network.heal()
    pair.run(1.5)
    assert [reason for _, reason in pair.gateway.downs] == ["connection lost"]


def test_a_killed_router_is_noticed_at_once_and_one_without_power_by_its_silence() -> None:
    for silent, earliest, latest in ((False, 0.0, 0.1), (True, 4.0, 7.0)):
        pair = Pair()
        at = pair.gateway_hub.now()
        pair.router_hub.kill(silent=silent)
        pair.run(8.0)
        ((down_at, _), *_) = pair.gateway.downs
        assert earliest <= down_at - at <= latest


def test_a_stopped_process_gets_everything_when_it_goes_on() -> None:
    pair = Pair()
    pair.router_hub.pause()
    for text in "abc":
        pair.up(text)
    pair.run(3.0)
    assert pair.router.texts == []
    pair.router_hub.resume()
    assert pair.router.texts == ["a", "b", "c"]
    assert pair.router.downs == []


def test_publications_get_lost_doubled_and_out_of_order() -> None:
    pair = Pair()
    pair.network.weather = Weather(publish_loss=0.3, publish_double=0.3, publish_spread_s=0.5)
    for number in range(200):
        pair.publish(f"{number:03}")
        pair.run(0.001)
    pair.run(1.0)
    got = pair.gateway.texts
    assert 100 < len(set(got)) < 180
    assert len(got) > len(set(got))
    assert got != sorted(got)


def test_nothing_is_published_to_the_other_side_of_a_partition() -> None:
    pair = Pair()
    pair.network.partition(["gateway"])
    pair.publish("a")
    pair.run(0.5)
    pair.network.heal()
    pair.run(1.5)
    assert pair.gateway.texts == []


def test_who_dials_before_there_is_a_router_gets_through_later() -> None:
    clock = VirtualClock()
    network = Network(clock, random.Random(3))
    early, late = Probe(), Probe()
    SimHub(network, early, NodeInfo(b"g" * 16, b"b" * 8, "gateway"), "g", join=["sim://r"]).start()
    clock.run_until(3.0)
    SimHub(network, late, NodeInfo(b"r" * 16, b"b" * 8, "router"), "r", bind="sim://r").start()
    clock.run_until(9.0)
    assert len(early.peers) == len(late.peers) == 1

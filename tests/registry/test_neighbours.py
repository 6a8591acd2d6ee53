"""Which routers a node chooses for its links."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from zserve.registry.neighbours import PATIENCE_S, SPARE_S, Neighbours, choose_routers
from zserve.registry.views import Membership
from zserve.wire.messages import NodeInfo, View


def routers(count: int) -> list[NodeInfo]:
    rng = random.Random(7)
    return [NodeInfo(rng.randbytes(16), b"b" * 8, "router", f"r{number}") for number in range(count)]


def names(chosen: list[NodeInfo]) -> list[str]:
    return [info.name for info in chosen]


@pytest.mark.parametrize(("count", "at_most", "expected"), [(0, 3, 0), (2, 3, 2), (3, 3, 3), (9, 3, 3), (9, 0, 9)])
def test_as_many_as_allowed(count: int, at_most: int, expected: int) -> None:
    assert len(choose_routers(b"n" * 16, routers(count), at_most)) == expected


def test_the_choice_does_not_depend_on_the_order() -> None:
    found = routers(9)
    assert names(choose_routers(b"n" * 16, found, 3)) == names(choose_routers(b"n" * 16, found[::-1], 3))


def test_nodes_spread_evenly() -> None:
    rng = random.Random(1)
    found = routers(10)
    counts = Counter(name for _ in range(1000) for name in names(choose_routers(rng.randbytes(16), found, 3)))
    assert min(counts.values()) > 240
    assert max(counts.values()) < 360


def test_one_that_goes_is_replaced_and_the_others_stay() -> None:
    found = routers(9)
    before = choose_routers(b"n" * 16, found, 3)
    after = choose_routers(b"n" * 16, [info for info in found if info is not before[0]], 3)
    assert len(set(names(before)) & set(names(after))) == 2


def test_one_that_leaves_is_avoided_where_there_are_others() -> None:
    found = routers(4)
    first = choose_routers(b"n" * 16, found, 3)[0]
    leaving = [msgspec.structs.replace(info, leaving=info is first) for info in found]
    assert first.name not in names(choose_routers(b"n" * 16, leaving, 3))
    assert len(choose_routers(b"n" * 16, [msgspec.structs.replace(info, leaving=True) for info in found], 3)) == 3


class Fabric:
    """Five routers, and a node that should have links with two of them."""

    def __init__(self, at_most: int = 2, first: bytes = b"") -> None:
        self.membership = Membership()
        self.infos = [
            msgspec.structs.replace(info, address=f"tcp://{info.name}:1") for info in routers(5)
        ]
        self.neighbours = Neighbours(b"n" * 16, at_most, first)
        self.serial = 0
        self.now = 0.0

    def see(self, infos: list[NodeInfo], by: NodeInfo) -> None:
        """The router *by* says who is there."""
        self.serial += 1
        self.membership.merge(View(by.node, by.boot, self.serial, infos))
        self.neighbours.update(self.membership, self.now)

    def link(self, info: NodeInfo) -> None:
        self.membership.router_up(info.node, info.boot, self.now)
        self.neighbours.link_up(b"to " + info.node, info.node)
        self.neighbours.update(self.membership, self.now)

    def lose(self, info: NodeInfo) -> None:
        self.membership.router_down(info.node, info.boot, self.now)
        self.neighbours.link_down(b"to " + info.node, self.now)
        self.neighbours.update(self.membership, self.now)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.membership.tick(self.now)
        self.neighbours.update(self.membership, self.now)

    def wanted(self) -> list[NodeInfo]:
        by_address = {info.address: info for info in self.infos}
        return [by_address[address] for address in self.neighbours.wanted]

    def begin(self) -> list[NodeInfo]:
        """Links with the chosen two; the first one tells of all."""
        first = choose_routers(b"n" * 16, self.infos, 2)[0]
        self.link(first)
        self.see(self.infos, first)
        for info in self.wanted():
            if info is not first:
                self.link(info)
        return self.wanted()


def test_a_router_whose_link_ends_is_tried_again_and_gets_a_stand_in_at_once() -> None:
    fabric = Fabric()
    one, other = fabric.begin()
    fabric.lose(other)
    assert fabric.wanted()[:2] == [one, other]
    assert len(fabric.wanted()) == 3
    fabric.link(other)
    assert fabric.wanted() == [one, other]


def test_a_router_that_never_answers_gets_a_stand_in_after_a_while() -> None:
    fabric = Fabric()
    first = fabric.infos[0]
    fabric.link(first)
    fabric.see(fabric.infos, first)
    assert len(fabric.wanted()) == 2
    assert fabric.neighbours.next_wakeup() == PATIENCE_S
    fabric.after(PATIENCE_S)
    assert len(fabric.wanted()) > 2


def test_when_all_links_are_lost_all_routers_ever_known_are_tried() -> None:
    fabric = Fabric()
    for info in fabric.begin():
        fabric.lose(info)
    assert len(fabric.wanted()) == 4
    fabric.after(30.0)
    assert fabric.membership.routers() == [], "nobody says any more who is there"
    assert len(fabric.wanted()) == 5


def test_links_that_are_too_many_end_after_a_while() -> None:
    fabric = Fabric()
    wanted = fabric.begin()
    spare = next(info for info in fabric.infos if info not in wanted)
    fabric.link(spare)
    assert fabric.neighbours.spare(fabric.now) == []
    assert fabric.neighbours.next_wakeup() == SPARE_S
    fabric.after(SPARE_S)
    assert fabric.neighbours.spare(fabric.now) == [b"to " + spare.node]
    fabric.lose(wanted[0])
    assert fabric.neighbours.spare(fabric.now) == [], "it is needed now"


def test_with_no_limit_all_are_wanted_and_none_is_spare() -> None:
    fabric = Fabric(at_most=0)
    for info in fabric.infos:
        fabric.link(info)
    fabric.see(fabric.infos[:2], fabric.infos[0])
    fabric.after(100.0)
    assert fabric.neighbours.spare(fabric.now) == []
    assert fabric.neighbours.next_wakeup() is None


def test_the_router_beside_a_gateway_is_always_chosen() -> None:
    for info in routers(5):
        fabric = Fabric(first=info.node)
        fabric.link(fabric.infos[0])
        fabric.see(fabric.infos, fabric.infos[0])
        assert fabric.wanted()[0].node == info.node

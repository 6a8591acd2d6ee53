from __future__ import annotations

import pytest

from zserve.registry.views import VIEW_GRACE_S, Membership
from zserve.wire.messages import NodeInfo, View

R1, R2, W1, W2 = (letter * 16 for letter in (b"r", b"s", b"v", b"w"))
BOOT, REBOOT = b"1" * 8, b"2" * 8


def info(node: bytes, role: str = "worker", boot: bytes = BOOT, **fields: object) -> NodeInfo:
    return NodeInfo(node, boot, role, **fields)  # type: ignore[arg-type]


def router(node: bytes, boot: bytes = BOOT) -> NodeInfo:
    return info(node, "router", boot, address=f"tcp://{node[:1].decode()}:1")


def test_a_router_view_begins_with_itself_and_counts_up() -> None:
    membership = Membership(router(R1))
    assert membership.own_serial == 1
    assert membership.set_member(info(W1))
    assert not membership.set_member(info(W1))
    assert membership.set_member(info(W1, leaving=True))
    view = membership.own_view()
    assert view is not None
    assert (view.router, view.serial, [member.node for member in view.members]) == (R1, 3, [R1, W1])
    assert membership.drop_member(W1)
    assert not membership.drop_member(W1)
    assert membership.own_serial == 4


def test_a_member_that_came_back_is_not_dropped_with_its_former_self() -> None:
    membership = Membership(router(R1))
    membership.set_member(info(W1, boot=REBOOT))
    assert not membership.drop_member(W1, BOOT)
    assert membership.drop_member(W1, REBOOT)


def test_others_have_no_view_of_their_own() -> None:
    membership = Membership()
    assert (membership.own_serial, membership.own_view()) == (0, None)


def test_nodes_are_the_union_of_the_views() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.router_up(R2, BOOT, 0.0)
    assert membership.merge(View(R1, BOOT, 1, [router(R1), info(W1)]))
    assert membership.merge(View(R2, BOOT, 1, [router(R2), info(W2), info(W1)]))
    assert sorted(membership.nodes()) == sorted([R1, R2, W1, W2])
    assert [one.node for one in membership.workers()] == [W1, W2]
    assert [one.address for one in membership.routers()] == ["tcp://r:1", "tcp://s:1"]
    assert membership.merge(View(R2, BOOT, 2, [router(R2)]))
    assert sorted(membership.nodes()) == sorted([R1, R2, W1])


@pytest.mark.parametrize("serial", [1, 2])
def test_an_older_view_changes_nothing(serial: int) -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 2, [info(W1)]))
    version = membership.version
    assert not membership.merge(View(R1, BOOT, serial, []))
    assert (membership.version, list(membership.nodes())) == (version, [W1])


def test_views_of_unknown_routers_and_former_boots_are_not_taken() -> None:
    membership = Membership()
    assert membership.merge(View(R1, BOOT, 1, [info(W1)]))
    assert membership.nodes() == {}, "there is no way to this router"
    membership.router_up(R1, REBOOT, 0.0)
    assert not membership.merge(View(R1, BOOT, 9, [info(W1)]))
    assert membership.nodes() == {}


def test_a_restarted_router_begins_anew() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 50, [info(W1)]))
    membership.router_up(R1, REBOOT, 1.0)
    assert (membership.serial_of(R1), membership.nodes()) == (0, {})
    assert membership.merge(View(R1, REBOOT, 1, [info(W2)]))
    membership.router_down(R1, BOOT, 2.0)  # of the former link
    assert membership.live_routers() == [(R1, 1.0)]


def test_a_lost_router_is_believed_for_a_while() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 1, [info(W1)]))
    membership.router_down(R1, BOOT, 10.0)
    assert membership.next_wakeup() is None, "there is another link"
    membership.router_down(R1, BOOT, 10.0)
    assert membership.live_routers() == []
    assert membership.next_wakeup() == 10.0 + VIEW_GRACE_S
    assert not membership.tick(10.0 + VIEW_GRACE_S - 0.01)
    assert W1 in membership.nodes()
    assert membership.tick(10.0 + VIEW_GRACE_S)
    assert membership.nodes() == {}


def test_a_router_that_comes_back_in_time_is_as_before() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 1, [info(W1)]))
    membership.router_down(R1, BOOT, 10.0)
    membership.router_up(R1, BOOT, 12.0)
    membership.tick(100.0)
    assert W1 in membership.nodes()
    assert membership.live_routers() == [(R1, 12.0)]


def test_a_router_that_said_goodbye_is_gone_at_once() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 1, [info(W1)]))
    membership.router_down(R1, BOOT, 10.0, 0.0)
    assert membership.nodes() == {}


def test_one_router_that_knows_of_a_leave_is_enough() -> None:
    membership = Membership()
    for node in (R1, R2):
        membership.router_up(node, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 1, [info(W1, leaving=True), info(W2, leaving=True)]))
    membership.merge(View(R2, BOOT, 1, [info(W1), info(W2, boot=REBOOT)]))
    nodes = membership.nodes()
    assert nodes[W1].leaving
    assert not nodes[W2].leaving, "that was its former self"


def test_malformed_members_are_left_out() -> None:
    membership = Membership()
    membership.router_up(R1, BOOT, 0.0)
    membership.merge(View(R1, BOOT, 1, [info(b"short"), info(W1)]))
    assert list(membership.nodes()) == [W1]

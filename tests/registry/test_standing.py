"""A router that was away for longer than deletes are remembered."""

from __future__ import annotations

import pytest

from zserve.registry.record import Record
from zserve.registry.standing import ABSENT_MS, ALONE_S, BLANK, BLANK_S, JOINING_S, QUIET_S, Standing
from zserve.registry.sync import ConfigSync
from zserve.registry.values import EndpointValue, encode_value
from zserve.wire.messages import NodeInfo, Pull, Records

from .network import START_MS, Network, Node

HELD = [Record("endpoint/e", 1, 7 << 16, b"w" * 16, 1, b"", b"{}")]
DAY_MS = 86_400_000


def doubtful(node: bytes = b"d" * 16, last_ran_ms: int = 1000, wait_s: float = ALONE_S) -> Standing:
    standing = Standing(node)
    standing.begin(last_ran_ms, HELD, wait_s)
    assert standing.tick(0.0) == []
    return standing


def test_alone_it_takes_its_records_back_after_a_while() -> None:
    standing = doubtful()
    assert standing.tick(ALONE_S - 0.1) == []
    assert standing.in_doubt
    assert standing.tick(ALONE_S) == HELD
    assert not standing.in_doubt
    assert standing.given_up == 0


def test_a_router_that_was_there_all_the_time_knows_better() -> None:
    standing = doubtful()
    standing.router_up(b"p", 1.0)
    assert not standing.heard(b"p", b"o" * 16, 0, same=False)
    assert standing.tick(100.0) == [], "it has not got all of it yet"
    assert standing.heard(b"p", b"o" * 16, 0, same=True)
    assert not standing.in_doubt
    assert (standing.given_up, standing.tick(200.0)) == (1, [])


@pytest.mark.parametrize(
    ("other_ran_ms", "other", "wins"), [(999, b"z", True), (1001, b"a", False), (1000, b"a", True)]
)
def test_of_those_in_doubt_the_one_that_ran_last_takes_its_records_back(
    other_ran_ms: int, other: bytes, wins: bool
) -> None:
    standing = doubtful(wait_s=JOINING_S)
    standing.router_up(b"p", 1.0)
    assert standing.tick(1.0 + QUIET_S) == [], "the other one has not said yet where it stands"
    standing.heard(b"p", other * 16, other_ran_ms, same=True)
    assert standing.tick(1.0 + QUIET_S - 0.1) == []
    assert bool(standing.tick(1.0 + QUIET_S)) == wins
    standing.router_down(b"p")
    if not wins:
        assert standing.tick(JOINING_S) == HELD, "now it is alone"


def test_a_blank_router_is_certain_after_a_while() -> None:
    standing = Standing(b"d" * 16)
    standing.begin(BLANK, (), BLANK_S)
    standing.tick(0.0)
    assert not standing.in_doubt
    standing.tick(BLANK_S - 0.1)
    assert standing.absent_ms == BLANK
    standing.tick(BLANK_S)
    assert standing.absent_ms == 0


def write(node: Node, name: str, delete: bool = False) -> Record:
    key = "endpoint/" + name
    current = node.registry.get(key)
    text = None if delete else encode_value(EndpointValue())
    record = node.registry.write(key, text, current.stamp if current else None, node.sync.wall_ms())
    node.sync.publish([record], node.out)
    return record


class _Later(Network):
    """A network whose time of day can jump."""

    days = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.days * DAY_MS


def test_what_others_deleted_and_forgot_does_not_come_back() -> None:
    network = _Later()
    stayed, away = network.add("r1"), network.add("r2")
    stayed.sync.standing.certain()
    network.add("g", "gateway")
    network.run(1.0)
    write(stayed, "deleted")
    write(stayed, "kept")
    network.run(2.0)
    on_disk, last_ran_ms = away.registry.records(), away.sync.wall_ms()
    network.remove("r2")
    write(stayed, "deleted", delete=True)
    network.run(1.0)
    network.days = 9
    for node in network.nodes.values():
        node.registry.expire(network.wall_ms())
    assert stayed.registry.get("endpoint/deleted") is None, "nobody remembers"
    back = network.add("r2")
    assert network.wall_ms() - last_ran_ms > ABSENT_MS
    back.sync.begin_in_doubt(on_disk, last_ran_ms, JOINING_S)
    network.run(5.0)
    assert not back.sync.standing.in_doubt
    assert back.sync.standing.given_up == 2
    for node in network.nodes.values():
        assert sorted(record.key for record in node.registry.records()) == ["endpoint/kept"]


def test_when_all_were_away_what_the_last_one_had_is_in_force() -> None:
    network = _Later()
    first, last = network.add("r1"), network.add("r2")
    network.run(1.0)
    write(first, "deleted")
    write(first, "kept")
    network.run(2.0)
    of_first, first_ran_ms = first.registry.records(), first.sync.wall_ms()
    network.remove("r1")
    write(last, "deleted", delete=True)
    network.run(2.0)
    of_last, last_ran_ms = last.registry.records(), last.sync.wall_ms()
    network.remove("r2")
    network.days = 30
    for name, records, ran_ms in (("r1", of_first, first_ran_ms), ("r2", of_last, last_ran_ms)):
        network.add(name).sync.begin_in_doubt(records, ran_ms, JOINING_S)
    network.run(QUIET_S + 5.0)
    for node in network.nodes.values():
        assert [record.key for record in node.registry.records() if record.value is not None] == ["endpoint/kept"]
        assert node.sync.standing.absent_ms == 0


def sync_of_router(*, blank: bool) -> ConfigSync:
    sync = ConfigSync(NodeInfo(b"r" * 16, b"b" * 8, "router"), lambda: START_MS + 30 * DAY_MS)
    if not blank:
        sync.standing.certain()
    return sync


@pytest.mark.parametrize(("blank", "days_ago", "asks"), [(False, 9, False), (False, 1, True), (True, 9, True)])
def test_old_records_are_asked_for_only_by_a_router_that_has_lost_its_own(
    blank: bool, days_ago: int, asks: bool
) -> None:
    network = Network()
    router = network.add("r1")
    router.sync = sync_of_router(blank=blank)
    gateway = network.add("g", "gateway")
    hlc = (START_MS + (30 - days_ago) * DAY_MS) << 16
    record = Record("endpoint/e", 1, hlc, b"w" * 16, 1, b"", encode_value(EndpointValue()))
    (peer,) = router.sync.peers("gateway")
    router.sync.receive(peer, Pull([(record.key, record.mark)], True), router.out, network.now)
    sent = [message for message, _, _ in router.out.take()[peer] if isinstance(message, Records)]
    ((want, forget),) = [(message.want, message.forget) for message in sent]
    assert (want, forget) == ((["endpoint/e"], []) if asks else ([], ["endpoint/e"]))
    assert gateway.registry.get("endpoint/e") is None

"""Clocks that are set by an hour, to either side, rightly or wrongly: config goes on."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.registry.sync import ConfigSync
from zserve.registry.time_of_day import TimeOfDay
from zserve.registry.values import EndpointValue, encode_value

from .network import Network, Node

HOUR_MS = 3_600_000


class SetClock(Node):
    """A node whose clock people set: *skew_ms* off the true time."""

    def __init__(self, network: Network, name: str, role: str, skew_ms: int = 0) -> None:
        super().__init__(network, name, role, skew_ms)
        self.time = TimeOfDay(lambda: network.wall_ms() + self.skew_ms, lambda: int(network.now * 1000))
        self.sync = ConfigSync(self.info, self.time.earliest_ms, latest_ms=self.time.latest_ms)


def write(node: Node, path: str) -> None:
    key = "endpoint/e"
    current = node.registry.get(key)
    text = encode_value(EndpointValue(route=path))
    record = node.registry.write(key, text, current.stamp if current else None, node.sync.wall_ms())
    node.sync.publish([record], node.out)


def agreed(network: Network, path: str) -> bool:
    """Whether all have the route *path* within three seconds."""
    network.run(3.0)
    found = [node.registry.endpoint("e") for node in network.nodes.values()]
    return found == [EndpointValue(route=path)] * len(found)


def made(*skews_ms: int) -> tuple[Network, list[Any]]:
    network = Network()
    routers = [network.add(f"r{number}", skew_ms=skew_ms, node=SetClock) for number, skew_ms in enumerate(skews_ms)]
    network.add("g", "gateway", node=SetClock)
    network.settle()
    return network, routers


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_clock_that_is_set_by_an_hour_and_back_holds_up_no_config(step_ms: int, everywhere: bool) -> None:
    network, routers = made(0, 0)
    write(routers[0], "/before")
    assert agreed(network, "/before")
    for node in network.nodes.values() if everywhere else routers[:1]:
        node.skew_ms = step_ms
    for number, router in enumerate((routers[0], routers[1], routers[0])):
        write(router, f"/while/{number}")
        assert agreed(network, f"/while/{number}")
    for node in network.nodes.values():
        node.skew_ms = 0
    for number, router in enumerate(routers):
        write(router, f"/after/{number}")
        assert agreed(network, f"/after/{number}")
    assert not [node.registry.refusals for node in network.nodes.values() if node.registry.refusals]


@pytest.mark.parametrize("wrong_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_that_was_wrong_at_the_start_is_put_right(wrong_ms: int) -> None:
    network, (wrong, right) = made(wrong_ms, 0)
    wrong.skew_ms = 0
    write(right, "/right")
    assert agreed(network, "/right")
    write(wrong, "/was-wrong")
    assert agreed(network, "/was-wrong")


def test_a_step_is_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    now = 0
    step = 0
    time = TimeOfDay(lambda: 1_700_000_000_000 + now + step, lambda: now)
    for step_ms, words in ((0, ""), (HOUR_MS, "set forward by 3600 s"), (0, "set back by 3600 s"), (2000, "")):
        step = step_ms
        for _ in range(2):
            now += 1000
            time.look()
        said = [record.message for record in caplog.records]
        caplog.clear()
        assert len(said) == bool(words)
        assert all(words in text for text in said)

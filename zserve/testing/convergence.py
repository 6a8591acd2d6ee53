"""How fast a change reaches all nodes of a large fabric, and what it costs in bytes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from ..registry.neighbours import SPARE_S
from ..registry.registry import Registry
from .clients import Call
from .fabric import SimFabric
from .network import Weather

__all__ = ["Curve", "draw", "measure"]

MAX_ROUTERS = 3
"""Links of a gateway or worker node with routers in a large fabric."""
COMINGS = 4
"""How many nodes come and go to see what that costs."""


class Curve(msgspec.Struct):
    """delays_s: how long after the write each node had it in force, sorted, over all changes, in virtual seconds.

    nodes, routers: how many.  bytes_a_node: what a node receives a second at rest, in bytes of messages.
    bytes_a_change: what it receives in addition when one other node comes or goes.  speed: virtual seconds for each
    second of one processor, at rest and while a change spreads.  formed_s: until all had joined, virtual.
    """

    nodes: int
    routers: int
    publish_loss: float
    delays_s: list[float]
    bytes_a_node: float
    messages_a_node: float
    bytes_a_change: float
    speed: float
    formed_s: float
    wall_s: float

    def within_s(self, share: float) -> float:
        """The time within which this share of the nodes has a change."""
        return self.delays_s[min(len(self.delays_s) - 1, int(share * len(self.delays_s)))]

    def line(self) -> str:
        return (
            f"{self.nodes:5d} nodes ({self.routers} routers): 50% in {self.within_s(0.5) * 1000:.1f} ms, 99% in "
            f"{self.within_s(0.99):.3f} s, all in {self.delays_s[-1]:.3f} s; {self.bytes_a_node:.0f} bytes/s and "
            f"{self.messages_a_node:.1f} messages/s a node, {self.bytes_a_change:.0f} bytes when a node comes or goes; "
            f"{self.speed:.1f} times real time on one processor ({self.wall_s:.0f} s in all)"
        )


class _Noted(Registry):
    """Tells when a record gets into force."""

    fabric: SimFabric
    arrivals: dict[str, list[float]]

    def _install(self, entry: Any) -> None:
        super()._install(entry)
        self.arrivals.setdefault(entry.record.key, []).append(self.fabric.clock.now)


def routers_for(nodes: int) -> int:
    """How many routers a fabric of so many nodes is given here."""
    return max(2, min(32, nodes // 64 + 1))


def measure(
    nodes: int,
    *,
    seed: int = 0,
    changes: int = 5,
    publish_loss: float = 0.01,
    delay_s: float = 0.001,
    as_bytes: bool = True,
) -> Curve:
    """Build a fabric of *nodes* nodes (a tenth of them workers, the rest gateways beside the routers), let it form,
    make *changes* changes through one router after the other, and see when each node has them.

    delay_s: of the network, one way.  publish_loss: the share of publications that get lost.
    """
    started = time.perf_counter()
    fabric = SimFabric(seed, as_bytes=as_bytes, trace=False, join=1)
    fabric.network.weather = Weather(delay_s=delay_s, publish_loss=publish_loss)
    arrivals: dict[str, list[float]] = {}

    def make_registry(writer: bytes) -> Registry:
        registry = _Noted(writer)
        registry.fabric, registry.arrivals = fabric, arrivals
        return registry

    fabric.make_registry = make_registry
    routers = routers_for(nodes)
    for number in range(routers):
        fabric.add_router(f"router-{number}", disk=False)
    fabric.run_for(1.5)  # the routers know each other
    client = fabric.add_client("client")
    fabric.max_routers = MAX_ROUTERS
    workers = min(nodes // 10, 200)
    for number in range(workers):
        fabric.add_worker(f"worker-{number}")
    for number in range(nodes - routers - workers):
        fabric.add_gateway(f"gateway-{number}")
    joined = fabric.clock.now
    _wait_until_formed(fabric, routers)
    formed_s = fabric.clock.now - joined
    fabric.run_for(2.0 + SPARE_S)  # the links that served to find the others have ended

    began, began_at = time.process_time(), fabric.clock.now
    messages, size = fabric.network.messages, fabric.network.bytes
    fabric.run_for(5.0)
    rest_messages, rest_bytes = fabric.network.messages - messages, fabric.network.bytes - size
    delays: list[float] = []
    for number in range(changes):
        peer = list(client.linked())[number % len(client.linked())]
        ended: list[Call] = []
        at = fabric.clock.now
        client.call("create_endpoint", {"name": f"e{number}", "route": None}, peer=peer, on_end=ended.append)
        fabric.run_for(4.0)
        reached = arrivals.get(f"endpoint/e{number}", [])
        if len(reached) != nodes or not ended or ended[0].state != "ok":
            raise AssertionError(f"after 4 s a change was on {len(reached)} of {nodes} nodes")
        delays.extend(reach - at for reach in reached)
    took = time.process_time() - began
    spread_s = fabric.clock.now - began_at
    size = fabric.network.bytes
    for number in range(COMINGS):
        gateway = fabric.add_gateway(f"late-{number}")
        fabric.run_for(1.0)
        gateway.kill()
        fabric.run_for(1.0)
    change_bytes = fabric.network.bytes - size - rest_bytes / 5.0 * 2.0 * COMINGS
    return Curve(
        nodes,
        routers,
        publish_loss,
        sorted(delays),
        rest_bytes / nodes / 5.0,
        rest_messages / nodes / 5.0,
        max(0.0, change_bytes / 2 / COMINGS / nodes),
        spread_s / took,
        formed_s,
        time.perf_counter() - started,
    )


def _wait_until_formed(fabric: SimFabric, routers: int) -> None:
    """Until every node has the links that it wants."""
    others = [*fabric.gateways(), *fabric.workers()]
    wanted = min(routers, MAX_ROUTERS)
    for _ in range(60):
        fabric.run_for(0.5)
        if all(len(node.hub.links.open_links()) >= wanted for node in others):
            return
    raise AssertionError("the fabric does not form")


def draw(curves: Sequence[Curve], path: str) -> None:
    """The share of nodes that hold a change against time, and the bytes a node a second, as a picture.

    Raises ImportError, with what to do, where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("drawing needs matplotlib: pip install 'zserve[plots]' (or pip install matplotlib)") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), width_ratios=(2, 1))
    for curve in curves:
        count = len(curve.delays_s)
        shares = [(number + 1) / count for number in range(count)]
        left.step([max(delay, 1e-4) for delay in curve.delays_s], shares, where="post", label=f"{curve.nodes} nodes")
    left.set_xscale("log")
    left.set_xlabel("seconds after the write")
    left.set_ylabel("share of nodes that hold it")
    left.axhline(0.99, color="grey", linewidth=0.6)
    left.grid(alpha=0.3)
    left.legend()
    loss = curves[0].publish_loss if curves else 0.0
    left.set_title(f"How a change spreads ({loss:.0%} of publications lost)")
    names = [str(curve.nodes) for curve in curves]
    bars = right.bar(names, [curve.bytes_a_node for curve in curves])
    right.bar_label(bars, fmt="%.0f")
    right.set_xlabel("nodes")
    right.set_ylabel("bytes a node receives a second, at rest")
    right.set_title("What it costs")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

"""``/-/metrics``: counters that the cores keep anyway, as Prometheus text, put together when they are asked for.

Nothing is counted twice and no lock is taken on the data path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zserve.channel.hub import Hub
from zserve.cores.gateway import GatewayCore
from zserve.http.front import HttpFront

__all__ = ["render_gateway"]

_GAUGES = frozenset(
    (
        "in_flight",
        "bytes",
        "routers",
        "links",
        "held",
        "suspects",
        "ill_health",
        "known_keys_broken",
        "connections",
        "receiving_bytes",
    )
)


class _Numbers:
    """A collector over plain dicts, as prometheus_client wants it."""

    def __init__(self, groups: dict[str, dict[str, Any]]) -> None:
        self._groups = groups

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for group, numbers in self._groups.items():
            for name, value in numbers.items():
                if isinstance(value, (int, float)):
                    family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
                    yield family(f"zserve_{group}_{name}", f"{group}: {name.replace('_', ' ')}", value=value)


def render_gateway(core: GatewayCore, hub: Hub, front: HttpFront) -> bytes:
    """The metrics of one gateway."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    groups = {"gateway": core.statistics(), "http": front.statistics(), "transport": hub.statistics()}
    registry.register(_Numbers(groups))
    return generate_latest(registry)

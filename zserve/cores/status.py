"""What a router knows, as plain data for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..wire.messages import NodeInfo

if TYPE_CHECKING:
    from .router import RouterCore

__all__ = ["status_of"]


def status_of(router: RouterCore, now: float) -> dict[str, Any]:
    """The fabric as this router sees it: JSON-able, with the keys of ``serve.status()``.

    address, routers, nodes, replicas, endpoints, backends (config and counters), versions, conflicts, router.
    """
    registry = router.sync.registry
    membership = router.sync.membership
    nodes = membership.nodes()
    linked = {peer[:16] for backend in router.queues for peer in router.replicas.of(backend)}
    replicas = []
    for worker, status in router.replicas.statuses():
        replicas.append(
            {
                "id": status.node.hex(),
                "backend": status.backend,
                "index": status.index,
                "version": status.code,
                "state": status.state,
                "linked": status.node in linked,
                "pid": status.pid,
                "restarts": status.restarts,
                "reason": status.reason,
                "node": worker[:16].hex(),
            }
        )
    backends = {}
    for name, value in registry.backends().items():
        queue = router.queues.get(name)
        backends[name] = {
            "code": value.code,
            "version": value.version,
            "config": value.config,
            "ready": router.replicas.ready(name, value.version),
            "counters": queue.statistics() if queue is not None else {},
        }
    return {
        "address": router.sync.info.address,
        "nodes": [_node(info) for info in nodes.values() if info.role != "replica"],
        "replicas": sorted(replicas, key=lambda replica: (replica["backend"], replica["index"])),
        "endpoints": {
            name: {
                "route": value.route,
                "methods": value.methods,
                "traffic": value.traffic,
                "shadows": value.shadows,
            }
            for name, value in registry.endpoints().items()
        },
        "backends": backends,
        "versions": {record.key: record.revision for record in registry.records() if record.value is not None},
        "conflicts": [
            {"key": conflict.key, "loser": conflict.loser.stamp.hex(), "winner": conflict.winner.hex()}
            for conflict in registry.conflicts()
        ],
        "router": {
            "node": router.sync.info.node.hex(),
            "requests": router.requests,
            "retried": router.retried,
            "late_results": router.late_results,
            "misplaced": router.misplaced,
            "leaving": router.leaving,
            "digest": registry.digest().hex(),
        },
    }


def _node(info: NodeInfo) -> dict[str, Any]:
    return {
        "id": info.node.hex(),
        "role": info.role,
        "name": info.name,
        "address": info.address,
        "http": info.http,
        "slots": info.slots,
        "pid": info.pid,
        "host": info.host,
        "leaving": info.leaving,
    }

"""What a router knows, as plain data for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from ..registry.clock import stamp_ms
from ..registry.operations import config_as_dict
from ..registry.registry import Conflict, Registry
from ..wire.messages import NodeInfo

if TYPE_CHECKING:
    from ..channel.outbox import Peer
    from .router import RouterCore

__all__ = ["counters_of", "stat_of", "status_of"]


def status_of(router: RouterCore, now: float) -> dict[str, Any]:
    """The fabric as this router sees it: JSON-able, with the keys of ``serve.status()``.

    ``routers`` of a node are those that have a link with it.

    address, nodes, replicas, endpoints, backends (config and counters), versions (revision by record), conflicts (with
    what was lost and what was kept), router (this one's own numbers).
    """
    registry = router.sync.registry
    membership = router.sync.membership
    nodes = membership.nodes()
    suspects = {
        info.node: cause for peer, cause in router.doubts.items() if (info := router.sync.info_of(peer)) is not None
    }
    linked = {peer[:16]: peer for backend in router.queues for peer in router.replicas.of(backend)}
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
                "suspect": suspects.get(status.node, ""),
                "pid": status.pid,
                "restarts": status.restarts,
                "reason": _stuck(router, linked.get(status.node), now)
                or status.reason
                or _starting(router, status.node, now),
                "node": worker.hex(),
            }
        )
    backends = {}
    for name, value in registry.backends().items():
        backends[name] = {
            "code": value.code,
            "version": value.version,
            "batchable": value.batchable,
            "config": config_as_dict(value.config),
            "ready": router.replicas.ready(name, value.version),
            "counters": counters_of(router, name),
        }
    return {
        "address": router.sync.info.address,
        "nodes": [
            {**_node(info, suspects), "routers": [router.hex() for router in membership.routers_of(info.node)]}
            for info in nodes.values()
            if info.role != "replica"
        ],
        "replicas": sorted(replicas, key=lambda replica: (replica["backend"], replica["index"])),
        "endpoints": {
            name: {
                "route": value.route,
                "methods": value.methods,
                "traffic": value.traffic,
                "shadows": value.shadows,
                "policy": value.policy,
                "policy_kwargs": value.policy_kwargs,
                **_own_policy(router, name),
            }
            for name, value in registry.endpoints().items()
        },
        "backends": backends,
        "versions": {record.key: record.revision for record in registry.records() if record.value is not None},
        "conflicts": [_conflict(registry, conflict) for conflict in registry.conflicts()],
        "router": {
            "node": router.sync.info.node.hex(),
            "name": router.sync.info.name,
            "policy": router.default_policy,
            "policy_kwargs": router.default_policy_kwargs,
            "requests": router.requests,
            "retried": router.retried,
            "direct_answers": router.direct_answers,
            "late_results": router.late_results,
            "misplaced": router.misplaced,
            "ignored": router.sync.ignored,
            "refused_records": registry.refused,
            "transport": dict(router.transport()),
            "leaving": router.leaving,
            "digest": registry.digest().hex(),
        },
    }


def counters_of(router: RouterCore, backend: str) -> dict[str, Any]:
    """The numbers of one backend on this router; ``errors``: answers of 500 and more that its replicas gave."""
    queue = router.queues.get(backend)
    return {**queue.statistics(), "errors": router.errors.get(backend, 0)} if queue is not None else {}


def stat_of(router: RouterCore) -> dict[str, Any]:
    """What this router has counted, by endpoint and by backend, and the addresses of the other ``routers``."""
    own = router.sync.info.node
    return {
        "endpoints": {name: latencies.figures() for name, latencies in router.latencies.items()},
        "backends": {name: counters_of(router, name) for name in router.queues},
        "routers": [
            info.address
            for info in router.sync.membership.nodes().values()
            if info.role == "router" and info.address and info.node != own
        ],
    }


def _conflict(registry: Registry, conflict: Conflict) -> dict[str, Any]:
    """``differs``: field to [lost, kept]; None for either side that is (by now) a delete."""
    lost, kept = conflict.loser, registry.get(conflict.key)
    was = orjson.loads(lost.value) if lost.value is not None else None
    now = orjson.loads(kept.value) if kept is not None and kept.value is not None else None
    differs: dict[str, Any] = {}
    for field in {**(was or {}), **(now or {})}:
        pair = [(was or {}).get(field), (now or {}).get(field)]
        if pair[0] != pair[1]:
            differs[field] = pair
    return {
        "key": conflict.key,
        "loser": lost.stamp.hex(),
        "winner": conflict.winner.hex(),
        "writer": lost.writer.hex(),
        "written_ms": stamp_ms(lost.hlc),
        "seen_ms": conflict.wall_ms,
        "lost": was,
        "kept": now,
        "differs": differs,
    }


def _own_policy(router: RouterCore, endpoint: str) -> dict[str, Any]:
    """``policy_fallbacks``: requests that went by weight because a policy of the user's failed; ``policy_faults``: why
    it first did, on which router."""
    found = router.endpoints.get(endpoint)
    if found is None or not found.fault:
        return {"policy_fallbacks": 0, "policy_faults": []}
    return {
        "policy_fallbacks": found.fallbacks,
        "policy_faults": [{"router": router.sync.info.name, "fault": found.fault}],
    }


def _starting(router: RouterCore, node: bytes, now: float) -> str:
    """A constructor that hangs shows here."""
    for_s = router.replicas.starting_for(node, now)
    return "" if for_s is None else f"starting for {for_s:.0f} s"


def _stuck(router: RouterCore, peer: Peer | None, now: float) -> str:
    """A handler that does not return shows here; that a replica is silent is told beside it."""
    return "" if peer is None or peer in router.doubts else router.trouble(peer, now)


def _node(info: NodeInfo, suspects: Mapping[bytes, str]) -> dict[str, Any]:
    """``suspect``: why this router does not hear it at the moment, "" if it does."""
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
        "suspect": suspects.get(info.node, ""),
    }

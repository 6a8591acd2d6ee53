"""Which worker node runs how many replicas of which backend.

Every worker node computes the same table from the same registry and membership, and starts or stops processes to
match its own row.  There is no history in it, so there is nothing to agree on; that a change moves little has to come
from the method:

Each backend ranks the worker nodes by rendezvous hashing (Thaler and Ravishankar, 1998), and its replicas are dealt
down the ranking, one to each node before anyone gets a second.  When a node leaves, what it held is dealt further down
and nobody else loses anything; when a node joins, the others only lose what it gets.  A node takes no more than its
slots and resources allow, nor, as long as there is another choice, more than 1.25 times its share of all replicas
(consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam, 2016).

Replicas of one backend are alike: their indices only number them, and a worker node that keeps two of three replicas
keeps any two.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from ..errors import ServeError
from ..wire.messages import NodeInfo
from .values import BackendValue

__all__ = [
    "LOAD_BOUND",
    "CannotPlace",
    "Need",
    "Placement",
    "check_placeable",
    "place",
    "replicas_to_keep",
    "unplaceable",
]

LOAD_BOUND = 1.25

Placement = dict[bytes, list[tuple[str, int]]]
"""Worker node id to (backend, index), for every worker node that may hold replicas."""


class CannotPlace(ServeError):
    """The worker nodes that are known have no room for all replicas of a backend."""


class Need(Protocol):
    """What placement wants to know of a backend: :class:`BackendConfig` is one."""

    @property
    def num_replicas(self) -> int: ...

    @property
    def resources(self) -> dict[str, float]: ...


class _Worker:
    __slots__ = ("cap", "free", "node", "slots", "used")

    def __init__(self, info: NodeInfo) -> None:
        self.node = info.node
        self.slots = max(0, info.slots)
        self.used = 0
        self.cap = 0
        self.free = dict(info.resources)

    def has_room(self, need: Mapping[str, float]) -> bool:
        if self.used >= self.slots:
            return False
        return all(self.free.get(label, 0.0) + 1e-9 >= amount for label, amount in need.items() if amount > 0)

    def take(self, need: Mapping[str, float]) -> None:
        self.used += 1
        for label, amount in need.items():
            if amount > 0:
                self.free[label] -= amount


def place(backends: Mapping[str, Need], workers: Iterable[NodeInfo]) -> Placement:
    """Deal the replicas of *backends* to *workers*; those that leave get none.

    What fits nowhere is left out; :func:`unplaceable` says what and why.
    """
    nodes = [_Worker(info) for info in workers if not info.leaving]
    placed: Placement = {node.node: [] for node in nodes}
    total = sum(need.num_replicas for need in backends.values())
    slots = sum(node.slots for node in nodes)
    if not slots or not total:
        return placed
    evenly = max((math.ceil(need.num_replicas / len(nodes)) for need in backends.values()), default=0)
    for node in nodes:
        # Each node rounds at a point of its own, so that a small change of the share changes the bound of few.
        share = LOAD_BOUND * min(total, slots) * node.slots / slots
        node.cap = max(1, evenly, math.floor(share + _score("", node.node) / (1 << 64)))
    for name in sorted(backends, key=lambda name: _turn(name, backends[name])):
        _deal(name, backends[name], nodes, placed)
    return placed


def _turn(name: str, need: Need) -> tuple[float, bytes]:
    """Who needs most goes first, for it is the hardest to fit; others by hash, so that a new name moves few."""
    return -sum(need.resources.values()), hashlib.blake2b(name.encode(), digest_size=8).digest()


def _deal(name: str, need: Need, nodes: list[_Worker], placed: Placement) -> None:
    resources = need.resources
    left = need.num_replicas
    index = 0
    # Second time around without the bound on the load: rather uneven than not at all.
    for bounded in (True, False):
        if not left:
            break
        queue = [
            (0 if bounded else _count(name, placed[node.node]), -_score(name, node.node), position)
            for position, node in enumerate(nodes)
            if node.has_room(resources)
        ]
        heapq.heapify(queue)
        while queue and left:
            count, score, position = queue[0]
            node = nodes[position]
            if not node.has_room(resources) or (bounded and node.used >= node.cap):
                heapq.heappop(queue)
                continue
            node.take(resources)
            placed[node.node].append((name, index))
            index += 1
            left -= 1
            heapq.heapreplace(queue, (count + 1, score, position))


def _count(name: str, row: list[tuple[str, int]]) -> int:
    return sum(1 for backend, _ in row if backend == name)


@functools.lru_cache(maxsize=1 << 18)
def _score(backend: str, node: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(backend.encode(), key=node[:64], digest_size=8).digest(), "big")


def unplaceable(backends: Mapping[str, Need], workers: Iterable[NodeInfo]) -> dict[str, str]:
    """Backend to the reason why not all of its replicas have a place, for those where this is so."""
    infos = list(workers)
    able = [info for info in infos if not info.leaving]
    counts: dict[str, int] = {}
    for row in place(backends, infos).values():
        for name, _ in row:
            counts[name] = counts.get(name, 0) + 1
    found: dict[str, str] = {}
    for name, need in sorted(backends.items()):
        fits = counts.get(name, 0)
        if fits < need.num_replicas:
            found[name] = f"{fits} of {need.num_replicas} replicas fit: {_reason(need, able)}"
    return found


def _reason(need: Need, able: list[NodeInfo]) -> str:
    if not able:
        return "no worker node has joined"
    for label, amount in sorted(need.resources.items()):
        most = max((info.resources.get(label, 0.0) for info in able), default=0.0)
        if most < amount:
            return f"each needs {amount:g} {label!r}, the most that a worker node has is {most:g}"
    wanted = {label: amount for label, amount in need.resources.items() if amount > 0}
    slots = sum(max(0, info.slots) for info in able)
    nodes = f"{len(able)} worker node{'s' if len(able) > 1 else ''}"
    if wanted:
        return f"{nodes} with {slots} slots have too little left of {', '.join(sorted(map(repr, wanted)))}"
    return f"{nodes} with {slots} slot{'s' if slots != 1 else ''} in all"


def check_placeable(
    name: str, value: BackendValue, backends: Mapping[str, BackendValue], nodes: list[NodeInfo]
) -> None:
    """Raise CannotPlace if *value* does not fit in full beside *backends*.

    With no worker node at all nothing is said: one may be about to join.
    """
    if not any(not info.leaving for info in nodes):
        return
    needs: dict[str, Need] = {other: there.config for other, there in backends.items() if other != name}
    before = unplaceable(needs, nodes)
    needs[name] = value.config
    after = unplaceable(needs, nodes)
    if name in after:
        raise CannotPlace(f"Cannot place backend {name!r}: {after[name]}")
    pushed = sorted(other for other in after if other not in before)
    if pushed:
        raise CannotPlace(f"Cannot place backend {name!r}: it would take the place of {', '.join(map(repr, pushed))}")


def replicas_to_keep(
    own: Mapping[str, int],
    placement: Placement,
    node: bytes,
    ready_elsewhere: Mapping[str, int],
) -> dict[str, int]:
    """How many of its replicas *node* should keep running for now, by backend.

    own: how many it runs (ready ones) of each backend.  ready_elsewhere: how many are ready on other worker nodes, not
    counting more on any than *placement* gives it.  A replica that has to move goes only once another has taken over:
    as many are kept as are still missing elsewhere.
    """
    here: dict[str, int] = {}
    total: dict[str, int] = {}
    for worker, row in placement.items():
        for backend, _ in row:
            total[backend] = total.get(backend, 0) + 1
            if worker == node:
                here[backend] = here.get(backend, 0) + 1
    keep: dict[str, int] = {}
    for backend, running in own.items():
        missing = total.get(backend, 0) - ready_elsewhere.get(backend, 0)
        keep[backend] = min(running, max(here.get(backend, 0), missing))
    return keep

"""A whole fabric on the virtual network: nodes by name, and what can be done to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ..cores.worker import Start
from ..registry.neighbours import Neighbours
from ..registry.registry import Registry
from .clients import SimClient
from .clock import VirtualClock
from .gateways import SimGateway
from .history import History
from .network import Network
from .nodes import SimNode, SimRouter
from .replicas import Executor, ModelExecutor, ServiceModel, SimReplica
from .watch import Watch
from .workers import SimWorker

__all__ = ["SimFabric"]


class SimFabric:
    """Everything comes from *seed*: two fabrics that are told the same things do the same, to the byte.

    as_bytes: see :class:`Network`.  join: how many routers a new node is told of.  make_registry makes every node's
    registry, make_executor what stands for user code; both may be replaced.  max_routers: links of a gateway or worker
    node with routers; 0 for one with each.
    """

    def __init__(self, seed: int | str = 0, *, as_bytes: bool = True, trace: bool = True, join: int = 2) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed} fabric")
        self.clock = VirtualClock()
        self.network = Network(self.clock, random.Random(f"{seed} network"), as_bytes=as_bytes, trace=trace)
        self.history = History()
        self.watch = Watch()
        self.nodes: dict[str, SimNode] = {}
        self.models: dict[str, ServiceModel] = {}
        self.make_registry: Callable[[bytes], Registry] = Registry
        self.make_executor: Callable[[SimWorker, Start], Executor] = self._model_executor
        self.max_routers = 0
        self._join = join

    def _model_executor(self, worker: SimWorker, start: Start) -> Executor:
        model = self.models.get(start.backend) or ServiceModel()
        return ModelExecutor(model, accepts_batch=start.value.batchable)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def add_router(self, name: str, *, disk: bool = True) -> SimRouter:
        router = SimRouter(self, name, disk=disk)
        self._add(router)
        return router

    def add_gateway(self, name: str, host: str = "") -> SimGateway:
        """*host*: of the node that is to run on the same machine, if any."""
        gateway = SimGateway(self, name, host=host)
        self._add(gateway)
        return gateway

    def add_worker(self, name: str, slots: int = 4, resources: dict[str, float] | None = None) -> SimWorker:
        worker = SimWorker(self, name, slots, resources)
        self._add(worker)
        return worker

    def add_client(self, name: str) -> SimClient:
        client = SimClient(self, name)
        self._add(client)
        return client

    def neighbours(self, node: bytes) -> Neighbours:
        """The choice of routers of the gateway or worker node with this id."""
        return Neighbours(node, self.max_routers)

    def _add(self, node: SimNode) -> None:
        if node.name in self.nodes:
            raise ValueError(f"there is a node {node.name!r} already")
        self.nodes[node.name] = node
        node.start()

    def routers(self) -> list[SimRouter]:
        return [node for node in self.nodes.values() if isinstance(node, SimRouter)]

    def gateways(self) -> list[SimGateway]:
        return [node for node in self.nodes.values() if isinstance(node, SimGateway)]

    def workers(self) -> list[SimWorker]:
        return [node for node in self.nodes.values() if isinstance(node, SimWorker)]

    def replicas(self) -> Iterator[SimReplica]:
        """Those of worker nodes that are alive."""
        for worker in self.workers():
            yield from worker.replicas.values()

    def addresses_to_join(self) -> list[str]:
        """What a node is told on its command line: some of the routers, not the same for all."""
        routers = self.routers()
        if len(routers) <= self._join:
            return [router.address for router in routers]
        start = len(self.nodes) % len(routers)
        return [router.address for router in (routers + routers)[start : start + self._join]]

    # --- time and faults ----------------------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def run_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Until *done*, at most *limit_s* seconds; whether it was."""
        if done():
            return True
        return self.clock.run_until(self.clock.now + limit_s, done)

    def partition(self, *groups: list[str]) -> None:
        """Groups of nodes (by name) that cannot reach each other; all others are together in a group of their own."""
        self.note("fault", "network", "partition " + " | ".join(" ".join(group) for group in groups))
        self.network.partition(*([self.nodes[name].host for name in group] for group in groups))

    def heal(self) -> None:
        self.note("fault", "network", "healed")
        self.network.heal()

    # --- what happened ------------------------------------------------------------------------------------------------

    def note(self, kind: str, subject: str, text: str) -> None:
        self.history.add(self.clock.now, kind, subject, text)

    def fingerprint(self) -> str:
        """A hash over all events and all bytes that arrived."""
        return self.history.fingerprint() + self.network.fingerprint()

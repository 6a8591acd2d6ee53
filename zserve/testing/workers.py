"""Worker nodes on the virtual network: replica processes take a while to start, and may fail to."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..cores.worker import Configure, Start, Stop, WorkerCore
from ..errors import ApplicationError
from ..registry.sync import ConfigSync
from ..wire.messages import NodeInfo
from .hub import SimHub
from .nodes import SimNode
from .replicas import ORPHAN_DRAIN_S, SimReplica

if TYPE_CHECKING:
    from .fabric import SimFabric

__all__ = ["SimWorker"]

KILL_MARGIN_S = 2.0


class SimWorker(SimNode):
    """A worker node with its replicas.

    start_s: seconds from starting a replica's process until its code is constructed, from and to.
    """

    role = "worker"

    def __init__(
        self, fabric: SimFabric, name: str, slots: int, resources: dict[str, float] | None = None
    ) -> None:
        super().__init__(fabric, name)
        self.core: WorkerCore
        self.slots = slots
        self.resources = dict(resources or {})
        self.start_s = (0.1, 0.5)
        self.replicas: dict[bytes, SimReplica] = {}
        self._starting: dict[bytes, None] = {}

    def _build(self, info: NodeInfo, offset_s: float) -> SimHub:
        info.slots = self.slots
        info.resources = self.resources
        self.sync = ConfigSync(info, self.wall_ms, self.fabric.make_registry(info.node))
        self.core = WorkerCore(
            self.sync, random.Random(self.rng.getrandbits(64)), neighbours=self.fabric.neighbours(info.node)
        )
        self.replicas = {}
        self._starting = {}
        return SimHub(
            self.fabric.network,
            self.core,
            info,
            self.host,
            join=self.fabric.addresses_to_join(),
            on_turn=self._on_turn,
            clock_offset_s=offset_s,
        )

    def addresses_for_replicas(self) -> list[str]:
        return list(dict.fromkeys([*self.fabric.addresses_to_join(), *self.core.routers_known()]))

    def _on_turn(self) -> None:
        core = self.core
        while core.actions:
            for action in core.take_actions():
                if isinstance(action, Start):
                    self._start(action)
                elif isinstance(action, Stop):
                    self._stop(action)
                else:
                    assert isinstance(action, Configure)
        if core.shutdown_reason:
            self.leave()
        if self.leaving and core.drained:
            self._leave_now()

    def _start(self, action: Start) -> None:
        self._starting[action.node] = None
        self.core.replica_started(action.node, 1, self.hub.now())
        low, high = self.start_s
        after_s = low + (high - low) * self.rng.random()
        self.fabric.clock.after(after_s, self.hub.deliver, self._constructed, action)

    def _constructed(self, action: Start) -> None:
        if action.node not in self._starting:
            return
        del self._starting[action.node]
        now = self.hub.now()
        try:
            executor = self.fabric.make_executor(self, action)
        except ApplicationError as error:
            self.fabric.note("replica", f"{action.backend}#{action.index}@{self.name}", f"cannot start: {error}")
            self.core.replica_failed(action.node, str(error), now)
            self.core.replica_exited(action.node, "exit status 3", now)
            self.hub.poke()
            return
        replica = SimReplica(self, action.node, action.backend, action.index, action.value, executor, self._ended)
        self.replicas[action.node] = replica
        replica.start()
        if self.hub.paused:
            replica.hub.pause()
        self.core.replica_ready(action.node, now)
        self.hub.poke()

    def _stop(self, action: Stop) -> None:
        if self._starting.pop(action.node, self) is None:
            self.fabric.clock.after(0.0, self.hub.deliver, self._exited, action.node, "stopped before it was ready")
            return
        replica = self.replicas.get(action.node)
        if replica is not None:
            replica.stop(action.grace_s, "its worker node says so")

    def _ended(self, replica: SimReplica, how: str) -> None:
        if self.replicas.pop(replica.node, None) is not None and self.alive:
            self.fabric.clock.after(0.0, self.hub.deliver, self._exited, replica.node, how)

    def _exited(self, node: bytes, how: str) -> None:
        self.core.replica_exited(node, how, self.hub.now())
        self.hub.poke()

    def _drain(self) -> None:
        self.core.drain(self.hub.now(), handover_s=0.0 if self.core.shutdown_reason else 15.0)

    def _killed(self, silent: bool) -> None:
        """Its replicas see that it is gone, or are gone with the machine."""
        for replica in list(self.replicas.values()):
            if silent:
                replica.kill("lost power", silent=True, lossy=True)
            else:
                replica.hub.resume()
                replica.stop(ORPHAN_DRAIN_S, "its worker node is gone")
        self._starting = {}

    def pause_all(self) -> None:
        """The whole machine stalls."""
        self.pause()
        for replica in self.replicas.values():
            replica.hub.pause()

    def resume_all(self) -> None:
        for replica in list(self.replicas.values()):
            replica.hub.resume()
        self.resume()

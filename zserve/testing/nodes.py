"""Nodes on the virtual network: what each program does around its core, without its sockets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..channel.outbox import Outbox, Peer
from ..cores.control import ControlDesk
from ..cores.router import RouterCore
from ..registry import standing
from ..registry.barrier import BARRIER_TIMEOUT_S, WriteBarrier
from ..registry.record import Record
from ..registry.registry import Registry
from ..registry.sync import ConfigSync
from ..wire.messages import Control, NodeInfo
from .clock import START_MS
from .hub import SimHub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .fabric import SimFabric

__all__ = ["Disk", "SimNode", "SimRouter"]

_LAST_WORDS_S = 0.02


class SimNode:
    """One node: a name that stays, and a process behind it that comes and goes.

    host: the machine; what is on one machine is never cut off from each other.  skew_ms: how far the machine's time of
    day is off.  sync: the registry and membership of the process that runs, or ran last.
    """

    role = ""

    def __init__(self, fabric: SimFabric, name: str, host: str = "") -> None:
        self.fabric = fabric
        self.name = name
        self.host = host or name
        self.rng = random.Random(f"{fabric.seed} {name}")
        self.skew_ms = 0
        self.boots = 0
        self.leaving = False
        self._going = False
        self.hub: SimHub
        self.sync: ConfigSync

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process: a new boot nonce, a monotonic clock of its own, nothing remembered but what is on disk."""
        self.boots += 1
        self.leaving = self._going = False
        info = NodeInfo(self._node_id(), self.rng.randbytes(8), self.role, self.name, host=self.host)
        offset_s = 1000.0 * self.rng.random()
        self.hub = self._build(info, offset_s)
        self.fabric.note("node", self.name, f"starts ({info.node.hex()[:8]}, boot {info.boot.hex()[:6]})")
        self.hub.start()
        self.fabric.watch.node_changed(self, "started")

    def _node_id(self) -> bytes:
        return self.rng.randbytes(16)

    def _build(self, info: NodeInfo, offset_s: float) -> SimHub:
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        return self.hub.alive

    @property
    def info(self) -> NodeInfo:
        return self.hub.info

    def kill(self, *, silent: bool = False, lossy: bool = False) -> None:
        """SIGKILL; with *silent* the machine loses power, so that nobody is told."""
        if not self.alive:
            return
        self.fabric.note("node", self.name, "loses power" if silent else "is killed")
        self.fabric.watch.before_loss(self)
        self.hub.kill(silent=silent, lossy=lossy)
        self._killed(silent)
        self.fabric.watch.after_loss(self)
        self.fabric.watch.node_changed(self, "ended")

    def _killed(self, silent: bool) -> None:
        pass

    def restart(self) -> None:
        """Start again after the end."""
        if self.alive:
            self.kill()
        self.hub.silent = False  # the machine is up: it answers for sockets that are gone
        self.start()

    def pause(self, *, hung: bool = False) -> None:
        """SIGSTOP; *hung*: its event loop stalls."""
        if self.alive and not self.hub.paused:
            self.fabric.note("node", self.name, "hangs" if hung else "is stopped")
            self.hub.pause(hung=hung)
            self.fabric.watch.node_changed(self, "stopped")

    def resume(self) -> None:
        if self.alive and self.hub.paused:
            self.fabric.note("node", self.name, "goes on")
            self.fabric.watch.node_changed(self, "goes on")
            self.hub.resume()

    def leave(self) -> None:
        """SIGTERM: drain and end."""
        if self.alive and not self.leaving and not self.hub.paused:
            self.leaving = True
            self.fabric.note("node", self.name, "is asked to leave")
            self._drain()
            self.hub.poke()

    def _drain(self) -> None:
        self._leave_now()

    def _leave_now(self) -> None:
        """Drained: the last answers leave with this turn, GOODBYE behind them."""
        if not self._going:
            self._going = True
            self.fabric.clock.after(_LAST_WORDS_S, self._gone, self.hub)

    def _gone(self, hub: SimHub) -> None:
        if hub.alive and hub is self.hub:
            self.fabric.note("node", self.name, "has left")
            self.fabric.watch.before_loss(self)
            hub.stop("shutting down")
            self.fabric.watch.after_loss(self)
            self.fabric.watch.node_changed(self, "ended")

    # --- time ---------------------------------------------------------------------------------------------------------

    def wall_ms(self) -> int:
        return START_MS + int(self.fabric.clock.now * 1000.0) + self.skew_ms


class Disk:
    """What a router keeps when its process ends."""

    def __init__(self) -> None:
        self.node_id = b""
        self.records: dict[str, Record] = {}
        self.ran_ms = 0

    def wipe(self) -> None:
        self.node_id = b""
        self.records = {}

    def holds(self, record: Record) -> bool:
        """Whether *record*, or a later one of its key, is saved."""
        saved = self.records.get(record.key)
        return saved is not None and saved.stamp >= record.stamp


class _ObservedSync(ConfigSync):
    """Tells of the writes that this router accepts."""

    owner: SimRouter

    def spread(
        self,
        records: Sequence[Record],
        peers: Iterable[Peer],
        out: Outbox,
        now: float,
        timeout_s: float = BARRIER_TIMEOUT_S,
    ) -> WriteBarrier:
        self.owner.wrote(records)
        return super().spread(records, peers, out, now, timeout_s)


class _ObservedDesk(ControlDesk):
    """Knows which call it is in."""

    current: tuple[Peer, int] = (b"", 0)

    def call(self, peer: Peer, message: Control, now: float) -> None:
        self.current = (peer, message.id)
        super().call(peer, message, now)


class SimRouter(SimNode):
    """A router and its disk (None: it keeps nothing)."""

    role = "router"

    def __init__(self, fabric: SimFabric, name: str, *, disk: bool = True) -> None:
        super().__init__(fabric, name)
        self.disk = Disk() if disk else None
        self.address = f"sim://{name}"
        self.core: RouterCore
        self._saved = -1

    def _node_id(self) -> bytes:
        if self.disk is None:
            return self.rng.randbytes(16)
        if not self.disk.node_id:
            self.disk.node_id = self.rng.randbytes(16)
        return self.disk.node_id

    def _build(self, info: NodeInfo, offset_s: float) -> SimHub:
        registry = self.fabric.make_registry(info.node)
        sync = _ObservedSync(info, self.wall_ms, registry)
        sync.owner = self
        self.sync = sync
        if self.disk is not None:
            self._restore(self.disk)
        self.core = RouterCore(sync, random.Random(self.rng.getrandbits(64)), self.wall_ms)
        self._desk = self.core.control = _ObservedDesk(self.core, self.wall_ms)
        self._saved = -1
        join = [router.address for router in self.fabric.routers() if router is not self]
        return SimHub(
            self.fabric.network,
            self.core,
            info,
            self.host,
            bind=self.address,
            join=join,
            on_turn=self._on_turn,
            clock_offset_s=offset_s,
        )

    def _restore(self, disk: Disk) -> None:
        """As nodes/state.py does it."""
        if disk.records and self.wall_ms() - disk.ran_ms > standing.ABSENT_MS:
            self.fabric.note("node", self.name, f"was away for too long to trust its {len(disk.records)} records")
            self.sync.begin_in_doubt(disk.records.values(), disk.ran_ms, standing.JOINING_S)
        else:
            self.sync.restore(list(disk.records.values()))

    @property
    def registry(self) -> Registry:
        return self.sync.registry

    def wrote(self, records: Sequence[Record]) -> None:
        peer, call = self._desk.current
        self.fabric.watch.wrote(self, peer[:16], call, records)

    def wipe(self) -> None:
        """The disk is lost (while the process is down)."""
        if self.disk is not None and not self.alive:
            self.fabric.note("node", self.name, "loses its disk")
            self.fabric.watch.before_loss(self)
            self.disk.wipe()
            self.fabric.watch.after_loss(self)

    def _drain(self) -> None:
        self.core.drain(self.hub.now())

    def _on_turn(self) -> None:
        in_doubt = self.sync.standing.in_doubt
        if self.disk is not None and not in_doubt:
            self.disk.ran_ms = self.wall_ms()
        if self.disk is not None and self._saved != self.registry.generation and not in_doubt:
            # Before the outbox leaves, as nodes/router.py does it.
            self._saved = self.registry.generation
            self.disk.records = {record.key: record for record in self.registry.records()}
        if self.leaving and self.core.drained:
            self._leave_now()
        if self.core.shutdown_reason:
            self.leave()

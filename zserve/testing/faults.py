"""What goes wrong in a simulated fabric, drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .network import Weather
from .workers import SimWorker

if TYPE_CHECKING:
    from .fabric import SimFabric
    from .nodes import SimNode

__all__ = ["FAULTS", "MIXES", "Faults"]

MAX_SKEW_MS = 25_000
"""Clocks differ by twice this at most, which is within what the registry believes (60 s)."""


class Faults:
    """Lets things go wrong until a given time, and then puts everything right.

    names: which of :data:`FAULTS` there are; one is drawn every *every_s* seconds on average.
    """

    def __init__(self, fabric: SimFabric, rng: random.Random, names: Sequence[str], every_s: float = 1.0) -> None:
        self._fabric = fabric
        self._rng = rng
        self._names = list(names)
        self._every_s = every_s
        self._until = 0.0
        self._cut = 0
        self._storm = 0
        self._gone: dict[str, None] = {}
        self._wiped = 0

    def run(self, until: float) -> None:
        """From now to the virtual second *until*, when all is put right again."""
        self._until = until
        if self._names:
            self._fabric.clock.after(self._rng.expovariate(1.0 / self._every_s), self._next)
        self._fabric.clock.at(until, self.end)

    def _next(self) -> None:
        if self._fabric.clock.now >= self._until:
            return
        FAULTS[self._rng.choice(self._names)](self)
        self._fabric.clock.after(self._rng.expovariate(1.0 / self._every_s), self._next)

    def end(self) -> None:
        """Everything is as it should be from here on: ways open, nodes up (those that left stay away)."""
        fabric = self._fabric
        self._until = fabric.clock.now
        fabric.network.weather = Weather()
        fabric.heal()
        for node in fabric.nodes.values():
            if isinstance(node, SimWorker):
                node.resume_all()
            else:
                node.resume()
            if node.name not in self._gone and (node.leaving or not node.alive):
                node.restart()

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _duration_s(self, longest_s: float = 8.0) -> float:
        return min(longest_s * self._rng.random() ** 2 + 0.05, max(0.0, self._until - self._fabric.clock.now))

    def _later(self, duration_s: float, undo: Callable[..., None], *arguments: object) -> None:
        self._fabric.clock.after(duration_s, self._undo, undo, arguments)

    def _undo(self, undo: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if self._fabric.clock.now < self._until:
            undo(*arguments)

    def _any(self, *roles: str, up: bool = True) -> SimNode | None:
        nodes = [node for node in self._fabric.nodes.values() if node.role in roles and node.alive == up]
        nodes = [node for node in nodes if node.name not in self._gone]
        return self._rng.choice(nodes) if nodes else None

    def _note(self, text: str) -> None:
        self._fabric.note("fault", "network", text)

    # --- the network --------------------------------------------------------------------------------------------------

    def partition(self) -> None:
        names = list(self._fabric.nodes)
        self._rng.shuffle(names)
        self._separate(names[: self._rng.randint(1, len(names) - 1)])

    def isolate(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is not None:
            self._separate([node.name])

    def _separate(self, names: list[str]) -> None:
        nodes = self._fabric.nodes
        hosts = {nodes[name].host for name in names}  # what is on one machine is never cut off from each other
        if len(hosts) < len({node.host for node in nodes.values()}):
            self._fabric.partition(sorted(name for name, node in nodes.items() if node.host in hosts))
        self._cut += 1
        self._later(self._duration_s(), self._join, self._cut)

    def _join(self, cut: int) -> None:
        if cut == self._cut:
            self._fabric.heal()

    def one_way(self) -> None:
        one, other = self._any("router", "gateway", "worker"), self._any("router")
        if one is None or other is None or one.host == other.host:
            return
        if self._rng.random() < 0.5:
            one, other = other, one
        self._note(f"nothing gets from {one.name} to {other.name}")
        self._fabric.network.block(one.host, other.host)
        self._cut += 1
        self._later(self._duration_s(), self._join, self._cut)

    def reset(self) -> None:
        # Gateways listen, too: to the replicas on their machines.
        one, other = self._any("router", "gateway", "worker"), self._any("router", "gateway")
        if one is not None and other is not None and (one is not other or other.role == "gateway"):
            count = self._fabric.network.reset_connections(one.host, other.host)
            self._note(f"{count} connections between {one.name} and {other.name} break")

    def slow(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is not None:
            factor = self._rng.choice((10.0, 100.0, 1000.0))
            self._note(f"{node.name} is reached {factor:g} times slower")
            self._fabric.network.slow_down(node.host, factor)
            self._cut += 1
            self._later(self._duration_s(), self._join, self._cut)

    def storm(self) -> None:
        rng = self._rng
        weather = Weather(
            delay_s=rng.choice((0.0005, 0.005, 0.02)),
            spike=rng.choice((0.0, 0.02, 0.2)),
            spike_s=rng.choice((0.05, 0.5)),
            publish_loss=rng.choice((0.1, 0.5, 1.0)),
            publish_double=rng.choice((0.0, 0.3)),
            publish_spread_s=rng.choice((0.0, 0.01, 1.0)),
        )
        self._note(
            f"storm: delay {weather.delay_s:g} s, spikes {weather.spike:g} x {weather.spike_s:g} s, publications lost "
            f"{weather.publish_loss:g}, doubled {weather.publish_double:g}, late by {weather.publish_spread_s:g} s"
        )
        self._fabric.network.weather = weather
        self._storm += 1
        self._later(self._duration_s(), self._calm, self._storm)

    def _calm(self, storm: int) -> None:
        if storm == self._storm:
            self._note("calm")
            self._fabric.network.weather = Weather()

    # --- nodes --------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is not None:
            node.kill(lossy=self._rng.random() < 0.5)
            self._later(self._duration_s(), self._start, node)

    def kill_router(self) -> None:
        """A router dies while there is another one."""
        routers = [router for router in self._fabric.routers() if router.alive and not router.leaving]
        if len(routers) > 1:
            router = self._rng.choice(routers)
            router.kill(silent=self._rng.random() < 0.3, lossy=self._rng.random() < 0.5)
            self._later(self._duration_s(), self._start, router)

    def power(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is not None:
            node.kill(silent=True, lossy=True)
            self._later(self._duration_s(), self._start, node)

    def all_routers(self) -> None:
        if self._rng.random() < 0.3:
            for router in self._fabric.routers():
                router.kill(lossy=True)
                self._later(self._duration_s(3.0), self._start, router)

    def wipe(self) -> None:
        """A router comes back with an empty disk.  At most all but one of them in a run."""
        router = self._any("router")
        routers = self._fabric.routers()
        if router is None or self._wiped + 1 >= len(routers):
            return
        self._wiped += 1
        router.kill(silent=self._rng.random() < 0.3, lossy=True)
        for found in routers:
            if found is router:
                found.wipe()
        self._later(self._duration_s(), self._start, router)

    def _start(self, node: SimNode) -> None:
        if not node.alive:
            node.restart()

    def stall(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is None or node.hub.paused:
            return
        if isinstance(node, SimWorker):
            node.pause_all()
            self._later(self._duration_s(10.0), node.resume_all)
        else:
            node.pause()
            self._later(self._duration_s(10.0), node.resume)

    def hang(self) -> None:
        """The event loop of one process gets no time; others on its machine go on."""
        node = self._any("router", "gateway", "worker")
        if node is not None and not node.hub.paused:
            node.pause(hung=True)
            self._later(self._duration_s(10.0), node.resume)

    def stall_replica(self) -> None:
        replicas = [replica for replica in self._fabric.replicas() if not replica.hub.paused]
        if replicas:
            replica = self._rng.choice(replicas)
            hung = self._rng.random() < 0.5
            self._note(f"replica {replica.name} {'hangs' if hung else 'is stopped'}")
            replica.hub.pause(hung=hung)
            self._later(self._duration_s(), replica.hub.resume)

    def kill_replica(self) -> None:
        replicas = list(self._fabric.replicas())
        if replicas:
            self._rng.choice(replicas).kill(lossy=self._rng.random() < 0.5)

    def skew(self) -> None:
        node = self._any("router", "gateway", "worker")
        if node is not None:
            node.skew_ms = self._rng.randint(-MAX_SKEW_MS, MAX_SKEW_MS)
            self._note(f"the clock of {node.name} is off by {node.skew_ms} ms")

    def leave(self) -> None:
        """A gateway or worker node is taken out for good, a router for a while."""
        node = self._any("router", "gateway", "worker")
        if node is None or node.hub.paused:
            return
        if node.role == "router":
            node.leave()
            self._later(self._duration_s() + 0.5, self._start, node)
            return
        others = [other.name for other in self._fabric.nodes.values() if other.role == node.role]
        if len([name for name in others if name not in self._gone]) > 1:
            self._gone[node.name] = None
            node.leave()

    def join(self) -> None:
        """A further gateway or worker node."""
        count = len(self._fabric.nodes)
        if count < 14:
            if self._rng.random() < 0.4:
                self._fabric.add_gateway(f"gateway-{count}")
            else:
                self._fabric.add_worker(f"worker-{count}", slots=self._rng.randint(1, 4))


FAULTS: dict[str, Callable[[Faults], None]] = {
    "all_routers": Faults.all_routers,
    "hang": Faults.hang,
    "isolate": Faults.isolate,
    "join": Faults.join,
    "kill": Faults.kill,
    "kill_replica": Faults.kill_replica,
    "kill_router": Faults.kill_router,
    "leave": Faults.leave,
    "one_way": Faults.one_way,
    "partition": Faults.partition,
    "power": Faults.power,
    "reset": Faults.reset,
    "skew": Faults.skew,
    "slow": Faults.slow,
    "stall": Faults.stall,
    "stall_replica": Faults.stall_replica,
    "storm": Faults.storm,
    "wipe": Faults.wipe,
}
"""All faults by name."""

_NETWORK = ("isolate", "one_way", "partition", "reset", "slow", "storm")
_CRASHES = ("all_routers", "kill", "kill_replica", "power", "wipe")

MIXES: dict[str, tuple[str, ...]] = {
    "none": (),
    "network": _NETWORK,
    "crashes": _CRASHES,
    "routers": ("kill_router",),
    "stalls": ("stall", "stall_replica", "hang", "slow"),
    "rolling": ("join", "leave", "kill_replica"),
    "mixed": tuple(FAULTS),
}
"""Sets of faults by name, as ``tools/simulate --faults`` takes them."""

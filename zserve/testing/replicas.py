"""Replicas on the virtual network.  The core is the real one; what stands for user code is an *executor*."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ..cores.replica import ReplicaCore
from ..cores.shortcuts import UNTOLD_S
from ..handler.runs import Run
from ..http.answers import KIND_BYTES, KIND_TEXT, ORIGIN_CODE, ORIGIN_REPLICA, Answer
from ..registry.sync import ConfigSync
from ..registry.values import BackendValue
from ..wire.messages import NodeInfo
from .hub import SimHub

if TYPE_CHECKING:
    from .workers import SimWorker

__all__ = ["Executor", "ModelExecutor", "ServiceModel", "SimReplica"]

ORPHAN_DRAIN_S = 2.0
"""How long a replica whose worker node died finishes what it runs (as nodes/replica.py)."""


class Executor(Protocol):
    """Runs user code, or what stands for it; tells the replica by :meth:`SimReplica.done`.

    threads: how many runs at a time.
    """

    accepts_batch: bool
    asynchronous: bool

    def attach(self, replica: SimReplica, threads: int) -> None: ...

    def submit(self, runs: Sequence[Run]) -> None: ...

    def abort(self, run: Run) -> None: ...

    def resize(self, threads: int) -> None: ...

    def configure(self, user_config: object) -> None: ...


class ServiceModel:
    """How long user code takes: *mean_s* on average, log-normal with *sigma*; a batch of n takes
    (1 + share * (n - 1)) times as long as one.  fails: the share of runs that raise."""

    __slots__ = ("fails", "mean_s", "share", "sigma")

    def __init__(self, mean_s: float = 0.01, sigma: float = 0.5, share: float = 0.2, fails: float = 0.0) -> None:
        self.mean_s = mean_s
        self.sigma = sigma
        self.share = share
        self.fails = fails

    def draw_s(self, rng: random.Random, calls: int) -> float:
        """The duration of one run, seconds."""
        return self.mean_s * (1.0 + self.share * (calls - 1)) * rng.lognormvariate(0.0, self.sigma)


class QueueingExecutor:
    """Runs that wait for one of so many threads; what a run does is for subclasses to say in :meth:`_next`."""

    def __init__(self) -> None:
        self._replica: SimReplica
        self._threads = 1
        self._waiting: deque[Run] = deque()
        self._busy = 0

    def attach(self, replica: SimReplica, threads: int) -> None:
        self._replica = replica
        self._threads = threads

    def submit(self, runs: Sequence[Run]) -> None:
        self._waiting.extend(runs)
        self._next()

    def resize(self, threads: int) -> None:
        self._threads = threads
        self._next()

    def _next(self) -> None:
        """Begin what can begin."""
        raise NotImplementedError


class ModelExecutor(QueueingExecutor):
    """Answers after a while with the name of the backend and the body of the request."""

    asynchronous = False

    def __init__(self, model: ServiceModel, *, accepts_batch: bool = False) -> None:
        super().__init__()
        self.accepts_batch = accepts_batch
        self._model = model

    def abort(self, run: Run) -> None:
        pass  # like a plain function, it can not be stopped

    def configure(self, user_config: object) -> None:
        pass

    def _next(self) -> None:
        replica = self._replica
        hub = replica.hub
        while self._waiting and self._busy < self._threads:
            run = self._waiting.popleft()
            now = hub.now()
            if not run.claim() or now >= run.last_deadline:
                replica.done([(run, None)])
                continue
            self._busy += 1
            run.started = now
            replica.fabric.watch.running(replica, run.calls)
            took_s = self._model.draw_s(replica.rng, len(run.calls))
            replica.fabric.clock.after(took_s, hub.deliver, self._finish, run)

    def _finish(self, run: Run) -> None:
        replica = self._replica
        self._busy -= 1
        run.ended = replica.hub.now()
        answers: list[Answer]
        if self._model.fails and replica.rng.random() < self._model.fails:
            answers = [(500, KIND_TEXT, b"", b"raised", ORIGIN_REPLICA)] * len(run.calls)
        else:
            name = replica.backend.encode()
            answers = [(200, KIND_BYTES, b"", name + b"|" + call.body, ORIGIN_CODE) for call in run.calls]
        replica.done([(run, answers)])
        self._next()


class SimReplica:
    """One replica process of a worker node."""

    def __init__(
        self,
        worker: SimWorker,
        node: bytes,
        backend: str,
        index: int,
        value: BackendValue,
        executor: Executor,
        on_end: Callable[[SimReplica, str], None],
    ) -> None:
        self.fabric = worker.fabric
        self.worker = worker
        self.node = node
        self.backend = backend
        self.index = index
        self.version = value.version
        self.name = f"{backend}#{index}@{worker.name}"
        self.rng = random.Random(f"{self.fabric.seed} {node.hex()}")
        self.largest_capacity = 0
        self._executor = executor
        self._on_end = on_end
        self._stopping = False
        info = NodeInfo(
            node,
            self.rng.randbytes(8),
            "replica",
            name=f"{backend}#{index}",
            host=worker.host,
            backend=backend,
            code=value.version,
            worker=worker.info.node,
        )
        self.sync = ConfigSync(info, worker.wall_ms, self.fabric.make_registry(node))
        self.core = ReplicaCore(
            backend,
            value.config,
            accepts_batch=executor.accepts_batch,
            asynchronous=executor.asynchronous,
            sync=self.sync,
            rng=random.Random(self.rng.getrandbits(64)),
        )
        self._config = value.config
        self._threads = self.core.threads
        executor.attach(self, self._threads)
        self.hub = SimHub(
            self.fabric.network,
            self.core,
            info,
            worker.host,
            join=worker.addresses_for_replicas(),
            backend=backend,
            code=value.version,
            on_turn=self._on_turn,
            also=self.core.gateways_known,
            clock_offset_s=1000.0 * self.rng.random(),
        )
        self._patient = self.rng.random() < 0.5

    def start(self) -> None:
        self.fabric.note("replica", self.name, f"is ready ({self.node.hex()[:8]}, {self.version})")
        self.hub.start()

    @property
    def alive(self) -> bool:
        return self.hub.alive

    @property
    def stopping(self) -> bool:
        """It takes nothing new."""
        return self._stopping

    def _on_turn(self) -> None:
        core = self.core
        self.largest_capacity = max(self.largest_capacity, core.capacity)
        if core.runs:
            runs, core.runs = core.runs, []
            self._executor.submit(runs)
        if core.aborts:
            aborts, core.aborts = core.aborts, []
            for run in aborts:
                self._executor.abort(run)
        if core.exits and not self._stopping:
            self.stop(ORPHAN_DRAIN_S, core.exits[0])
        if core.config is not self._config:
            before, self._config = self._config, core.config
            if core.threads != self._threads:
                self._threads = core.threads
                self._executor.resize(self._threads)
            if core.config.user_config != before.user_config:
                self._executor.configure(core.config.user_config)
        self.fabric.watch.received(self)
        if self._stopping and core.drained:
            # Not now: this turn's answers leave first.
            self.fabric.clock.after(0.0, self.hub.deliver, self._end, "drained")

    def done(self, ended: Sequence[tuple[Run, Sequence[Answer] | None]]) -> None:
        """The executor reports."""
        now = self.hub.now()
        self.core.answer(ended, now)
        self.core.account(now, patient=self._patient)
        if self.core.untold:  # as nodes/lead.py does it
            self.fabric.clock.after(UNTOLD_S, self.hub.deliver, self._tell)
        self.hub.poke()

    def _tell(self) -> None:
        if self.core.untold:
            self.core.tell_routers(self.hub.now())
            self.hub.poke()

    def stop(self, grace_s: float, reason: str) -> None:
        """SIGTERM: send back what has not started, finish the rest within *grace_s*."""
        if not self.alive or self._stopping:
            return
        self._stopping = True
        self.fabric.watch.replica_ended(self)
        self.fabric.note("replica", self.name, f"stops: {reason}")
        self.core.drain(self.hub.now())
        self.hub.poke()
        self.fabric.clock.after(grace_s, self.hub.deliver, self._end, "killed after its grace")

    def _end(self, how: str) -> None:
        if self.alive:
            self.hub.stop("replica stopped")
            self.fabric.note("replica", self.name, f"has ended: {how}")
            self._on_end(self, how)

    def kill(self, how: str = "killed by SIGKILL", *, silent: bool = False, lossy: bool = False) -> None:
        """The process is gone at once."""
        if self.alive:
            self.fabric.watch.replica_ended(self)
            self.fabric.note("replica", self.name, how)
            self.hub.kill(silent=silent, lossy=lossy)
            self._on_end(self, how)

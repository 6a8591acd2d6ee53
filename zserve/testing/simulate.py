"""One run of a whole fabric under faults, from one seed, and what came of it."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from .clock import Overrun
from .fabric import SimFabric
from .faults import MIXES, Faults
from .hub import SpinningCore
from .invariants import CONVERGED_WITHIN_S, PLACED_WITHIN_S, Invariants, Violation
from .load import NotWorking, Operators, RequestLoad
from .network import Weather
from .replicas import ServiceModel

__all__ = ["Outcome", "Scenario", "simulate"]

_POLL_S = 0.05
_MAX_EVENTS = 300_000
"""A run has some 10,000 events; this many are a storm."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What to run.  Numbers that are 0 are drawn from the seed.

    faults: one of :data:`zserve.testing.faults.MIXES`, or names of faults separated by commas.  seconds: how long they
    go on; request_rate: a gateway gets so many a second; settle: wait at the end until all replicas are in place.
    """

    faults: str = "mixed"
    routers: int = 0
    gateways: int = 0
    workers: int = 0
    seconds: float = 10.0
    request_rate: float = 12.0
    settle: bool = True

    def fault_names(self) -> tuple[str, ...]:
        """Raises ValueError for a name that there is not."""
        from .faults import FAULTS

        if self.faults in MIXES:
            return MIXES[self.faults]
        names = tuple(name.strip() for name in self.faults.split(","))
        unknown = [name for name in names if name not in FAULTS]
        if unknown:
            raise ValueError(
                f"no such faults: {', '.join(unknown)}; there are the mixes {', '.join(MIXES)} and the faults "
                f"{', '.join(FAULTS)}"
            )
        return names


class Outcome(msgspec.Struct):
    """What came of one seed.  Durations are seconds: converged_s, placed_s after the faults had ended (virtual), wall_s
    real.  history: the lines that matter, if anything was violated."""

    seed: int
    violations: list[Violation] = []
    history: list[str] = []
    fingerprint: str = ""
    converged_s: float = -1.0
    placed_s: float = -1.0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    requests: int = 0
    runs: int = 0
    answers: dict[int, int] = {}
    writes: int = 0
    acknowledged: int = 0
    messages: int = 0
    events: int = 0

    @property
    def ok(self) -> bool:
        return not self.violations


def simulate(seed: int, scenario: Scenario | None = None, prepare: Callable[[SimFabric], Any] | None = None) -> Outcome:
    """Run *seed*.  *prepare* may change the fabric before any node is started (to plant a bug, for instance)."""
    started = time.perf_counter()
    scenario = scenario or Scenario()
    fabric = SimFabric(seed)
    fabric.clock.max_events = _MAX_EVENTS
    # Half of the seeds have gateways and worker nodes that are linked with some of the routers only.
    fabric.max_routers = random.Random(f"{seed} links").choice((0, 0, 1, 2))
    if prepare is not None:
        prepare(fabric)
    watch = Invariants(fabric)
    fabric.watch = watch
    outcome = Outcome(seed)
    try:
        _run(fabric, watch, scenario, outcome)
    except Overrun as error:
        watch.violate("it comes to rest", str(error))
    except SpinningCore as error:
        watch.violate("no core spins", str(error))
    except NotWorking as error:
        watch.violate("it works while nothing is wrong", str(error))
    except Exception as error:
        where = "".join(traceback.format_exception(error, limit=-6))
        subjects = [argument.hex() for argument in error.args if isinstance(argument, bytes)]
        watch.violate("no core raises", where, *subjects)
    outcome.violations = watch.violations
    if watch.violations:
        outcome.history = _history(fabric, watch)
    outcome.fingerprint = fabric.fingerprint()
    outcome.virtual_s = fabric.clock.now
    outcome.requests = len(watch.tickets)
    outcome.runs = watch.runs
    for ticket in watch.tickets:
        outcome.answers[ticket.status] = outcome.answers.get(ticket.status, 0) + 1
    outcome.writes = len(watch.writes)
    outcome.acknowledged = sum(write.acknowledged for write in watch.writes)
    outcome.messages = fabric.network.messages
    outcome.events = fabric.clock.events
    outcome.wall_s = time.perf_counter() - started
    return outcome


def _run(fabric: SimFabric, watch: Invariants, scenario: Scenario, outcome: Outcome) -> None:
    rng = random.Random(f"{fabric.seed} scenario")
    fault_names = scenario.fault_names()
    watch.over_limit_allowed = bool(fault_names)
    watch.only_routers_die = fault_names == MIXES["routers"]
    backends, endpoints = rng.randint(1, 3), rng.randint(1, 3)
    for number in range(scenario.routers or rng.randint(1, 4)):
        fabric.add_router(f"router-{number}")
    # Replicas answer the gateways on their machines themselves.
    shared = random.Random(f"{fabric.seed} hosts").random() < 0.5
    for number in range(scenario.gateways or rng.randint(1, 3)):
        fabric.add_gateway(f"gateway-{number}", host=f"worker-{number}" if shared else "")
    for number in range(scenario.workers or rng.randint(2, 4)):
        fabric.add_worker(f"worker-{number}", slots=rng.randint(5, 8))
    clients = [fabric.add_client(f"client-{number}") for number in range(2)]
    for number in range(backends):
        fabric.models[f"backend-{number}"] = ServiceModel(rng.choice((0.002, 0.02, 0.2)), fails=rng.choice((0.0, 0.05)))

    operators = Operators(fabric, random.Random(f"{fabric.seed} operators"), clients)
    operators.prepare(backends, endpoints, replicas=3)
    fabric.run_for(1.0)

    start = fabric.clock.now
    end = start + scenario.seconds
    load = RequestLoad(fabric, random.Random(f"{fabric.seed} load"), scenario.request_rate)
    for gateway in fabric.gateways():
        load.run(gateway, end + 2.0)
    if not watch.only_routers_die:  # changes of the config end replicas, too
        operators.run(end, 0.5, backends, endpoints)
    every_s = rng.choice((0.3, 1.0, 2.0))
    faults = Faults(fabric, random.Random(f"{fabric.seed} faults"), fault_names, every_s)
    faults.run(end)
    fabric.clock.run_until(end)

    fabric.network.weather = Weather()
    _settle(fabric, watch, outcome, end, scenario.settle)
    for client in clients:
        watch.acknowledged(client, [call for call in operators.calls if call.peer[:16] == client.info.node])
    watch.check_answers()
    watch.check_credits()
    watch.check_writes()


def _settle(fabric: SimFabric, watch: Invariants, outcome: Outcome, end: float, placed: bool) -> None:
    """See that the fabric comes to rest in time."""
    while not watch.converged() and fabric.clock.now < end + CONVERGED_WITHIN_S:
        fabric.run_for(_POLL_S)
    outcome.converged_s = fabric.clock.now - end
    watch.check_converged()
    # The last requests have deadlines of up to 3 s; the calls that wait for confirmation take up to 5 s.
    fabric.clock.run_until(end + CONVERGED_WITHIN_S + 2.0)
    if not placed:
        return
    while not watch.placed() and fabric.clock.now < end + PLACED_WITHIN_S:
        fabric.run_for(_POLL_S * 10)
    outcome.placed_s = fabric.clock.now - end
    watch.check_placed()


def _history(fabric: SimFabric, watch: Invariants) -> list[str]:
    """What matters about the first violations, and how the nodes saw the fabric at the end."""
    subjects = [subject for violation in watch.violations[:3] for subject in violation.subjects]
    lines = fabric.history.about(subjects, limit=80)
    lines.append("the nodes at the end:")
    for name, sync in watch.syncs().items():
        serials = " ".join(f"{node.hex()[:6]}" for node, _ in sync.membership.live_routers())
        held = []
        for key in subjects:
            record = sync.registry.get(key)
            if record is not None:
                what = "deleted" if record.value is None else f"revision {record.revision}"
                held.append(f"{key} {what} {record.hlc:x}")
        members = len(sync.membership.nodes())
        lines.append(f"    {name}: {members} nodes known, routers linked: {serials or 'none'}; {'; '.join(held)}")
    return lines

"""``python -m tools.strain.soak``: a fabric under 70% of the load that it can take, for long, and what it keeps of it.

Exit status 1: the memory of a process grows by more than :data:`GROWTH_MB` from the end of the warm-up on (by the line
that fits best), its descriptors by more than :data:`MORE_FILES`, a wake-up was missed, or a request failed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from zserve.nodes.allocator import resident_bytes
from zserve.nodes.descriptors import raise_open_files

from benchmarks.procfs import tree
from tests.integration.fabric import Fabric

from .drawing import draw
from .serving import counter, result_of, running_fabric, start_load

SHARE = 0.7
WARM_UP = 0.25
"""Of the whole time; what is needed for this load is there by then."""
GROWTH_MB = 5.0
MORE_FILES = 3.0
SAMPLES = 240
CAPACITY_S = 8.0
CLIENTS = 16
"""Of each gateway, while it is measured how much the fabric can take."""


class Sample(NamedTuple):
    """Of one process: seconds since the start, megabytes that it has in memory, open descriptors."""

    at_s: float
    memory_mb: float
    files: int


class Trend(NamedTuple):
    """growth_mb: of the line through the memory after the warm-up, over that time; more_files: of the last quarter of
    it than of the first."""

    name: str
    memory_mb: float
    growth_mb: float
    mb_an_hour: float
    files: float
    more_files: float

    @property
    def flat(self) -> bool:
        return self.growth_mb <= GROWTH_MB and self.more_files <= MORE_FILES


def trend(name: str, samples: list[Sample], warm_up_s: float) -> Trend:
    """What the *samples* of one process, from *warm_up_s* on, come to."""
    kept = [sample for sample in samples if sample.at_s >= warm_up_s]
    slope = statistics.linear_regression([sample.at_s for sample in kept], [sample.memory_mb for sample in kept]).slope
    quarter = max(1, len(kept) // 4)
    files = [sample.files for sample in kept]
    return Trend(
        name,
        kept[-1].memory_mb,
        slope * (kept[-1].at_s - kept[0].at_s),
        slope * 3600.0,
        statistics.fmean(files[-quarter:]),
        statistics.fmean(files[-quarter:]) - statistics.fmean(files[:quarter]),
    )


def _names(fabric: Fabric) -> dict[int, str]:
    """Process id to name of all processes of the fabric, replicas included."""
    names = {node.process.pid: f"{node.log.stem}" for node in fabric.nodes}
    for process in tree(list(names)):
        names.setdefault(process.pid, f"replica {process.pid}")
    return names


def _look(pid: int, at_s: float) -> Sample:
    return Sample(at_s, resident_bytes(pid) / 1e6, len(os.listdir(f"/proc/{pid}/fd")))


def _missed_wakeups(fabric: Fabric) -> int:
    """Of all processes: gateways and routers tell, the others say so in their logs."""
    missed = sum(int(counter(gateway, "zserve_transport_missed_wakeups")) for gateway in fabric.gateways)
    for number in range(len(fabric.routers)):
        missed += fabric.call("status", number)["router"]["transport"]["missed_wakeups"]
    for worker in fabric.workers:
        missed += len(re.findall("missed wake-up", worker.log.read_text()))
    return missed


def _capacity(fabric: Fabric) -> float:
    """Requests a second that all gateways together answer, whoever asks again as soon as there is an answer."""
    loads = [start_load(gateway.http, CAPACITY_S, clients=CLIENTS) for gateway in fabric.gateways]
    return sum(result_of(load)["good"] for load in loads) / CAPACITY_S


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.strain.soak", description="A long steady load.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: 70%% of what it can take")
    parser.add_argument("--png", type=Path, default=Path("soak.png"))
    given = parser.parse_args()
    raise_open_files()
    seconds = given.minutes * 60.0
    with running_fabric(2, 2, 2, 2) as fabric:
        rate = given.rate
        if not rate:
            capacity = _capacity(fabric)
            rate = SHARE * capacity
            print(f"it can take {capacity:.0f} requests/s", flush=True)
        print(f"{rate:.0f} requests/s for {given.minutes:g} minutes", flush=True)
        names = _names(fabric)
        samples: dict[int, list[Sample]] = {pid: [] for pid in names}
        loads = [start_load(gateway.http, seconds, rate=rate / len(fabric.gateways)) for gateway in fabric.gateways]
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            for pid, seen in samples.items():
                seen.append(_look(pid, now))
            time.sleep(min(seconds / SAMPLES, max(0.0, seconds - now)))
        outcomes = [result_of(load) for load in loads]
        missed = _missed_wakeups(fabric)
        same = _names(fabric).keys() == names.keys()
    trends = [trend(names[pid], seen, WARM_UP * seconds) for pid, seen in samples.items()]
    print(f"{'process':<16}{'memory':>12}{'growth':>12}{'slope':>16}{'files':>8}{'more':>8}")
    for one in trends:
        print(f"{one.name:<16}{one.memory_mb:>9.1f} MB{one.growth_mb:>+9.2f} MB{one.mb_an_hour:>+11.1f} MB/h"
              f"{one.files:>8.1f}{one.more_files:>+8.1f}{'' if one.flat else '  GROWS'}")  # fmt: skip
    good = sum(outcome["good"] for outcome in outcomes)
    failed = sum(outcome["offered"] for outcome in outcomes) - good
    replaced = "" if same else "; A PROCESS WAS REPLACED"
    print(f"{good} requests answered, {failed} not; {missed} missed wake-ups{replaced}")
    print(f"allowed after the first {WARM_UP:.0%} of the time: {GROWTH_MB:g} MB and {MORE_FILES:g} files more")
    print(draw({names[pid]: seen for pid, seen in samples.items()}, given.png))
    return int(failed > 0 or missed > 0 or not same or not all(one.flat for one in trends))


if __name__ == "__main__":
    sys.exit(main())

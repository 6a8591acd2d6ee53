"""One seed is one run, to the byte; and a run that goes wrong says what happened and how to see it again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from zserve.channel.outbox import Outbox, Peer
from zserve.registry.sync import ConfigSync
from zserve.testing.campaign import command_of
from zserve.testing.simulate import Scenario, simulate
from zserve.wire.messages import Pull

SEEDS = (0, 28, 54, 77)
PROGRAM = "from zserve.testing.simulate import simulate\nfor seed in {seeds}: print(simulate(seed).fingerprint)"


def fingerprints(hash_seed: str) -> list[str]:
    """Of :data:`SEEDS`, run in another process, where sets and dicts of strings have another order."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seeds=SEEDS)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.split()


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    here = [simulate(seed).fingerprint for seed in SEEDS]
    assert len(set(here)) == len(SEEDS)
    assert [simulate(seed).fingerprint for seed in SEEDS] == here
    assert fingerprints("1") == here
    assert fingerprints("2") == here


def test_a_failing_seed_says_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignore(self: ConfigSync, peer: Peer, pull: Pull, out: Outbox) -> None: ...

    monkeypatch.setattr(ConfigSync, "on_pull", ignore)
    outcome = simulate(0)
    assert not outcome.ok
    (violation, *_) = outcome.violations
    assert violation.name == "one registry"
    assert violation.subjects
    told = outcome.history
    assert len(told) <= 120
    assert max(map(len, told)) < 2000
    assert _lines(told, "  fault  ")
    assert _lines(told, "  write  ")
    assert all(violation.subjects[0] in line or "write" not in line for line in told[:1])
    assert _lines(told, "routers linked")
    assert simulate(0).history == told


def test_the_command_that_runs_it_again() -> None:
    assert command_of(7, Scenario()) == "tools/simulate --seed 7"
    assert command_of(7, Scenario(faults="kill", routers=3)) == "tools/simulate --seed 7 --faults kill --routers 3"


def _lines(told: Sequence[str], what: str) -> list[str]:
    return [line for line in told if what in line]

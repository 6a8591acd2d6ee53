"""The whole fabric under faults, 300 seeds: nothing that must hold is ever violated."""

from __future__ import annotations

import os

import pytest

from zserve.testing.campaign import Totals, command_of, run_seeds
from zserve.testing.simulate import Outcome, Scenario

SEEDS = int(os.environ.get("ZSERVE_SEEDS", "300"))


def describe(outcome: Outcome, scenario: Scenario) -> str:
    violations = [f"{violation.name}: {violation.text}" for violation in outcome.violations]
    return "\n".join([*violations, *outcome.history, f"again: {command_of(outcome.seed, scenario)}"])


@pytest.mark.timeout(900)
def test_mixed_faults() -> None:
    scenario, totals = Scenario(), Totals()
    for outcome in run_seeds(range(SEEDS), scenario, processes=2):
        totals.add(outcome)
        assert outcome.ok, f"seed {outcome.seed}\n{describe(outcome, scenario)}"
    assert totals.seeds == SEEDS
    # It was not for want of anything going on.
    assert totals.requests > 150 * SEEDS
    assert totals.writes > 12 * SEEDS
    assert totals.answers[200] > 0.4 * totals.requests
    assert totals.answers[502] > 0 < totals.answers[504]
    assert totals.slowest_converged_s < 5.0


@pytest.mark.parametrize("faults", ["none", "network", "crashes", "stalls", "rolling", "wipe,kill,partition"])
def test_one_kind_of_fault(faults: str) -> None:
    scenario = Scenario(faults=faults)
    for outcome in run_seeds(range(10_000, 10_006), scenario, processes=1):
        assert outcome.ok, f"seed {outcome.seed}\n{describe(outcome, scenario)}"
        if faults == "none":
            assert outcome.converged_s == 0.0
            assert outcome.acknowledged == outcome.writes
            assert 502 not in outcome.answers


def test_unknown_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="no such faults: earthquake; there are the mixes none, network"):
        Scenario(faults="kill,earthquake").fault_names()

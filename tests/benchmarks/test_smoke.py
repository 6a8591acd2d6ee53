"""The harness from end to end with zserve alone: it fails when a workload breaks, never on a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITH_WRK = ["echo", "batch", "payload", "scale"]
WITHOUT_WRK = ["overload", "mix", "stream", "start-up"]


def measure(workloads: list[str], folder: Path, systems: str) -> dict:
    options = ["--systems", systems, "--rounds", "1", "--duration", "1", "--quick", "--out", str(folder)]
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", *workloads, *options, "--json", str(folder / "found.json")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert answer.returncode == 0, answer.stderr[-4000:] + answer.stdout[-2000:]
    assert "Targets" in answer.stdout or "## " in answer.stdout
    return json.loads((folder / "found.json").read_text())


def check(found: dict, workloads: list[str], systems: list[str]) -> None:
    assert found["not_run"] == []
    assert not found["interrupted"]
    assert list(found["workloads"]) == workloads
    for name, workload in found["workloads"].items():
        for case in workload["cases"]:
            for system in systems:
                figures = workload["rounds"][case][system]["0"]
                assert figures.get("errors", 0.0) == 0.0, (name, case, system, figures)
                assert figures.get("failed", 0.0) == 0.0, (name, case, system, figures)
                if "offered" in figures:  # in time or not is a matter of time, but each request has one outcome
                    outcomes = sum(figures[key] for key in ("in_time", "late", "refused", "expired", "lost"))
                    assert figures["offered"] > 0.0
                    if ", then " not in case:  # there only a part of the time counts
                        assert outcomes == pytest.approx(figures["offered"]), (name, case, system, figures)
                else:
                    assert figures[workload["headline"]] > 0.0, (name, case, system, figures)


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_closed_loops(tmp_path):
    check(measure(WITH_WRK, tmp_path, "zserve"), WITH_WRK, ["zserve"])


@pytest.mark.integration
def test_open_loops_and_start_up(tmp_path):
    check(measure(WITHOUT_WRK, tmp_path, "zserve"), WITHOUT_WRK, ["zserve"])


@pytest.mark.integration
def test_three_nodes_apart(tmp_path):
    wanted = ["handle", "start-up"]
    check(measure(wanted, tmp_path, "zserve-apart"), wanted, ["zserve-apart"])

"""From rounds to medians, ratios, verdicts and tables."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.figures import FIGURES, paired_ratio, spread
from benchmarks.plots import draw
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.systems import SYSTEMS
from benchmarks.targets import TARGETS, judge
from benchmarks.workloads import WORKLOADS, Settings

MACHINE = {
    "processor": "P",
    "cores": 2,
    "memory_gb": 8.0,
    "system": "Linux",
    "python": "3.11",
    "wrk": "wrk 4",
    "load_average_at_start": 0.1,
}
CASE = "64 connections"


def results() -> Results:
    found = Results(MACHINE, Settings(rounds=3))
    found.begin(WORKLOADS["echo"](found.settings), [CASE])
    for round_, (ours, theirs) in enumerate([(220.0, 100.0), (500.0, 200.0), (240.0, 120.0)]):
        found.add("echo", CASE, "zserve-apart", round_, {"rate": ours, "p50_ms": 1.0, "cpu_s": 0.5})
        found.add("echo", CASE, "mosec", round_, {"rate": theirs, "p50_ms": 2.0, "cpu_s": 1.0})
    found.not_run("echo", "ray", "cannot install: no such package")
    found.versions["mosec"] = {"python": "3.11", "mosec": "0.9"}
    return found


def test_a_spread_is_the_median_and_the_ends():
    assert spread([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)
    with pytest.raises(ValueError):
        spread([])


def test_ratios_pair_the_rounds():
    # Of medians it would be 240 / 120 = 2; the median of the pairs is 2.2.
    assert results().ratio("echo", CASE, "zserve-apart", "mosec", "rate") == pytest.approx((2.2, 2.0, 2.5))


def test_rounds_that_one_side_lacks_do_not_count():
    assert paired_ratio({0: 4.0, 1: 9.0}, {0: 2.0, 2: 1.0}) == (2.0, 2.0, 2.0)
    assert paired_ratio({0: 4.0}, {1: 2.0}) is None


def test_a_peer_that_answered_nothing_is_infinitely_far():
    assert paired_ratio({0: 4.0}, {0: 0.0}) == (math.inf, math.inf, math.inf)
    assert paired_ratio({0: 0.0}, {0: 0.0}) is None


def test_the_report_leads_with_ratios_and_names_what_did_not_run():
    text = markdown(results())
    assert "| case | system | zserve-apart / it | answers, /s |" in text
    assert "| 64 connections | mosec | **2.20** (2.00..2.50) | 120 (100..200) |" in text
    assert "- echo, ray: cannot install: no such package" in text
    assert "- mosec: python 3.11, mosec 0.9" in text
    assert "reached" in text


def test_results_come_back_from_their_file():
    before = results()
    again = Results.from_dict(json.loads(json.dumps(before.as_dict())))
    assert again.as_dict() == before.as_dict()
    assert markdown(again) == markdown(before)


def test_a_file_of_another_format_is_refused():
    with pytest.raises(ValueError, match="format 2"):
        Results.from_dict({"format": 2})


def test_targets_name_what_there_is_and_judge_only_what_was_measured():
    for target in TARGETS:
        workload = WORKLOADS[target.workload](Settings())
        assert target.case in [case.name for launch in workload.launches() for case in launch.cases], target
        assert target.system in SYSTEMS
        assert not target.against or target.against in SYSTEMS or target.against in workload.limits(), target
        assert target.figure in FIGURES
    verdicts = {(v.target.against, v.target.figure): v.reached for v in judge(results())}
    assert verdicts == {("mosec", "rate"): True, ("mosec", "cpu_s"): True}


def test_workloads_know_their_systems_and_figures():
    for name, kind in WORKLOADS.items():
        workload = kind(Settings())
        assert workload.name == name
        assert {*workload.figures, workload.headline} <= set(FIGURES)
        for system in workload.systems:
            assert SYSTEMS[system].serves(workload.source), (name, system)


def test_plots_are_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    assert [path.name for path in draw(results(), tmp_path)] == ["echo.png"]
    assert (tmp_path / "echo.png").read_bytes().startswith(b"\x89PNG")

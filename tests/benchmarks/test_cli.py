"""What the command line says yes and no to."""

from __future__ import annotations

import json

import pytest

from benchmarks.cli import main
from benchmarks.results import Results
from benchmarks.workloads import Settings


def test_the_list_has_workloads_systems_and_load_generators(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("echo", "overload", "start-up", "zserve-apart", "mosec-tuned", "ray-fast", "wrk", "stream", "handle"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "eco"], "no workload 'eco'; there are: echo, batch"),
        (["run", "--systems", "zserve,flask"], "no system 'flask'; there are: zserve"),
        (
            ["run", "echo", "--case", "3 connections"],
            "no case '3 connections'; there are: 1 connection, 16 connections",
        ),
        (["run", "--rounds", "0"], "0 is not more than 0"),
        (["run", "--duration", "x"], "invalid float value: 'x'"),
        (["report", "/nowhere/results.json"], "/nowhere/results.json"),
        ([], "required"),
    ],
)
def test_bad_usage_is_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_report_can_be_written_again(tmp_path, capsys):
    machine = {
        "processor": "P",
        "cores": 2,
        "memory_gb": 1.0,
        "system": "S",
        "python": "3",
        "wrk": "w",
        "load_average_at_start": 0.0,
    }
    file = tmp_path / "found.json"
    file.write_text(json.dumps(Results(machine, Settings()).as_dict()))
    assert main(["report", str(file), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "report.md").read_text().startswith("# Benchmark")
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == json.loads(file.read_text())

"""The short form of ``make chaos`` and ``make kills``: real processes, a few faults, every request accounted for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells who is at the other end"),
]

ROOT = Path(__file__).resolve().parents[2]


def ran(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--json"], capture_output=True, text=True, timeout=280, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    print(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_request_has_one_answer_whatever_goes_wrong(tmp_path: Path) -> None:
    # A machine that is busy with other things makes gaps of its own, so there is no bar here; see `make chaos`.
    short = ("--seed", "2212", "--seconds", "10", "--calm", "0.2", "--replicas", "2", "--rate", "100", "--no-bars")
    found = ran("tools.chaos", *short, "--keep-logs", str(tmp_path))
    assert found["violations"] == []
    assert found["requests"] > 500
    assert found["answers"]["look"]["200"] > 100
    assert found["writes"]["acknowledged"] > 1
    made = {fault["kind"] for fault in found["faults"]}
    assert made == {"restart gateway", "kill router", "isolate gateway", "restart worker", "kill worker"}
    assert all(fault["until_s"] is not None for fault in found["faults"])


def test_replicas_killed_all_the_time_cost_no_get_and_run_no_post_twice() -> None:
    found = ran("tools.chaos.kills", "--kills", "6", "--requests", "1200", "--replicas", "6")
    assert found["violations"] == []
    assert found["kills"] == 6
    assert found["answers"]["GET 200"] + found["answers"]["POST 200"] + found["answers"].get("POST 502", 0) == 1200
    assert found["run_twice"] == 0


def test_bad_usage_and_an_interrupt_end_it_with_one_line(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no" / "such.png")
    for arguments, text in ((["--seconds", "1"], "--seconds is 5 at the least"), (["--png", nowhere], "no folder")):
        bad = subprocess.run(
            [sys.executable, "-m", "tools.chaos", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert (bad.returncode, text in bad.stderr) == (2, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.chaos", "--seed", "1"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    assert "seed 1" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; all of it has been ended" in errors

"""The lab, where this machine allows one: the experiment as a whole, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tools.lab"]


def namespaces() -> list[str]:
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10, check=True)
    return [line.split()[0] for line in found.stdout.splitlines()]


def python(code: str) -> str:
    """What *code* prints, run where ``tools`` can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def possible() -> None:
    why = python("from tools.lab.network import why_not_here; print(why_not_here())").strip()
    if why:
        pytest.skip(why)


def test_two_halves_that_both_got_writes_become_one_again() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    output, errors = process.communicate(timeout=140)
    assert process.returncode == 0, errors
    figures = json.loads(output)
    assert all(count > 100 for count in figures["requests"].values()), "both halves were asked all the time"
    assert figures["in_force"] in figures["written"].values()
    (loser,) = [write for write in figures["written"].values() if write != figures["in_force"]]
    lost = [conflict["lost"]["traffic"] for conflict in figures["conflicts"]]
    assert lost == [loser, loser], "listed by both routers"
    assert not [name for name in namespaces() if f"-{process.pid}-" in name]
    print(errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_a_lab_that_is_interrupted(number: int) -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert "serve after" in process.stdout.readline()
    assert len([name for name in namespaces() if f"-{process.pid}-" in name]) == 5
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "all of it has been removed" in errors
    assert not [name for name in namespaces() if f"-{process.pid}-" in name]


def test_what_a_killed_lab_has_left_is_swept_by_the_next_one() -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert "serve after" in process.stdout.readline()
    process.kill()
    process.communicate(timeout=10)
    assert [name for name in namespaces() if f"-{process.pid}-" in name]
    folders = list(Path(tempfile.gettempdir()).glob(f"zlab-{process.pid}-*"))
    assert folders
    python("from tools.lab.network import sweep; sweep()")
    assert not [folder for folder in folders if folder.exists()]
    assert not [name for name in namespaces() if f"-{process.pid}-" in name]


def test_without_root_it_says_why_it_is_skipped() -> None:
    if os.geteuid() != 0:
        pytest.skip("is what the others do")
    code = "import os, runpy, sys; os.geteuid = lambda: 1; sys.argv = ['lab']; "
    assert "lab skipped: needs root" in python(code + "runpy.run_module('tools.lab', run_name='__main__')")

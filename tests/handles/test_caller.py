"""The engine in its thread, with and without a router to talk to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zserve.errors import DeadlineExceeded, FabricUnreachable, Overloaded, ServeError
from zserve.handles import caller as caller_module
from zserve.handles import lines
from zserve.handles.answer import ServeAnswer
from zserve.handles.caller import Caller, Submission


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    caller = Caller([f"ipc://{tmp_path}/nobody"])
    yield caller
    caller.close()


def submission(seconds: float = 30.0) -> Submission:
    return Submission(ServeAnswer(), "e", b"", b"", time.monotonic() + seconds, 0, "", "")


def test_a_call_that_nobody_takes_ends_with_its_deadline(caller: Caller) -> None:
    one = submission(0.05)
    caller.submit(one)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.0"):
        one.answer.result(10)


def test_closing_fails_what_waits(caller: Caller) -> None:
    waiting = [submission() for _ in range(50)]
    for one in waiting:
        caller.submit(one)
    begin = time.monotonic()
    caller.close()
    caller.close()
    assert time.monotonic() - begin < 3.0
    late = submission()
    caller.submit(late)
    for one in [*waiting, late]:
        with pytest.raises(FabricUnreachable, match="was left"):
            one.answer.result(0)


def test_many_threads_lose_nothing(caller: Caller) -> None:
    answers: list[ServeAnswer] = []

    def work() -> None:
        for _ in range(200):
            one = submission(0.02)
            answers.append(one.answer)
            caller.submit(one)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 1600
    for answer in answers:
        with pytest.raises(DeadlineExceeded):
            answer.result(10)


def test_a_burst_wakes_the_engine_once(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes = []
    busy, go_on = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        go_on.wait(10)

    caller.at(0.0, block)
    assert busy.wait(10)

    class Counting:
        def call_soon_threadsafe(self, *args: object) -> None:
            wakes.append(args)
            loop.call_soon_threadsafe(*args)  # type: ignore[arg-type]

    loop = caller._loop
    monkeypatch.setattr(caller, "_loop", Counting())
    for _ in range(100):
        caller.submit(submission(0.01))
    assert len(wakes) == 1
    go_on.set()
    monkeypatch.setattr(caller, "_loop", loop)


def test_too_many_that_wait_are_refused(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "MAX_WAITING", 0)
    one = submission()
    caller.submit(one)
    with pytest.raises(Overloaded, match="wait to be sent by this process, its limit"):
        one.answer.result(0)


def test_what_is_cancelled_leaves_the_core(caller: Caller) -> None:
    one, other = submission(), submission(0.2)
    caller.submit(one)
    one.answer.cancel()
    caller.submit(other)
    with pytest.raises(DeadlineExceeded):
        other.answer.result(10)
    assert caller._core.in_flight == 0
    assert caller.statistics()["abandoned"] <= 1


def test_timers_can_be_taken_back(caller: Caller) -> None:
    fired: list[str] = []
    done = threading.Event()
    disarm = caller.at(time.monotonic() + 0.02, lambda: fired.append("no"))
    disarm()
    caller.at(time.monotonic() + 0.05, done.set)
    assert done.wait(10)
    assert fired == []


def test_an_address_that_is_none() -> None:
    with pytest.raises(ServeError, match="not an address to join"):
        Caller(["nonsense"])


# --- lines ------------------------------------------------------------------------------------------------------------


def test_one_caller_for_each_fabric(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/nobody"
    line = lines.line_to([address])
    try:
        assert lines.line_to([address]) is line
        assert line.caller() is line.caller()
    finally:
        lines.hang_up(address)
    with pytest.raises(FabricUnreachable, match="get a new handle"):
        line.caller()
    assert lines.line_to([address]) is not line
    lines.hang_up(address)
    lines.hang_up(address)


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os._exit(0)"])
def test_a_forked_child_has_a_caller_of_its_own(tmp_path: Path, ending: str) -> None:
    script = f"""
import os, sys, time
from zserve.handles import lines
from zserve.handles.answer import ServeAnswer
from zserve.handles.caller import Submission
line = lines.line_to(["ipc://{tmp_path}/nobody"])
before = line.caller()
mine = ServeAnswer()
before.submit(Submission(mine, "e", b"", b"", time.monotonic() + 3, 0, "", ""))
time.sleep(0.05)
child = os.fork()
if child == 0:
    try:
        mine.result(5)
    except Exception as error:
        assert "forked" in str(error), error
    own = line.caller()
    assert own is not before
    answer = ServeAnswer()
    own.submit(Submission(answer, "e", b"", b"", time.monotonic() + 0.05, 0, "", ""))
    try:
        answer.result(5)
    except Exception as error:
        print(type(error).__name__, flush=True)
    {ending}
assert os.waitpid(child, 0)[1] == 0
assert line.caller() is before
try:
    mine.result(5)
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, env={**os.environ}, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["DeadlineExceeded", "DeadlineExceeded"], "")


def test_an_interpreter_with_calls_under_way_ends(tmp_path: Path) -> None:
    script = f"""
import time
from zserve.handles import lines
from zserve.handles.answer import ServeAnswer
from zserve.handles.caller import Submission
caller = lines.line_to(["ipc://{tmp_path}/nobody"]).caller()
for _ in range(100):
    caller.submit(Submission(ServeAnswer(), "e", b"", b"", time.monotonic() + 60, 0, "", ""))
print("end")
"""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert time.monotonic() - begin < 10

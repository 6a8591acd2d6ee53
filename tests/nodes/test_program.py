"""Signals, the life line and errors of a node program, in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

LIMIT_S = 10.0

PRELUDE = """
import asyncio, os, sys
from zserve.errors import ApplicationError
from zserve.nodes.options import RouterOptions
from zserve.nodes.program import report, run_program
def say(text): os.write(1, text.encode() + b"\\n")
options = RouterOptions(status_fd=1, log_level="critical", {options})
"""
START = "\nsys.exit(run_program(main, options))\n"

DRAINS = """
async def main(stop):
    say("up")
    say(await stop.wait())
    return 0
"""
NEVER_DRAINS = """
async def main(stop):
    say("up")
    await stop.wait()
    say("draining")
    try:
        await asyncio.sleep(1000)
    finally:
        say("cleaned up")
"""
HANGS = NEVER_DRAINS.replace('say("cleaned up")', 'say("cleaned up"); await asyncio.sleep(1000)')


class Program:
    def __init__(self, main: str, options: str = "") -> None:
        code = PRELUDE.format(options=options) + main + START
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out.strip(), err.strip()


def test_the_first_signal_drains() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        program = Program(DRAINS)
        assert program.line() == "up"
        program.process.send_signal(number)
        assert program.end() == (0, number.name, "")


def test_a_second_signal_forces_but_lets_it_clean_up() -> None:
    program = Program(NEVER_DRAINS)
    assert program.line() == "up"
    program.process.send_signal(signal.SIGTERM)
    assert program.line() == "draining"
    program.process.send_signal(signal.SIGINT)
    assert program.end() == (1, "cleaned up", "")


def test_one_wish_from_two_sides_does_not_force() -> None:
    program = Program("""
async def main(stop):
    say("up")
    await stop.wait()
    say("draining")
    await asyncio.sleep(0.3)
    say("drained")
    return 0
""")
    assert program.line() == "up"
    program.process.send_signal(signal.SIGTERM)
    assert program.line() == "draining"
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (0, "drained", "")


def test_a_third_signal_ends_it_on_the_spot() -> None:
    program = Program(HANGS)
    assert program.line() == "up"
    program.process.send_signal(signal.SIGTERM)
    assert program.line() == "draining"
    program.process.send_signal(signal.SIGINT)
    assert program.line() == "cleaned up"
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (1, "", "")


def test_a_drain_has_a_limit() -> None:
    program = Program(NEVER_DRAINS, "grace_s=0.05")
    assert program.line() == "up"
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (1, "draining\ncleaned up", "")


def test_the_end_of_the_life_line_drains() -> None:
    program = Program(DRAINS, "lifeline=True")
    assert program.line() == "up"
    assert program.end() == (0, "the parent process has ended", "")


def test_a_program_that_ends_by_itself_is_not_forced_by_the_first_signal() -> None:
    program = Program("""
async def main(stop):
    stop.request("zserve shutdown")
    say("up")
    try:
        await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        say("forced")
    return 0
""")
    assert program.line() == "up"
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (0, "", "")


def test_a_program_that_ends_by_itself_has_a_limit_too() -> None:
    program = Program("async def main(stop):\n    stop.request('x')\n    await asyncio.sleep(1000)", "grace_s=0.05")
    assert program.end() == (1, "", "")


def test_without_a_life_line_the_end_of_input_means_nothing() -> None:
    program = Program(DRAINS)
    assert program.line() == "up"
    assert program.process.stdin is not None
    program.process.stdin.close()
    program.process.stdin = None
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == (0, "SIGTERM", "")


def test_an_error_that_users_can_cause_is_one_line_and_its_own_status() -> None:
    program = Program("async def main(stop): raise ApplicationError('no such module; do this')")
    status, out, err = program.end()
    assert (status, err) == (3, "zserve: error: no such module; do this")
    assert json.loads(out) == {"event": "failed", "error": "no such module; do this", "exit": 3}


def test_an_unexpected_error_is_reported_too() -> None:
    program = Program("async def main(stop): raise ZeroDivisionError('x')")
    status, out, _ = program.end()
    assert status == 1
    assert json.loads(out)["error"] == "ZeroDivisionError: x"


def test_signals_that_were_blocked_during_the_start_are_not_lost() -> None:
    early = (
        "import signal\n"
        "from zserve.nodes.program import SIGNALS\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert Program(early + DRAINS).end()[:2] == (0, "up\nSIGTERM")


def test_reporting_to_nobody_is_no_error() -> None:
    program = Program(
        "async def main(stop):\n"
        "    read, write = os.pipe()\n"
        "    os.close(read)\n"
        "    options.status_fd = write\n"
        "    report(options, 'ready')\n"
        "    return 0\n"
    )
    assert program.end() == (0, "", "")

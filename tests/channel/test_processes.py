"""Real processes, looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from zserve.channel.processes import pid_space, process_state
from zserve.channel.suspicion import ENDED, RUNS, STOPPED

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only Linux has /proc")


def becomes(pid: int, state: str) -> bool:
    end = time.monotonic() + 20.0
    while process_state(pid) != state:
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def test_a_process_runs_is_stopped_goes_on_and_ends() -> None:
    # Its name, which is in the middle of the line that is read, looks as if the line went on behind it.
    code = "open('/proc/self/comm', 'w').write('a) T 1'); import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert process_state(process.pid) == RUNS
            process.send_signal(signal.SIGSTOP)
            assert becomes(process.pid, STOPPED)
            process.send_signal(signal.SIGCONT)
            assert becomes(process.pid, RUNS)
        finally:
            process.kill()
        assert becomes(process.pid, ENDED), "not waited for yet: a zombie"
        process.wait(20.0)
        assert process_state(process.pid) == ENDED


def test_processes_here_are_of_one_space() -> None:
    code = "from zserve.channel.processes import pid_space; print(pid_space())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert int(found.stdout) == pid_space() > 0
    assert pid_space() < 1 << 64, "it goes over the wire"

"""Memory that bodies took is kept while there is work, and given back when there is none."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from zserve.nodes.allocator import LOOK_EVERY_S, Allocator

MIB = 1 << 20


class Process:
    """One whose memory and processor time are what the test says."""

    def __init__(self) -> None:
        self.resident = 50 * MIB
        self.used_s = 1.0
        self.trimmed = 0
        self.allocator = Allocator(self.trim, lambda: self.resident, lambda: self.used_s)

    def trim(self, _pad: int) -> None:
        self.trimmed += 1
        self.resident = 55 * MIB

    def pass_time(self, used_s: float) -> int:
        """How often memory was given back meanwhile."""
        before = self.trimmed
        self.used_s += used_s
        self.allocator.look(LOOK_EVERY_S)
        return self.trimmed - before


def test_memory_is_kept_while_there_is_work_and_given_back_once_when_there_is_none() -> None:
    process = Process()
    assert process.pass_time(0.01) == 0
    process.resident = 300 * MIB
    assert process.pass_time(4.0) == 0
    assert process.pass_time(0.3) == 0
    assert process.pass_time(0.01) == 1
    assert process.pass_time(0.01) == 0


def test_a_little_is_not_worth_it() -> None:
    process = Process()
    process.resident += 10 * MIB
    assert process.pass_time(0.0) == 0
    process.resident = 30 * MIB  # others have given it back: from now on this is little
    assert process.pass_time(0.0) == 0
    process.resident += 20 * MIB
    assert process.pass_time(0.0) == 1


PROGRAM = """
import asyncio, sys
from zserve.nodes import allocator
from zserve.nodes.allocator import tend_memory, resident_bytes

async def main():
    allocator.LOOK_EVERY_S = 0.05
    tend_memory()
    before = resident_bytes()
    bodies = [bytearray(b"x") * (1 << 20) for _ in range(100)]
    most = resident_bytes()
    last = bytearray(1 << 20)  # lies behind them: what is freed before it is not at the end of the heap
    del bodies
    while resident_bytes() > before + (most - before) // 4:
        await asyncio.sleep(0.05)
    print(most - before >= 90 << 20)

asyncio.run(asyncio.wait_for(main(), 60))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_an_idle_process_becomes_small_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_set_malloc_by_hand_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from zserve.nodes import allocator

    monkeypatch.setenv(name, "1")
    assert allocator._configure(user_code=False) is None


_ARENAS = """
import asyncio, ctypes, threading
from zserve.nodes.allocator import tend_memory

async def run():
    tend_memory(user_code={user_code})
    kept = []
    threads = [threading.Thread(target=lambda: kept.append(bytearray(100_000))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ctypes.CDLL(None).malloc_stats()

asyncio.run(run())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="not glibc")
@pytest.mark.parametrize("user_code", [False, True])
def test_threads_have_arenas_of_their_own_only_where_user_code_runs(user_code: bool) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES" and not name.startswith("MALLOC_")
    }
    code = _ARENAS.format(user_code=user_code)
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment
    ).stderr
    assert (told.count("\nArena") + told.startswith("Arena") > 1) is user_code, told

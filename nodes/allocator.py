"""What glibc's malloc does with the memory of large bodies.

It gives freed memory back to the kernel at once when there is much at the end of the heap, and takes it again for the
next body, page by page: with uploads of 1 MiB that is half of a gateway's processor time, with 8 MiB two thirds.  So a
node keeps up to :data:`KEEP_BYTES` for the next bodies, and gives them back when it has nothing to do.

Where no user code runs, all threads share one arena: what ZeroMQ's thread has allocated and the event loop's frees is
then used again at once, while it is in the processor's caches (uploads of 1 MiB: 1.03 times as many).  User code may
have threads that allocate all the time, and would be in the way of each other.

See mallopt(3).  Elsewhere than on glibc nothing is changed, nor where MALLOC_ variables or GLIBC_TUNABLES say what to
do.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["KEEP_BYTES", "Allocator", "resident_bytes", "tend_memory"]

KEEP_BYTES = 256 << 20
LARGE_BLOCK_BYTES = 32 << 20
"""Larger blocks come from the kernel and return to it, one by one; the most that mallopt takes."""
LOOK_EVERY_S = 5.0
IDLE_SHARE = 0.05
"""Of one processor: a node that used less since the last look has nothing to do."""
WORTH_BYTES = 16 << 20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


class Allocator:
    """Gives memory back when the process is idle; *trim* does it, the other two say what the process uses."""

    def __init__(
        self,
        trim: Callable[[int], Any],
        resident_bytes: Callable[[], int],
        processor_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._trim = trim
        self._resident_bytes = resident_bytes
        self._processor_s = processor_s
        self._used_s = processor_s()
        self._low = resident_bytes()

    def look(self, passed_s: float) -> None:
        """Call it now and then; *passed_s*: since the last time, or the start."""
        used_s = self._processor_s()
        idle = used_s - self._used_s < IDLE_SHARE * passed_s
        self._used_s = used_s
        resident = self._resident_bytes()
        if resident < self._low:
            self._low = resident
        elif idle and resident > self._low + WORTH_BYTES:
            self._trim(0)
            self._used_s = self._processor_s()
            self._low = self._resident_bytes()


def tend_memory(*, user_code: bool = False) -> None:
    """Have this process keep freed memory while it is busy, and give it back when it is not; call it on the loop,
    before there are other threads.  *user_code*: it runs some."""
    trim = _configure(user_code)
    if trim is None:
        return
    allocator, loop = Allocator(trim, resident_bytes), asyncio.get_running_loop()

    def look() -> None:
        allocator.look(LOOK_EVERY_S)
        loop.call_later(LOOK_EVERY_S, look)

    loop.call_later(LOOK_EVERY_S, look)


def _configure(user_code: bool) -> Callable[[int], Any] | None:
    """malloc_trim, where there is one and nobody else has a say."""
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return None
    if any(name.startswith("MALLOC_") for name in os.environ):
        return None
    import ctypes

    libc = ctypes.CDLL(None)
    mallopt, trim = getattr(libc, "mallopt", None), getattr(libc, "malloc_trim", None)
    if mallopt is None or trim is None:
        return None
    mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
    if not user_code:
        mallopt(_M_ARENA_MAX, 1)
    return trim  # type: ignore[no-any-return]


def resident_bytes(pid: int | str = "self") -> int:
    """What a process has in memory; Linux only."""
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

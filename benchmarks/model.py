"""The work that the workloads ask for, the same file for every system: it is copied beside each app.

Only the standard library, so that it can be imported in any environment.  Run as a program it is the *bare loop*, the
limit that no server can beat: the same function called with full batches in one process.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

BATCH_S = 0.005
ITEM_S = 0.0001
MAX_BATCH = 32

# The last of a wait is spent awake, because a sleep ends a little late: by 50 us that the kernel allows itself (which
# can be turned off, thread by thread), and by what it takes to get going again.
_AWAKE_S = 0.00003
_PR_SET_TIMERSLACK = 29
_thread = threading.local()

# While this file exists, a batch costs twice as much.
_DOUBLED = os.environ.get("BENCHMARK_DOUBLED", "")


def wait(seconds: float) -> None:
    """Return *seconds* from now, to some microseconds; like a model on an accelerator it leaves the processor free."""
    end = time.perf_counter() + seconds
    if not hasattr(_thread, "exact"):
        _thread.exact = True
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    if seconds > _AWAKE_S:
        time.sleep(seconds - _AWAKE_S)
    while time.perf_counter() < end:
        pass


def predict(items: list[dict[str, int]]) -> list[dict[str, int]]:
    """A batch of {"n": 3} to a batch of {"double": 6}, in 5 ms + 0.1 ms an item."""
    seconds = BATCH_S + ITEM_S * len(items)
    if _DOUBLED and os.path.exists(_DOUBLED):
        seconds *= 2.0
    wait(seconds)
    return [{"double": 2 * item["n"]} for item in items]


def weigh(body: bytes) -> dict[str, object]:
    """What an upload is answered with."""
    return {"bytes": len(body), "ends": [body[0], body[-1]]}


def bare_loop(seconds: float) -> float:
    """Items a second."""
    items = [{"n": number} for number in range(MAX_BATCH)]
    done = 0
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        predict(items)
        done += len(items)
    return done / (now - began)


if __name__ == "__main__":
    print(bare_loop(float(sys.argv[1])))

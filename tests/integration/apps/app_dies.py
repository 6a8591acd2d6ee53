"""A handler that ends its process in all the ways in which that happens, or stands still."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

MEGABYTE = 1_000_000


def doomed(request):
    """Does what ``how`` says, if the file ``once`` is there, which it removes first; answers with its process id."""
    once = Path(request.args["once"])
    if "how" in request.args and once.exists():
        once.unlink()
        END[request.args["how"]]()
    return str(os.getpid())


def stands_still(request):
    """Does not return while the file is there."""
    while Path(request.args["while"]).exists():
        time.sleep(0.01)
    return str(os.getpid())


def _takes_all_memory():
    taken = []
    while True:
        taken.append(bytearray(b"x") * (10 * MEGABYTE))


END = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(7),
    "sys.exit": lambda: sys.exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "memory": _takes_all_memory,
}

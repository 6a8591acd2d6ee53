"""A handler that does what extensions in C sometimes do."""

from __future__ import annotations

import ctypes


def hello():
    return "hello"


def keeps_the_interpreter(request):
    """Sleeps without letting go of the interpreter lock, so that nothing else in the process runs."""
    ctypes.PyDLL(None).usleep(int(float(request.args["s"]) * 1e6))
    return "done"

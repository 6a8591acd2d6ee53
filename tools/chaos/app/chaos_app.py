"""Backends that leave a line in a ledger for each time that a request is run.

One file for each process, opened to append, one ``write`` a run before anything else happens: what a process had begun
when it was killed is in it.
"""

from __future__ import annotations

import os
import time

import zserve as serve

PIECES = 8
_ledger: list[int] = []


def note(key):
    if not _ledger:
        path = os.path.join(os.environ["CHAOS_LEDGER"], f"{os.getpid()}.ledger")
        _ledger.append(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.write(_ledger[0], f"{key}\n".encode())


def key_of(request):
    return request.get_data(as_text=True) if request.method == "POST" else request.args["id"]


def look(request):
    note(key_of(request))
    time.sleep(0.002)
    return key_of(request)


def mark(request):
    note(key_of(request))
    time.sleep(0.01)
    return key_of(request)


@serve.accept_batch
def batch(requests):
    for request in requests:
        note(key_of(request))
    time.sleep(0.004 + 0.001 * len(requests))
    return [key_of(request) for request in requests]


def stream(request):
    key = key_of(request)

    def pieces():
        note(key)
        for number in range(PIECES):
            yield f"{key} {number}\n"
            time.sleep(0.02)

    return pieces()

"""Handlers whose answers come in pieces.  Files in the folder given by the request are how tests and handlers meet."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

from werkzeug.wrappers import Response

PART = b"x" * 100_000
PARTS = 500


def _wait_for(path: Path, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.005)


def text():
    yield "one "
    yield "two "
    yield "thrée"


async def later():
    for number in range(3):
        await asyncio.sleep(0)
        yield b"%d;" % number


def nothing():
    return iter(())


def gated(request):
    """The second item is produced only once the client has said that it has the first."""
    folder = Path(request.args["folder"])
    yield "first"
    _wait_for(folder / "got-first")
    yield "second"


async def gated_async(request):
    folder = Path(request.args["folder"])
    yield "first"
    await asyncio.to_thread(_wait_for, folder / "got-first")
    yield "second"


def events(request):
    def produce():
        for number in range(3):
            yield f"data: {number}\n\n"

    return Response(produce(), mimetype="text/event-stream")


async def events_async():
    async def produce():
        for number in range(3):
            await asyncio.sleep(0.01)
            yield f"id: {number}\ndata: {number}\n\n"

    return produce(), 200, {"content-type": "text/event-stream", "cache-control": "no-cache"}


async def silent_events():
    """Connected, and then nothing for ever."""

    async def produce():
        await asyncio.Event().wait()
        yield "never"

    return Response(produce(), mimetype="text/event-stream")


def created():
    return (part for part in ("a", "b")), 201, {"x-kind": "streamed"}


def large():
    for _ in range(PARTS):
        yield PART


async def large_async():
    for _ in range(PARTS):
        yield PART


def one_large():
    yield memoryview(bytes(10_000_000))


def breaks():
    yield "good"
    raise RuntimeError("this generator breaks")


async def breaks_async():
    yield "good"
    raise RuntimeError("this generator breaks")


def fails_first():
    raise RuntimeError("this generator fails before it yields")
    yield "never"


def wrong_item():
    yield "good"
    yield {"not": "bytes"}


def endless(request):
    """Leaves a file when it is closed, with the thread in which that was done."""
    folder = Path(request.args["folder"])
    try:
        (folder / "started").write_text(str(threading.get_ident()))
        while True:
            yield b"y" * 1000
    finally:
        (folder / "closed").write_text(str(threading.get_ident()))


async def endless_async(request):
    folder = Path(request.args["folder"])
    try:
        (folder / "started").write_text(str(threading.get_ident()))
        while True:
            yield b"y" * 1000
            await asyncio.sleep(0.001)
    finally:
        (folder / "closed").write_text(str(threading.get_ident()))


async def waiting_async(request):
    """Yields once and waits; only a cancelled wait can end it."""
    folder = Path(request.args["folder"])
    try:
        yield "first"
        await asyncio.Event().wait()
    finally:
        with contextlib.suppress(OSError):
            (folder / "closed").write_text("closed")


def dies(request):
    import os
    import signal

    yield "good"
    _wait_for(Path(request.args["folder"]) / "got-first")
    os.kill(os.getpid(), signal.SIGKILL)
    yield "never"


def slow_first(request):
    time.sleep(float(request.args["s"]))
    yield "late"


def past_deadline(request):
    """Goes on for longer than its deadline."""
    for number in range(6):
        yield f"{number} "
        time.sleep(0.1)


class Producer:
    """50 MB for everyone who asks, and how much of it has been produced by now."""

    def __init__(self):
        self.produced_bytes = 0

    async def __call__(self):
        for _ in range(PARTS):
            self.produced_bytes += len(PART)
            yield PART

    def produced(self):
        return self.produced_bytes

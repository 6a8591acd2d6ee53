"""Around a run: a folder, a bar on a terminal, signals that end it, logs that are kept."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from zserve.nodes.descriptors import raise_open_files

from benchmarks.progress import Progress
from zserve.errors import ServeWarning

from .errors import ChaosError

__all__ = ["whole_run"]

_T = TypeVar("_T")
_Say = Callable[[str], None]


def whole_run(
    name: str, steps: int, keep_logs: Path | None, begin: Callable[[Path, _Say, _Say], Coroutine[Any, Any, _T]]
) -> _T | None:
    """What *begin* returns, which is given a folder, and whom to tell what happens and each of *steps*.

    None if it was interrupted or failed, which has been told then.  Whatever happens, nothing is left but the logs.
    """
    if not sys.platform.startswith("linux"):
        print(f"{name}: needs Linux, which tells who is at the other end of a unix socket", file=sys.stderr)
        return None
    warnings.simplefilter("ignore", ServeWarning)  # "not confirmed by": of course not
    raise_open_files()  # requests pile up while a gateway stands still
    progress = Progress(steps, sys.stderr)
    begin_s = time.monotonic()

    def say(text: str) -> None:
        progress.say(f"{time.monotonic() - begin_s:6.1f} s  {text}")

    def tick(text: str) -> None:
        if sys.stderr.isatty():  # in a pipe it is enough to hear what happens
            progress.done(text)

    with tempfile.TemporaryDirectory(prefix="zchaos-") as folder:
        try:
            return _interruptible(begin(Path(folder), say, tick))
        except ChaosError as error:
            say(f"{name}: {error}")
        except asyncio.CancelledError:
            say(f"{name}: interrupted; all of it has been ended")
        finally:
            progress.close()
            if keep_logs is not None:
                ignore = shutil.ignore_patterns("run", "router-?", "*.pub", "way-*")
                shutil.copytree(folder, keep_logs, dirs_exist_ok=True, ignore=ignore)
    return None


def _interruptible(main: Coroutine[Any, Any, _T]) -> _T:
    """Run it on an event loop; a signal cancels it, and it cleans up."""

    async def run() -> _T:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))  # calls wait for nodes that are gone
        task = asyncio.ensure_future(main)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())

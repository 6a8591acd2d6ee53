"""The event loop as the shell of a node uses it; and one whose callbacks all come under a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, Protocol

__all__ = ["Loop", "SharedLoop"]


class Loop(Protocol):
    """That part of :class:`asyncio.AbstractEventLoop`."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle: ...

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> object: ...

    def remove_reader(self, fd: int) -> bool: ...

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]: ...


class SharedLoop:
    """Calls back under *lock*, so that another thread which holds that has the node to itself.

    That thread may use :meth:`call_soon` too; all else belongs to the loop's own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lock: RLock) -> None:
        self._loop = loop
        self._lock = lock
        self._thread = get_ident()

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        with self._lock:
            callback(*args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        if get_ident() == self._thread:
            return self._loop.call_soon(self._call, callback, *args)
        return self._loop.call_soon_threadsafe(self._call, callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object:
        return self._loop.call_soon_threadsafe(self._call, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, self._call, callback, *args)

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> object:
        return self._loop.add_reader(fd, self._call, callback, *args)

    def remove_reader(self, fd: int) -> bool:
        return self._loop.remove_reader(fd)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """*func* is not called under the lock."""
        return self._loop.run_in_executor(executor, func, *args)

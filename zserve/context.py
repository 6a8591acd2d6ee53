"""``serve.context``: what a handler may ask about the call that it is in.

``web``: True when the call came over HTTP (in a batch: when all of its calls did); False outside of a handler.
``batch_size``: how many requests the handler was given (1 for one that takes a single request); None outside of one.

They are read like plain attributes and are right under concurrency, in threads and in coroutines: behind them is a
context variable, set once for each run.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .wire.messages import FLAG_WEB

if TYPE_CHECKING:
    from .handler.runs import Run

    web: bool
    batch_size: int | None

__all__ = ["batch_size", "current_run", "web"]

current_run: ContextVar[Run | None] = ContextVar("zserve_run", default=None)
"""The run that the current thread or coroutine is in; set by the executor."""


def __getattr__(name: str) -> Any:
    if name == "web":
        run = current_run.get()
        return run is not None and all(call.flags & FLAG_WEB for call in run.calls)
    if name == "batch_size":
        run = current_run.get()
        return None if run is None else len(run.calls)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""The life of a stateful backend: constructed, configured, asked how it is, closed.

All of it happens in the thread that runs sync calls.  Hooks may be sync or async; an async one runs on the event loop,
and the thread waits for it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..errors import ApplicationError
from .frames import user_traceback

__all__ = ["call_hook", "check_health", "close", "construct", "reconfigure"]

Loop = asyncio.AbstractEventLoop


def construct(
    target: type, backend: str, init_args: Sequence[Any], init_kwargs: Mapping[str, Any], loop: Loop | None
) -> Any:
    """An instance of *target*.  ``async def __init__`` is awaited, as in Ray Serve.

    Raises ApplicationError with the user's traceback when the constructor fails."""
    try:
        initialize: Callable[..., Any] = target.__dict__.get("__init__") or getattr(target, "__init__")  # noqa: B009
        if not inspect.iscoroutinefunction(initialize):
            return target(*init_args, **init_kwargs)
        instance: Any = target.__new__(target, *init_args, **init_kwargs)
        _settle(initialize(instance, *init_args, **init_kwargs), loop)
        return instance
    except (Exception, SystemExit) as error:
        text = f"constructing backend {backend!r} ({target.__qualname__}) failed:\n{user_traceback(error)}"
        raise ApplicationError(text) from error


def reconfigure(instance: Any, backend: str, user_config: Any, loop: Loop | None) -> None:
    """Give *user_config* to the instance's ``reconfigure``.  Raises ApplicationError, also if there is none."""
    hook = getattr(instance, "reconfigure", None)
    if hook is None:
        if user_config is None:
            return
        name = type(instance).__qualname__
        raise ApplicationError(
            f"backend {backend!r} has a user_config, but {name} has no reconfigure(config) to take it"
        )
    try:
        _settle(hook(user_config), loop)
    except (Exception, SystemExit) as error:
        text = f"reconfigure() of backend {backend!r} failed:\n{user_traceback(error)}"
        raise ApplicationError(text) from error


def check_health(instance: Any, loop: Loop | None) -> tuple[str, str]:
    """Ask the instance's ``check_health``: what is wrong in one line, and the traceback of what it raised; both are ""
    if it is well or has no such method."""
    hook = getattr(instance, "check_health", None)
    if hook is None:
        return "", ""
    try:
        answer = _settle(hook(), loop)
    except BaseException as error:
        first_line = str(error).strip().partition("\n")[0][:500]
        return f"check_health() raised {type(error).__name__}: {first_line}", user_traceback(error)
    return "check_health() returned False" if answer is False else "", ""


def close(instance: Any, loop: Loop | None) -> str:
    """Call the instance's ``close``, if it has one that takes no arguments; what went wrong, or ""."""
    hook = getattr(instance, "close", None)
    if not callable(hook):
        return ""
    return call_hook(hook, loop)


def call_hook(hook: Callable[[], Any], loop: Loop | None) -> str:
    """Call it; the traceback of what it raised, or ""."""
    try:
        _settle(hook(), loop)
    except BaseException as error:
        return user_traceback(error)
    return ""


def _settle(value: Any, loop: Loop | None) -> Any:
    """What a hook gave, awaited on the loop if it is awaitable."""
    if not inspect.isawaitable(value):
        return value
    if loop is None:
        raise RuntimeError("there is no event loop to run an async hook on")
    awaitable: Awaitable[Any] = value

    async def settle() -> Any:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(settle(), loop).result()

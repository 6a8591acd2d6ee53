"""The hooks of stateful backends, sync and async."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from zserve.errors import ApplicationError
from zserve.handler.invoke import Handler

from .samples import held


def handler_of(target: Any, *args: Any, **kwargs: Any) -> Handler:
    """Made in a thread beside a loop, as in a replica."""

    async def main() -> Handler:
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(Handler, target, "b", args, kwargs, loop=loop)

    return asyncio.run(main())


def beside_a_loop(handler: Handler, function: Any) -> Any:
    async def main() -> Any:
        handler.loop = asyncio.get_running_loop()
        return await asyncio.to_thread(function)

    return asyncio.run(main())


class Later:
    async def __init__(self, size: int, *, fail: bool = False) -> None:  # type: ignore[misc]
        await asyncio.sleep(0)
        if fail:
            raise RuntimeError("no weights")
        self.size = size
        self.closed = False

    async def reconfigure(self, config: Any) -> None:
        await asyncio.sleep(0)
        self.config = config

    async def check_health(self) -> bool:
        await asyncio.sleep(0)
        return bool(self.config != "ill")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed = True

    def __call__(self) -> Any:
        return [self.size, self.config]


def test_async_hooks() -> None:
    handler = handler_of(Later, 3)
    instance = handler.instance
    beside_a_loop(handler, lambda: handler.reconfigure("well"))
    assert handler.run([held()])[0][3] == b'[3,"well"]'  # type: ignore[index]
    assert handler.checks_health
    assert beside_a_loop(handler, handler.check_health) == ""
    instance.config = "ill"
    assert beside_a_loop(handler, handler.check_health) == "check_health() returned False"
    beside_a_loop(handler, handler.close)
    assert instance.closed


def test_an_async_constructor_that_fails() -> None:
    with pytest.raises(ApplicationError, match="no weights") as raised:
        handler_of(Later, 3, fail=True)
    assert "test_lifecycle.py" in str(raised.value), "the user's traceback"


def test_a_check_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Ill:
        def __call__(self) -> None:
            pass

        def check_health(self) -> None:
            raise ConnectionError("the database\nis gone")

    assert Handler(Ill, "b").check_health() == "check_health() raised ConnectionError: the database"
    assert "is gone" in caplog.text, "all of it, with the traceback, is in the log"


def test_whatever_else_a_check_returns_is_fine() -> None:
    class Well:
        def __call__(self) -> None:
            pass

        def check_health(self) -> Any:
            return 0

    assert Handler(Well, "b").check_health() == ""
    assert not Handler(lambda: None, "b").checks_health


def test_close_ends_the_instance(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    class Closing:
        def __init__(self) -> None:
            self.myself = self

        def __call__(self) -> str:
            return "x"

        def other(self) -> str:
            return "y"

        def close(self) -> None:
            told.append("close")
            raise RuntimeError("it was locked")

        def __del__(self) -> None:
            told.append("del")

    handler = Handler(Closing, "b")
    handler.run([held(method="other")])
    alive = weakref.ref(handler.instance)
    gc.freeze()  # as a replica does once it is constructed
    handler.close()
    assert told == ["close", "del"]
    assert alive() is None
    assert "it was locked" in caplog.text


def test_close_of_a_function_does_nothing() -> None:
    handler = Handler(lambda: "still there", "b")
    handler.close()
    assert handler.run([held()])[0][3] == b"still there"  # type: ignore[index]

"""Backends that call each other."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any

import zserve as serve


@dataclass
class Order:
    item: str
    count: int = 1


class OutOfStock(Exception):
    def __init__(self, order: Order) -> None:
        super().__init__(f"no {order.item} left", order)
        self.order = order


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


serve.register_type(Money, lambda money: money.cents, Money)


def echo(request: Any) -> Any:
    return request.data


def look(request: Any, **kwargs: Any) -> Any:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return {
        "data": request.data if not serve.context.web else "over http",
        "kwargs": kwargs,
        "method": request.method,
        "headers": headers,
        "web": serve.context.web,
    }


def view(request: Any) -> Any:
    return [request.json, dict(request.args), dict(request.form), request.args.get("n", type=int)]


def fail(request: Any) -> Any:
    raise OutOfStock(request.data)


def fail_locally(request: Any) -> Any:
    class HiddenError(Exception):
        pass

    raise HiddenError("nobody can import me")


def unsendable(request: Any) -> Any:
    return {"x": [object()]}


def items(request: Any) -> Any:
    for number in range(3):
        yield (number, {number})


async def items_async() -> Any:
    for number in range(3):
        yield number
        await asyncio.sleep(0)


def slow(request: Any) -> str:
    time.sleep(float(request.data or 0))
    return "slow"


def die() -> None:
    os._exit(7)


def starts_another() -> str:
    serve.init()
    return "?"


class Counter:
    """No ``__call__``: its methods are called by name."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, request: Any, by: int = 1) -> int:
        self.count += by
        return self.count

    async def later(self, request: Any) -> Any:
        await asyncio.sleep(0)
        return request.data

    def _private(self, request: Any) -> str:
        return "private"


class Shop:
    """Asks others, blocking."""

    def __init__(self) -> None:
        self.look = serve.get_handle("look")
        self.inner = serve.get_handle("fail", missing_ok=True)

    def __call__(self, request: Any) -> Any:
        return self.look.remote("from the shop").result()

    def fails(self, request: Any) -> Any:
        return self.inner.remote(Order("tea", 3)).result()


async def fan_out(request: Any) -> Any:
    handle = serve.get_handle("echo")
    answers = [handle.remote(number) for number in range(5)]
    total = handle.remote(answers)
    return [await total, await asyncio.gather(*answers)]


async def ask_look() -> Any:
    return await serve.get_handle("look").remote("from a coroutine")


def circle(request: Any) -> Any:
    """Calls the one that calls it: with one replica, nobody is left to answer."""
    return serve.get_handle("circle_too").remote(request.data).result()


def circle_too(request: Any) -> Any:
    return serve.get_handle("circle").remote(request.data).result()


def unknown(request: Any) -> Any:
    return serve.get_handle("no such endpoint")


@serve.accept_batch
def together(requests: Any, n: Any = None) -> Any:
    """What each request was, its keyword, and what was in the batch."""
    found: list[Any] = []
    batch = [str(request.data) for request in requests]
    for index, request in enumerate(requests):
        number = n[index] if n else None
        if number == -1:
            found.append(ValueError("minus one"))
        else:
            found.append([str(request.data), number, batch])
    return found

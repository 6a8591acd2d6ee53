"""Handlers and calls for the tests of this folder."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from zserve.handler import runs
from zserve.handler.runs import HeldCall, Run
from zserve.handles.kinds import KIND_VALUE
from zserve.handles.values import unpack
from zserve.http.answers import Answer
from zserve.http.head import RequestHead, encode_head
from zserve.wire.messages import FLAG_WEB

_numbers = itertools.count(1)


def held(
    body: bytes = b"",
    *,
    method: str = "",
    web: bool = True,
    params: dict[str, Any] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    query: bytes = b"",
    kwargs: dict[str, Any] | None = None,
    head: bytes | None = None,
    deadline: float = float("inf"),
) -> HeldCall:
    """One call as the core would hold it."""
    number = next(_numbers)
    if head is None:
        packed = msgspec.msgpack.encode(kwargs) if kwargs else b""
        head = encode_head(RequestHead("POST", "/p", query, headers or [], params or {}, "1.2.3.4:5", kwargs=packed))
    key = number.to_bytes(16, "big")
    return HeldCall(key, "e", FLAG_WEB if web else 0, method, head, body, deadline, 0.0, [b"peer"])


def run_of(*calls: HeldCall) -> Run:
    return runs.run_of(list(calls) or [held()])


def value_of(answer: Answer) -> Any:
    """What a call through a handle returned."""
    status, kind, head, body, _ = answer
    assert (status, kind) == (200, KIND_VALUE), answer
    return unpack(head, body)


class Counter:
    """A backend with methods of all sorts."""

    value = 3
    attribute_that_can_be_called = len

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.model = print

    def __call__(self, request: Any) -> int:
        self.count += 1
        return self.count

    def add(self, request: Any, by: int = 1) -> int:
        self.count += by
        return self.count

    async def later(self, request: Any) -> str:
        return "later"

    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    @staticmethod
    def fixed() -> str:
        return "fixed"

    @property
    def trap(self) -> Any:
        raise AssertionError("a property was evaluated")

    def _private(self) -> str:
        return "private"

    class Inner:
        pass


class Declared:
    """What a decorator may leave in the place of a function."""

    def __init__(self, target: Any) -> None:
        self.__zserve_target__ = target


def plain() -> str:
    return "plain"


declared = Declared(plain)
not_callable = 17

"""Types for the tests of this folder, importable by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Frozen:
    name: str
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Slotted:
    inner: Point
    doubled: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.doubled += 1  # would count again if it ran where the value is received


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


class Unknown:
    pass


class CodeError(Exception):
    """Its constructor does not take what ends up in ``args``."""

    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class CountedError(ValueError):
    made = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        type(self).made += 1

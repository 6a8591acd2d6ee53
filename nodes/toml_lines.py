"""On which line of a TOML file a table or key stands: ``tomllib`` does not tell.

A scan of the text, not a second parser: each line is tried as a table header or as the begin of ``key = value``, with
``tomllib`` itself as the judge.  What it cannot place (inside of an inline table) has the line of what is around it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

__all__ = ["TomlLines"]

_MULTI_LINE = ('"""', "'''")


class TomlLines:
    """The lines of *text*, which is valid TOML."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        inside = ""
        for number, line in enumerate(text.splitlines(), 1):
            if inside:
                inside = "" if inside in line else inside
                continue
            if line.lstrip().startswith("["):
                header = _path(line)
                if header:
                    table = header
                    self._note(table, number)
                    continue
            key = _key(line)
            if key:
                self._note((*table, *key), number)
            inside = next((mark for mark in _MULTI_LINE if line.count(mark) % 2), "")

    def _note(self, path: tuple[str, ...], number: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], number)

    def find(self, place: Sequence[str]) -> int:
        """The line (from 1) of *place*, or of the innermost thing around it that has one; 0 if none has."""
        for length in range(len(place), 0, -1):
            number = self._lines.get(tuple(place[:length]))
            if number is not None:
                return number
        return 0


def _path(text: str) -> tuple[str, ...]:
    """The path that *text*, TOML with one table or key in it, leads to; () if it is not that."""
    try:
        found: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(found, (dict, list)) and len(found) == 1:
        if isinstance(found, list):
            found = found[0]
            continue
        ((key, found),) = found.items()
        path.append(key)
    return tuple(path)


def _key(line: str) -> tuple[str, ...]:
    """The key that a line begins with: what stands before the first "=" that is not part of a quoted key."""
    at = line.find("=")
    while at >= 0:
        path = _path(line[:at] + "= 0")
        if path:
            return path
        at = line.find("=", at + 1)
    return ()

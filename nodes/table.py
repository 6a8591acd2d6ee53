"""Aligned columns for people, cut to the width of their terminal."""

from __future__ import annotations

import re
import shutil

__all__ = ["Table"]

_NUMBER = re.compile(r"-?[\d.,]+( ?(ms|s|%|/s))?|-")


class Table:
    """Rows under headings.  Columns of numbers are aligned to the right; the last column is cut where the line ends."""

    def __init__(self, *headings: str) -> None:
        self._rows = [headings]

    def add(self, *cells: object) -> None:
        """A row, one cell for each heading."""
        assert len(cells) == len(self._rows[0])
        self._rows.append(tuple(_one_line(str(cell)) for cell in cells))

    def __bool__(self) -> bool:
        return len(self._rows) > 1

    def render(self, *, indent: str = "", width: int | None = None) -> str:
        """The lines, joined.  *width* in columns; None finds out, and does not cut where there is no terminal."""
        width = shutil.get_terminal_size((10_000, 24)).columns if width is None else width
        columns = list(zip(*self._rows, strict=True))
        sizes = [max(map(len, column)) for column in columns]
        numeric = [all(_NUMBER.fullmatch(cell) for cell in column[1:] if cell) for column in columns]
        lines = []
        for row in self._rows:
            cells = [
                cell.rjust(size) if right else cell.ljust(size)
                for cell, size, right in zip(row, sizes, numeric, strict=True)
            ]
            line = (indent + "  ".join(cells)).rstrip()
            lines.append(line if len(line) <= width else line[: max(0, width - 1)] + "…")
        return "\n".join(lines)


def _one_line(text: str) -> str:
    """Control characters (a reason may hold anything) must not reach the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()

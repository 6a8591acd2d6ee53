"""What the user sees while it runs: a bar on a terminal, one line for each measurement elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

__all__ = ["Progress"]

_WIDTH = 24


class Progress:
    """*total* measurements to make; :meth:`working` says what is going on, :meth:`done` that one was made."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._stream = stream
        self._terminal = stream.isatty()
        self._done = 0
        self._began = time.monotonic()

    def working(self, text: str) -> None:
        if self._terminal:
            self._draw(text)

    def done(self, text: str, count: int = 1) -> None:
        self._done = min(self._total, self._done + count)
        if self._terminal:
            self._draw(text)
        else:
            print(f"[{self._done}/{self._total}] {text}", file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _draw(self, text: str) -> None:
        share = self._done / self._total if self._total else 1.0
        filled = int(share * _WIDTH)
        left = ""
        if 0 < self._done < self._total:
            seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
            left = f" {seconds / 60:.0f} min left" if seconds > 90 else f" {seconds:.0f} s left"
        line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {self._done}/{self._total}{left}  {text}"
        self._stream.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        self._stream.flush()

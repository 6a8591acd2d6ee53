"""Where log lines go: readable on a terminal, one JSON object a line anywhere else.

A log target that is full, stopped or closed must never stop a node from serving.  Lines are therefore written with
``os.write`` to a descriptor that is first asked whether it can take them; what it cannot take at once is dropped and
counted, and the count is told in the first line that gets through again.
"""

from __future__ import annotations

import json
import logging
import os
import select
import time
from typing import Any

__all__ = ["LEVELS", "JsonFormatter", "LineHandler", "TerminalFormatter", "configure"]

LEVELS = ("debug", "info", "warning", "error", "critical")

MAX_LINE_BYTES = 32 * 1024
"""Longer lines are cut (law 4: logs are bounded too)."""

_PIPE_ATOMIC_BYTES = 4096
"""What a pipe that polls as writable takes without blocking (PIPE_BUF on Linux)."""

_COLOURS = {"DEBUG": "2", "INFO": "", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(level: str = "info", *, name: str = "", fd: int = 2, terminal: bool | None = None) -> LineHandler:
    """Send the process's log to descriptor *fd*; *name* is the node's.  Replaces an earlier set-up.

    *terminal* says which form to use; None finds out.  Raises ValueError for an unknown level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"unknown log level {level!r}; the levels are: {', '.join(LEVELS)}")
    if terminal is None:
        terminal = _is_terminal(fd)
    handler = LineHandler(fd)
    colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    handler.setFormatter(TerminalFormatter(name, colour=colour) if terminal else JsonFormatter(name))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, LineHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # a record that cannot be formatted must not print a second traceback
    return handler


class LineHandler(logging.Handler):
    """Writes lines to a descriptor and never waits for it.  ``dropped``: lines lost since the last one that passed."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.dropped:
                text = f"{self.dropped} log lines were dropped because the log target did not take them"
                lost = logging.LogRecord("zserve.logs", logging.WARNING, "", 0, text, None, None)
                if self._write(self.format(lost)):
                    self.dropped = 0
            if self.dropped or not self._write(self.format(record)):
                self.dropped += 1
        except Exception:  # nothing that happens to a log line may reach the code that logged it
            self.dropped += 1

    def _write(self, text: str) -> bool:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > MAX_LINE_BYTES:
            data = data[:MAX_LINE_BYTES] + f" ... ({len(data)} bytes)".encode()
        data += b"\n"
        for start in range(0, len(data), _PIPE_ATOMIC_BYTES):
            if not self._ready():
                return False
            os.write(self.fd, data[start : start + _PIPE_ATOMIC_BYTES])
        return True

    def _ready(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        events = poll.poll(0)
        return bool(events) and bool(events[0][1] & select.POLLOUT)


class TerminalFormatter(logging.Formatter):
    """``12:34:56.789 router-1 warning text``."""

    def __init__(self, name: str = "", *, colour: bool = False) -> None:
        super().__init__()
        self._name = f" {name}" if name else ""
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f" {record.levelname.lower()}:"
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        line = f"{clock}.{int(record.msecs):03d}{self._name}{level} {text}"
        code = _COLOURS.get(record.levelname, "")
        return f"\x1b[{code}m{line}\x1b[0m" if self._colour and code else line


class JsonFormatter(logging.Formatter):
    """An object with time (seconds since the epoch), level, node, logger, message, traceback, and any ``extra``."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": round(record.created, 6), "level": record.levelname.lower()}
        if self._name:
            line["node"] = self._name
        line["logger"] = record.name
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in line:
                line[key] = value
        return json.dumps(line, default=str)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False

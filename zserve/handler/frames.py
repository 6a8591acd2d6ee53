"""Tracebacks as the author of a handler wants them: without the frames of the system that called it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

__all__ = ["user_traceback"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_NODES = os.path.join(os.path.dirname(os.path.dirname(_OURS)), "nodes") + os.sep
_LIMIT = 64 * 1024


def user_traceback(error: BaseException) -> str:
    """The formatted traceback of *error* and what it came from, trimmed to the user's frames.

    Leading frames of zserve and of the import system are left out; frames that come after the user's first one stay,
    even zserve's, because then the user's code called them.  At most 64 KiB, cut in the middle.
    """
    shown = traceback.TracebackException.from_exception(error, compact=True)
    for part in _chain(shown):
        frames = list(part.stack)
        while frames and _is_system(frames[0].filename):
            frames.pop(0)
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
        )
    text = "".join(shown.format())
    if len(text) > _LIMIT:
        text = text[: _LIMIT // 2] + "\n[...]\n" + text[-_LIMIT // 2 :]
    return text


def _is_system(filename: str) -> bool:
    return filename.startswith((_OURS, _NODES, "<frozen importlib")) or "/importlib/" in filename


def _chain(first: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    waiting, seen = [first], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [other for other in (part.__cause__, part.__context__) if other is not None]
        waiting += getattr(part, "exceptions", None) or []

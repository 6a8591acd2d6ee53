"""Whose code is calling: a warning should point at the user's line, a declaration belongs to the user's module."""

from __future__ import annotations

import os
import sys

__all__ = ["user_module", "user_stacklevel"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def user_stacklevel() -> int:
    """The ``stacklevel`` for a ``warnings.warn`` call in the caller that names the first frame outside of zserve."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level


def user_module() -> str:
    """``__name__`` of the first module on the stack that is not zserve's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "__main__"))

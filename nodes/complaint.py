"""How people are told that something went wrong."""

from __future__ import annotations

import sys

__all__ = ["complain"]


def complain(text: str) -> None:
    """Write an error line for people to standard error, if that still exists."""
    try:
        sys.stderr.write(f"zserve: error: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass

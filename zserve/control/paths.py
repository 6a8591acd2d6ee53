"""Which folders of ``sys.path`` every process of this Python has, and which ones the user added."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from functools import lru_cache

__all__ = ["interpreter_paths", "user_paths"]


@lru_cache(maxsize=1)
def interpreter_paths() -> frozenset[str]:
    """The standard library and the site-packages, as real paths."""
    named = sysconfig.get_paths()
    paths = [named[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [os.path.join(named["platstdlib"], "lib-dynload"), *site.getsitepackages(), site.getusersitepackages()]
    return frozenset(os.path.realpath(path) for path in paths)


def user_paths() -> list[str]:
    """The other folders on ``sys.path``, absolute and in order: where the workers are to find the user's code."""
    paths: list[str] = []
    for path in sys.path:
        absolute = os.path.abspath(path or os.getcwd())
        if os.path.isdir(absolute) and os.path.realpath(absolute) not in interpreter_paths() and absolute not in paths:
            paths.append(absolute)
    return paths

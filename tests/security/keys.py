"""Keys, and files of them, for tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zserve.security.identity import Security
from zserve.security.keys import KeyPair, has_curve
from zserve.security.known_keys import known_line, parse_known_keys
from zserve.security.watched import Watched

__all__ = ["needs_curve", "replace", "security_of", "table"]

needs_curve = pytest.mark.skipif(not has_curve(), reason="this build of pyzmq has no CURVE")


def table(*lines: tuple[str, KeyPair, str]) -> str:
    """A known-keys file: (roles, pair, name) a line."""
    return "".join(known_line(roles.split(","), pair.public, name) + "\n" for roles, pair, name in lines)


def replace(path: Path, text: str) -> None:
    """Change a file as deployment tools do: in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    os.replace(fresh, path)


def security_of(pair: KeyPair, path: Path) -> Security:
    return Security(pair, Watched(path, parse_known_keys, "the known-keys file"))

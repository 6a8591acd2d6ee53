"""What a wheel would hold, and the laws of the layout."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("zserve/**/*.py"), *ROOT.glob("nodes/**/*.py")])
PURE = [
    *ROOT.glob("zserve/cores/*.py"),
    *ROOT.glob("zserve/scheduling/*.py"),
    ROOT / "zserve/channel/links.py",
    *[ROOT / f"zserve/security/{name}.py" for name in ("guard", "known_keys", "roles", "tokens")],
]
FORBIDDEN = "asyncio concurrent multiprocessing os select socket subprocess threading time uvloop zmq"


def imports(path: Path) -> set[str]:
    """Names of the modules that *path* imports when it is loaded, absolute."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            prefix = ".".join(base[: len(base) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (prefix, node.module or "") if part)
            found.add(module)
    return found


def test_every_package_is_installed() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("zserve/**/__init__.py")}
    there |= {"zserve." + ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("nodes/**/__init__.py")}
    assert declared == there


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_cores_import_no_socket_clock_or_thread(path: Path) -> None:
    forbidden = set(FORBIDDEN.split())
    assert not {name.partition(".")[0] for name in imports(path)} & forbidden


def test_the_library_never_imports_the_programs() -> None:
    for path in ROOT.glob("zserve/**/*.py"):
        if path.name != "__main__.py":
            assert not any(name.startswith(("zserve.nodes", "nodes")) for name in imports(path)), path


def test_nothing_that_is_received_is_unpickled() -> None:
    """Only one file may load a pickle: the embedded fabric's private code files, never bytes from a socket."""
    allowed = {ROOT / "zserve/handler/load.py"}
    for path in SOURCES:
        text = path.read_text()
        if path not in allowed:
            for call in ("pickle.loads", "pickle.load(", "marshal.load", "dill.load"):
                assert call not in text, path

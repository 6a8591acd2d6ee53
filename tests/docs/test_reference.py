"""docs/reference.md is what the docstrings say, and tells about everything that users import."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import zserve as serve

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "reference"


def test_it_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_missing() -> None:
    loader = SourceFileLoader("reference_tool", str(TOOL))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    tool = module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(tool)
    finally:
        sys.dont_write_bytecode = before
    assert tool.named() == set(serve.__all__) - {"__version__"}

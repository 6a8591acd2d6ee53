"""A run directory of its own for each test, so that no test sees (or sweeps) a fabric of the developer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def run_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path, whose name may be longer than a socket's path is allowed to be.
    folder = Path(tempfile.mkdtemp(prefix="zs-", dir="/tmp"))
    base = folder / "run"
    monkeypatch.setenv("ZSERVE_RUN_DIR", str(base))
    for name in ("ZSERVE_ADDRESS", "ZSERVE_PORT", "ZSERVE_SLOTS", "ZSERVE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield base
    shutil.rmtree(folder, ignore_errors=True)

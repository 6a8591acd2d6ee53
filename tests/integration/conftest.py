from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fabric import Fabric


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """An empty fabric in a folder with a short name (ipc addresses have at most 107 characters)."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            yield fabric
        finally:
            fabric.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With each failure, what the nodes that run have logged."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [(f"logs of {fabric.folder}", fabric.logs()) for fabric in Fabric.running]

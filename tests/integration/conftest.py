from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fabric import Fabric


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """An empty fabric in a folder with a short name (ipc addresses have at most 107 characters)."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        try:
            yield fabric
        finally:
            fabric.close()
            outcome = getattr(request.node, "outcome_of_call", None)
            if outcome is not None and outcome.failed:
                print(fabric.logs())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.outcome_of_call = report

"""What docs/testing.md shows is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from zserve.testing import Cluster
from zserve.testing.faults import FAULTS, MIXES

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    space: dict[str, Any] = {"__name__": "docs_testing_example"}
    exec(compile(example, str(PAGE), "exec"), space)
    assert callable(space["test_greetings_survive_a_router"])


METHODS = ["send", "advance", "kill", "restart", "leave", "pause", "resume", "partition", "heal"]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_named_exists(name: str) -> None:
    assert f"`{name}" in PAGE.read_text()
    assert callable(getattr(Cluster, name))


def test_all_mixes_are_described() -> None:
    text = PAGE.read_text()
    assert [name for name in MIXES if name != "none" and f"| {name} |" not in text] == []
    assert set().union(*MIXES.values()) == set(FAULTS)

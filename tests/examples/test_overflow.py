from __future__ import annotations

import importlib.util
import random
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def of_the_example() -> Any:
    spec = importlib.util.spec_from_file_location("overflow", ROOT / "examples" / "overflow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Overflow


def of_the_docs() -> Any:
    (code,) = re.findall(r"```python\n(class Overflow:.*?)```", (ROOT / "docs" / "scheduling.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["Overflow"]


@pytest.mark.parametrize("overflow", [of_the_example(), of_the_docs()], ids=["example", "docs"])
def test_it_fills_the_backend_with_the_most_weight_first(overflow: Any) -> None:
    held = {"a": 0, "b": 0, "c": 0}
    policy = overflow({"a": 0.0, "b": 0.9, "c": 0.1}, random.Random(1), held.__getitem__, limit=3)
    chosen = ""
    for _ in range(12):
        name = policy.choose("")
        held[name] += 1
        chosen += name
    assert chosen == "bbbccc" + "aaa" + "bca"
    held["b"] = 0
    assert policy.choose("") == "b"


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be 1 or more, not 0"):
        of_the_example()({"a": 1.0}, random.Random(1), {}.__getitem__, limit=0)

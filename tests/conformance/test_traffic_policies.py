"""Traffic policies of the contract; shard keys are in ``test_http.py``.  Queueing policies: ``tests/scheduling``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import zserve as serve

from . import handlers

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def backends(url: str) -> Iterator[None]:
    for name in ("one", "two", "slow"):
        serve.create_backend(name, getattr(handlers, name))
    serve.create_endpoint("e")
    yield
    serve.delete_endpoint("e")


def draws(policy: str, count: int, traffic: dict[str, float], **policy_kwargs: Any) -> list[str]:
    serve.set_traffic("e", traffic, policy=policy, policy_kwargs=policy_kwargs)
    handle = serve.get_handle("e")
    return [handle.remote().result(30) for _ in range(count)]


def runs(found: list[str]) -> list[int]:
    return [len(list(run)) for _, run in itertools.groupby(found)]


def test_random() -> None:
    assert serve.status()["endpoints"]["e"]["policy"] == "random", "the default"
    shares = Counter(draws("random", 400, {"one": 0.75, "two": 0.25}))
    assert 55 <= shares["two"] <= 145  # 5 standard deviations


def test_round_robin() -> None:
    found = draws("round_robin", 40, {"one": 0.75, "two": 0.25})
    assert Counter(found) == {"one": 30, "two": 10}
    assert max(runs(found)) <= 4, "smooth"


def test_fixed_packing() -> None:
    found = draws("fixed_packing", 60, {"one": 0.5, "two": 0.5}, packing_num=5)
    assert all(length % 5 == 0 for length in runs(found))
    assert Counter(found) == {"one": 30, "two": 30}


def test_power_of_two() -> None:
    serve.set_traffic("e", {"one": 0.5, "slow": 0.5}, policy="power_of_two")
    handle = serve.get_handle("e")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: handle.remote().result(30), range(40)))
    assert found.count("one") > found.count("slept"), "the one with the shorter queue"

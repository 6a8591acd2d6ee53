from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.scheduling.traffic import (
    Backlog,
    Shadows,
    TrafficPolicy,
    check_proportion,
    check_weights,
    make_policy,
    resolve_policy,
)

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2, "off": 0.0}


def policy(name: str, weights: Mapping[str, float] = WEIGHTS, backlog: Backlog = lambda name: 0, **kwargs: Any
           ) -> TrafficPolicy:  # fmt: skip
    return make_policy(name, weights, random.Random(1), backlog, kwargs)


class OnlyLast:
    """A policy as a user may write one."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog, extra: str = "") -> None:
        self.name = extra or list(weights)[-1]

    def choose(self, shard: str) -> str:
        return self.name


NOT_A_POLICY = 3


@pytest.mark.parametrize("name", ["random", "round_robin", "power_of_two", "fixed_packing"])
def test_every_policy_keeps_to_the_weights(name: str) -> None:
    chosen = policy(name)
    drawn = Counter(chosen.choose("") for _ in range(20_000))
    assert set(drawn) == {"a", "b", "c"}
    for backend, weight in WEIGHTS.items():
        assert drawn[backend] / 20_000 == pytest.approx(weight, abs=0.015)


@pytest.mark.parametrize("name", ["random", "round_robin", "power_of_two", "fixed_packing"])
def test_one_backend_gets_everything(name: str) -> None:
    chosen = policy(name, {"off": 0.0, "only": 1.0})
    assert {chosen.choose(shard) for shard in ("", "", "k1", "k2")} == {"only"}


def test_round_robin_is_smooth() -> None:
    chosen = policy("round_robin", {"a": 5 / 7, "b": 1 / 7, "c": 1 / 7})
    drawn = [chosen.choose("") for _ in range(7 * 100)]
    assert Counter(drawn) == {"a": 500, "b": 100, "c": 100}
    longest = max(len(run) for run in "".join(drawn).replace("b", " ").replace("c", " ").split())
    assert longest <= 5


def test_power_of_two_prefers_the_shorter_queue() -> None:
    backlog = {"a": 100, "b": 0}
    drawn = Counter()
    chosen = policy("power_of_two", {"a": 0.5, "b": 0.5}, lambda name: backlog[name])
    for _ in range(4000):
        drawn[chosen.choose("")] += 1
    assert drawn["b"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_fixed_packing_sends_so_many_in_a_row() -> None:
    chosen = policy("fixed_packing", {"a": 0.5, "b": 0.5}, packing_num=4)
    drawn = [chosen.choose("") for _ in range(40)]
    assert all(len(set(drawn[at : at + 4])) == 1 for at in range(0, 40, 4))
    assert len(set(drawn)) == 2


@pytest.mark.parametrize(("packing", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_packing_is_named(packing: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(packing)):
        policy("fixed_packing", packing_num=packing)


def test_a_shard_key_goes_to_the_same_backend_whatever_the_policy_and_router() -> None:
    keys = [f"key-{index}" for index in range(500)]
    one = policy("random")
    two = make_policy("round_robin", dict(reversed(WEIGHTS.items())), random.Random(99), lambda name: 0)
    assert [one.choose(key) for key in keys] == [two.choose(key) for key in keys]


def test_shard_keys_keep_to_the_weights_and_few_move_when_these_change() -> None:
    keys = [f"key-{index}" for index in range(10_000)]
    before = {key: policy("random").choose(key) for key in keys}
    shares = Counter(before.values())
    for backend, weight in WEIGHTS.items():
        assert shares[backend] / len(keys) == pytest.approx(weight, abs=0.02)
    changed = policy("random", {"a": 0.4, "b": 0.3, "c": 0.3})
    moved = [key for key in keys if changed.choose(key) != before[key]]
    assert len(moved) / len(keys) < 0.15  # 0.1 has to move
    gone = policy("random", {"a": 0.5 / 0.8, "b": 0.3 / 0.8})
    assert all(gone.choose(key) == before[key] for key in keys if before[key] != "c")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=50))
def test_any_text_is_a_shard_key(key: str) -> None:
    assert policy("random").choose(key) in ("a", "b", "c")


def test_shadows_are_drawn_independently() -> None:
    shadows = Shadows({"x": 0.5, "y": 0.5, "z": 0.0, "w": 1.0}, random.Random(1))
    drawn = Counter(tuple(shadows.draw()) for _ in range(8000))
    assert set(drawn) == {("w",), ("x", "w"), ("y", "w"), ("x", "y", "w")}
    assert all(count / 8000 == pytest.approx(0.25, abs=0.02) for count in drawn.values())


def test_a_user_names_a_policy_of_his_own() -> None:
    assert policy(f"{__name__}:OnlyLast", {"a": 0.5, "b": 0.5}).choose("") == "b"
    assert policy(f"{__name__}:OnlyLast", {"a": 0.5, "b": 0.5}, extra="a").choose("") == "a"


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("fastest", ValueError, "'fastest'"),
        ("no.such.module:Class", ValueError, "no.such.module"),
        (f"{__name__}:Missing", ValueError, "Missing"),
        (f"{__name__}:NOT_A_POLICY", TypeError, "NOT_A_POLICY"),
        (":Class", ValueError, "':Class'"),
        (7, TypeError, "7"),
    ],
)
def test_bad_policies_are_named(name: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        resolve_policy(name)


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ({}, ValueError, "no backend"),
        ({"a": 0.5, "b": 0.4}, ValueError, "0.9"),
        ({"a": 1.00001}, ValueError, "1.00001"),
        ({"a": 1.5, "b": -0.5}, ValueError, "'b'.*-0.5"),
        ({"a": math.nan}, ValueError, "nan"),
        ({"a": math.inf}, ValueError, "inf"),
        ({"a": "1"}, TypeError, "'1'"),
        ({"a": True}, TypeError, "True"),
        ({1: 1.0}, TypeError, "1"),
        ({"stranger": 1.0}, ValueError, "'stranger'"),
        ([("a", 1.0)], TypeError, "dict"),
    ],
)
def test_bad_weights_are_named(weights: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        check_weights(weights, {"a": 1, "b": 2})


def test_good_weights_pass() -> None:
    assert check_weights({"a": 1}) == {"a": 1.0}
    assert check_weights({"a": 1 / 3, "b": 1 / 3, "c": 0.333334}) == {"a": 1 / 3, "b": 1 / 3, "c": 0.333334}
    with pytest.raises(ValueError, match="above 0"):
        policy("random", {"a": 0.0})


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_bad_proportions_are_named(bad: float) -> None:
    with pytest.raises(ValueError, match=str(bad)):
        check_proportion("a", bad)
    assert check_proportion("a", 1) == 1.0

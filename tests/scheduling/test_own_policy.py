from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from zserve.scheduling.own_policy import OwnPolicy, check_own_policy
from zserve.scheduling.traffic import Backlog, TrafficPolicy, resolve_policy

HERE = __name__
WEIGHTS = {"a": 0.75, "b": 0.25, "off": 0.0}


class Last:
    """A policy as a user may write one: the backend that comes last, even one without weight."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog, name: str = "") -> None:
        self.name = name or sorted(weights)[-1]

    def choose(self, shard: str) -> str:
        return self.name


class Moody(Last):
    """Raises for every second request."""

    asked = 0

    def choose(self, shard: str) -> str:
        self.asked += 1
        if self.asked % 2 == 0:
            raise KeyError("not in the mood")
        return "a"


class Leaving(Last):
    def choose(self, shard: str) -> str:
        raise SystemExit(3)


class Unhashable(Last):
    def choose(self, shard: str) -> Any:
        return ["a"]


class Nothing(Last):
    def choose(self, shard: str) -> Any:
        return None


class Vandal(Last):
    """Changes everything that it is given."""

    def __init__(self, weights: dict[str, float], rng: random.Random, backlog: Backlog, names: list[str]) -> None:
        weights.clear()
        names.clear()
        rng.seed(1)

    def choose(self, shard: str) -> str:
        return "a"


class NotMade(Last):
    def __init__(self, *args: Any) -> None:
        raise RuntimeError("no such file:\n  weights.csv")


class NoPolicy:
    pass


def own(name: str, said: list[str], /, **kwargs: Any) -> OwnPolicy:
    return OwnPolicy(f"{HERE}:{name}", WEIGHTS, random.Random(1), lambda name: 0, kwargs, resolve_policy, said.append)


def test_it_chooses_among_all_that_the_endpoint_names() -> None:
    said: list[str] = []
    policy = own("Last", said)
    assert {policy.choose("") for _ in range(10)} == {"off"}
    assert own("Last", said, name="b").choose("") == "b"
    assert (policy.fallbacks, policy.fault, said) == (0, "", [])


def test_what_raises_is_counted_told_once_and_replaced_by_weight() -> None:
    said: list[str] = []
    policy = own("Moody", said)
    chosen = Counter(policy.choose("") for _ in range(4000))
    assert policy.fallbacks == 2000
    assert chosen["a"] + chosen["b"] == 4000
    assert chosen["b"] == pytest.approx(500, abs=80), "a quarter of those that it failed for"
    assert said == [policy.fault]
    assert f"'{HERE}:Moody' failed: KeyError: 'not in the mood' ({__file__}:" in policy.fault


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Leaving", "failed: SystemExit: 3"),
        ("Unhashable", "failed: TypeError: unhashable type: 'list'"),
        ("Nothing", "chose None, which is none of 'a', 'b', 'off'"),
        ("NotMade", "cannot be made: RuntimeError: no such file: weights.csv ("),
        ("NoPolicy", "is not a class with a method choose"),
        ("Absent", "cannot be imported: AttributeError"),
    ],
)
def test_whatever_goes_wrong_a_request_gets_a_backend(name: str, says: str) -> None:
    said: list[str] = []
    policy = own(name, said)
    assert {policy.choose("") for _ in range(100)} == {"a", "b"}
    assert policy.fallbacks == 100
    assert len(said) == 1
    assert says in said[0]
    assert f"'{HERE}:{name}'" in said[0]
    with pytest.raises(ValueError, match="traffic policy") as refused:
        check_own_policy(f"{HERE}:{name}", WEIGHTS, {}, lambda name: 0, resolve_policy)
    assert says in str(refused.value)


def test_a_module_that_does_not_import_is_no_policy(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text, says in (
        ("own_policy_broken", "1 / 0", "ZeroDivisionError: division by zero"),
        ("own_policy_exits", "raise SystemExit('bye')", "SystemExit: bye"),
        ("own_policy_typo", "class P(:", "SyntaxError"),
        ("own_policy_absent", None, "No module named 'own_policy_absent'; every router needs it, see --app-dir"),
    ):
        if text is not None:
            (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(ValueError, match="cannot be imported") as caught:
            check_own_policy(f"{name}:P", {}, {}, lambda name: 0, resolve_policy)
        assert says in str(caught.value)


def test_a_module_that_was_put_there_later_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="cannot be imported"):
        check_own_policy("own_policy_late:P", {}, {}, lambda name: 0, resolve_policy)
    (tmp_path / "own_policy_late.py").write_text("class P:\n    def choose(self, shard): ...\n")
    check_own_policy("own_policy_late:P", {}, {}, lambda name: 0, resolve_policy)


def test_settings_that_it_does_not_take_are_told_before_it_is_used() -> None:
    check_own_policy(f"{HERE}:Last", WEIGHTS, {"name": "b"}, lambda name: 0, resolve_policy)
    with pytest.raises(ValueError, match=r"cannot be made: TypeError: .* unexpected keyword argument 'limit'"):
        check_own_policy(f"{HERE}:Last", WEIGHTS, {"limit": 1}, lambda name: 0, resolve_policy)
    with pytest.raises(ValueError, match="chose 'c', which is none of"):
        check_own_policy(f"{HERE}:Last", WEIGHTS, {"name": "c"}, lambda name: 0, resolve_policy)


def test_it_cannot_change_what_it_is_given() -> None:
    weights, kwargs = dict(WEIGHTS), {"names": ["x"]}
    rng = random.Random(1)
    expected = random.Random(1)
    expected.getrandbits(64)
    policy: TrafficPolicy = OwnPolicy(
        f"{HERE}:Vandal", weights, rng, lambda name: 0, kwargs, resolve_policy, lambda fault: None
    )
    assert policy.choose("") == "a"
    assert (weights, kwargs) == (WEIGHTS, {"names": ["x"]})
    assert rng.random() == expected.random(), "its random numbers are its own"

"""INTERIM (founder): replace this file by the real one; keep these three names: TrafficPolicy, Shadows, make_policy."""
from __future__ import annotations
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

class TrafficPolicy(Protocol):
    def choose(self, shard: str) -> str: ...

class _Random:
    def __init__(self, weights: Mapping[str, float], rng: random.Random) -> None:
        self._names = [n for n, w in weights.items() if w > 0]
        self._weights = [weights[n] for n in self._names]
        self._rng = rng
    def choose(self, shard: str) -> str:
        return self._rng.choices(self._names, self._weights)[0] if len(self._names) > 1 else self._names[0]

class Shadows:
    def __init__(self, proportions: Mapping[str, float], rng: random.Random) -> None:
        self._p = dict(proportions)
        self._rng = rng
    def draw(self) -> list[str]:
        return [n for n, p in self._p.items() if self._rng.random() < p]

def make_policy(name: str, weights: Mapping[str, float], rng: random.Random, backlog: Callable[[str], int], kwargs: Mapping[str, Any]) -> TrafficPolicy:
    return _Random(weights, rng)

"""Which backend gets a request: the traffic policies of an endpoint, and its shadows.

A policy is a class that is made with (weights, rng, backlog, **kwargs) and has one method, ``choose(shard)``.  It is
named by a short name or as "package.module:Class", which is how a user supplies one (:mod:`.own_policy` sees to it that
no request is lost to it)::

    class Cheapest:
        def __init__(self, weights, rng, backlog): ...
        def choose(self, shard): ...

A shard key overrules the policy: the same key goes to the same backend (weighted rendezvous hashing; Thaler and
Ravishankar 1998, weights by Schindelhauer and Schomaker 2005), so a change of weights moves as few keys as possible,
and every router agrees.
"""

from __future__ import annotations

import bisect
import hashlib
import importlib
import itertools
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = [
    "POLICIES",
    "Backlog",
    "FixedPacking",
    "PolicyLoader",
    "PowerOfTwo",
    "RandomByWeight",
    "RoundRobin",
    "Shadows",
    "ShardKey",
    "TrafficPolicy",
    "check_proportion",
    "check_weights",
    "make_policy",
    "resolve_policy",
]

WEIGHT_TOLERANCE = 1e-6

Backlog = Callable[[str], int]
"""Requests that this router holds for a backend, queued and in flight."""


class TrafficPolicy(Protocol):
    """Draws the backend of each request.  Anything with this method will do."""

    def choose(self, shard: str) -> str:
        """The backend of the next request; *shard* is its shard key, "" for none."""
        ...


def check_weights(weights: Mapping[str, float], known: Mapping[str, Any] | None = None) -> dict[str, float]:
    """The weights as floats.  Raises TypeError or ValueError that names what is wrong: nothing given, a weight that is
    not a number, negative or not finite, a sum other than 1 (tolerance 1e-6), a backend that is not in *known*."""
    if not isinstance(weights, Mapping):
        raise TypeError(f"traffic must be a dict of backend to weight, not {weights!r}")
    if not weights:
        raise ValueError("traffic names no backend")
    for name, weight in weights.items():
        if not isinstance(name, str):
            raise TypeError(f"traffic: a backend must be named by a string, not {name!r}")
        if known is not None and name not in known:
            raise ValueError(f"traffic: unknown backend {name!r}")
        _check_share(f"traffic: the weight of {name!r}", weight)
    total = math.fsum(weights.values())
    if abs(total - 1.0) > WEIGHT_TOLERANCE:
        raise ValueError(f"traffic: the weights must sum to 1, these sum to {total:.9g}: {dict(weights)!r}")
    return {name: float(weight) for name, weight in weights.items()}


def check_proportion(name: str, proportion: float) -> float:
    """A shadow's share as a float between 0 and 1; raises TypeError or ValueError naming it."""
    _check_share(f"shadow: the proportion of {name!r}", proportion)
    if proportion > 1:
        raise ValueError(f"shadow: the proportion of {name!r} must be between 0 and 1, not {proportion!r}")
    return float(proportion)


def _check_share(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{what} must be 0 or more, not {value!r}")


class RandomByWeight:
    """Each request drawn by weight, independently of all others."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog) -> None:
        self._names = [name for name, weight in weights.items() if weight > 0]
        self._sums = list(itertools.accumulate(weights[name] for name in self._names))
        self._rng = rng

    def choose(self, shard: str) -> str:
        names = self._names
        if len(names) == 1:
            return names[0]
        at = bisect.bisect_right(self._sums, self._rng.random() * self._sums[-1])
        return names[min(at, len(names) - 1)]


class RoundRobin:
    """Smooth weighted round robin (nginx): no run of one backend is longer than its weight calls for."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._total = math.fsum(self._weights.values())
        # Routers that all begin with the same backend would beat in step.
        self._current = {name: rng.random() * weight for name, weight in self._weights.items()}

    def choose(self, shard: str) -> str:
        current = self._current
        best, most = "", -math.inf
        for name, weight in self._weights.items():
            credit = current[name] + weight
            current[name] = credit
            if credit > most:
                best, most = name, credit
        current[best] = most - self._total
        return best


class PowerOfTwo:
    """Two drawn by weight, the one with the shorter queue gets it (Mitzenmacher 2001)."""

    def __init__(self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog) -> None:
        self._draw = RandomByWeight(weights, rng, backlog).choose
        self._backlog = backlog

    def choose(self, shard: str) -> str:
        one, two = self._draw(""), self._draw("")
        return two if one != two and self._backlog(two) < self._backlog(one) else one


class FixedPacking:
    """*packing_num* requests in a row for one backend, then the next, by smooth weighted round robin."""

    def __init__(
        self, weights: Mapping[str, float], rng: random.Random, backlog: Backlog, packing_num: int = 3
    ) -> None:
        if isinstance(packing_num, bool) or not isinstance(packing_num, int):
            raise TypeError(f"packing_num must be a whole number, not {packing_num!r}")
        if packing_num < 1:
            raise ValueError(f"packing_num must be 1 or more, not {packing_num!r}")
        self._next = RoundRobin(weights, rng, backlog)
        self._each = packing_num
        self._left = 0
        self._name = ""

    def choose(self, shard: str) -> str:
        if not self._left:
            self._name = self._next.choose("")
            self._left = self._each
        self._left -= 1
        return self._name


class ShardKey:
    """The same key to the same backend; requests without a key go by *otherwise*."""

    def __init__(self, weights: Mapping[str, float], otherwise: TrafficPolicy) -> None:
        self._weights = [(name.encode(), name, weight) for name, weight in weights.items() if weight > 0]
        self._otherwise = otherwise

    def choose(self, shard: str) -> str:
        if not shard or len(self._weights) == 1:
            return self._otherwise.choose(shard)
        key = shard.encode("utf-8", "surrogatepass")
        best, most = "", -math.inf
        for salt, name, weight in self._weights:
            digest = hashlib.blake2b(key, digest_size=8, key=salt[:64]).digest()
            uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
            score = -weight / math.log(uniform) if uniform < 1.0 else math.inf
            if score > most:
                best, most = name, score
        return best


class Shadows:
    """Which backends get a copy of a request: each drawn by itself, independently of the split and of each other."""

    def __init__(self, proportions: Mapping[str, float], rng: random.Random) -> None:
        self._proportions = [(name, share) for name, share in proportions.items() if share > 0]
        self._rng = rng

    def draw(self) -> list[str]:
        draw = self._rng.random
        return [name for name, share in self._proportions if draw() < share]


PolicyLoader = Callable[[str], Callable[..., TrafficPolicy]]
"""From the name of a policy to its class, such as :func:`resolve_policy`."""

POLICIES: dict[str, Callable[..., TrafficPolicy]] = {
    "random": RandomByWeight,
    "round_robin": RoundRobin,
    "power_of_two": PowerOfTwo,
    "fixed_packing": FixedPacking,
}


def resolve_policy(name: str) -> Callable[..., TrafficPolicy]:
    """The class of a policy, by short name or "package.module:Class".

    Raises ValueError when there is no such policy or its module cannot be imported, whatever that raises, and TypeError
    when what is named has no ``choose``.
    """
    if not isinstance(name, str):
        raise TypeError(f"a traffic policy must be named by a string, not {name!r}")
    known = POLICIES.get(name)
    if known is not None:
        return known
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(f"unknown traffic policy {name!r}; known: {', '.join(POLICIES)}, or 'package.module:Class'")
    importlib.invalidate_caches()  # the module may have been put there since this program started
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        hint = "; every router needs it, see --app-dir" if isinstance(error, ModuleNotFoundError) else ""
        text = f"traffic policy {name!r} cannot be imported: {type(error).__name__}: {error}{hint}"
        raise ValueError(text) from error
    if not callable(found) or not callable(getattr(found, "choose", None)):
        raise TypeError(f"traffic policy {name!r} is not a class with a method choose(shard)")
    made: Callable[..., TrafficPolicy] = found
    return made


def make_policy(
    name: str,
    weights: Mapping[str, float],
    rng: random.Random,
    backlog: Backlog,
    kwargs: Mapping[str, Any] | None = None,
) -> TrafficPolicy:
    """The policy of an endpoint, shard keys included.

    At least one weight must be above 0; they need not sum to 1 here (see :func:`check_weights`).  Raises as
    :func:`resolve_policy`, and TypeError or ValueError for *kwargs* that the policy does not take.
    """
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError(f"traffic: no backend has a weight above 0: {dict(weights)!r}")
    return ShardKey(weights, resolve_policy(name)(weights, rng, backlog, **(kwargs or {})))

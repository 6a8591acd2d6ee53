"""A traffic policy that a user supplies: tried before it is written, and never relied on for a request.

It runs in the router for every request of its endpoint.  Whatever it does there, the request gets a backend: where the
policy cannot be made, raises, or names something that is no backend of the endpoint, the backend is drawn by weight.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

from .traffic import Backlog, PolicyLoader, RandomByWeight

__all__ = ["OwnPolicy", "check_own_policy"]

_FAILURES = (Exception, SystemExit)  # code that means to end its program must not end a router


def check_own_policy(
    name: str, weights: Mapping[str, float], kwargs: Mapping[str, Any], backlog: Backlog, load: PolicyLoader
) -> None:
    """Import policy *name*, make it for these *weights* and let it choose once.

    Without weights there is nothing to choose from yet, and it is imported only.  Raises TypeError or ValueError that
    names the policy and says why it is of no use.
    """
    if not weights:
        load(name)
        return
    policy = OwnPolicy(name, weights, random.Random(0), backlog, kwargs, load, lambda fault: None)
    policy.choose("")
    if policy.fault:
        raise ValueError(policy.fault)


class OwnPolicy:
    """Policy *name* of *weights*, and by weight at random wherever that fails.

    fallbacks: requests that it failed for.  fault: why it failed first, "" while it has not; *complain* is told that,
    once.
    """

    __slots__ = ("_choose", "_complain", "_draw", "_name", "_weights", "fallbacks", "fault")

    def __init__(
        self,
        name: str,
        weights: Mapping[str, float],
        rng: random.Random,
        backlog: Backlog,
        kwargs: Mapping[str, Any],
        load: PolicyLoader,
        complain: Callable[[str], None],
    ) -> None:
        self.fallbacks = 0
        self.fault = ""
        self._name = name
        self._complain = complain
        self._weights = weights
        self._draw = RandomByWeight(weights, rng, backlog).choose
        self._choose: Callable[[str], str] | None = None
        try:
            made = load(name)
        except (TypeError, ValueError) as error:
            self._failed(str(error))
            return
        try:
            # It is given copies, for the originals are what the registry holds, and random numbers of its own.
            own = random.Random(rng.getrandbits(64))
            self._choose = made(dict(weights), own, backlog, **copy.deepcopy(dict(kwargs))).choose
        except _FAILURES as error:
            self._failed(f"traffic policy {name!r} cannot be made: {_told(error)}")

    def choose(self, shard: str) -> str:
        if self._choose is not None:
            try:
                chosen = self._choose(shard)
                if chosen in self._weights:
                    return chosen
                if not self.fault:
                    among = ", ".join(map(repr, self._weights))
                    self._failed(f"traffic policy {self._name!r} chose {chosen!r:.200}, which is none of {among}")
            except _FAILURES as error:
                if not self.fault:
                    self._failed(f"traffic policy {self._name!r} failed: {_told(error)}")
        self.fallbacks += 1
        return self._draw(shard)

    def _failed(self, fault: str) -> None:
        self.fault = fault
        self._complain(fault)


def _told(error: BaseException) -> str:
    """In one line, with the place in the user's file."""
    text = f"{type(error).__name__}: {' '.join(str(error).split()):.300}".removesuffix(": ")
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        place = "" if file == __file__ else f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return text + place

"""The endpoints as the data path needs them: who gets the next request of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ..registry.registry import Registry
from ..registry.values import EndpointValue
from ..scheduling.traffic import Shadows, TrafficPolicy, make_policy

__all__ = ["Endpoint", "EndpointTable"]


class Endpoint:
    """One endpoint's traffic: a policy over its weights, and shadows beside it."""

    __slots__ = ("_policy", "_shadows", "value")

    def __init__(self, value: EndpointValue, rng: random.Random, backlog: Callable[[str], int]) -> None:
        self.value = value
        self._policy: TrafficPolicy | None = None
        if any(weight > 0 for weight in value.traffic.values()):
            self._policy = make_policy(value.policy, value.traffic, rng, backlog, value.policy_kwargs)
        self._shadows = Shadows(value.shadows, rng) if value.shadows else None

    def choose(self, shard: str) -> str | None:
        """The backend of the next request; None if there is no traffic set."""
        return None if self._policy is None else self._policy.choose(shard)

    def draw_shadows(self) -> list[str]:
        """The backends that get a copy of it."""
        return [] if self._shadows is None else self._shadows.draw()


class EndpointTable:
    """All endpoints; follows the registry when :meth:`rebuild` is called."""

    def __init__(self, registry: Registry, rng: random.Random, backlog: Callable[[str], int]) -> None:
        self.generation = -1
        self._registry = registry
        self._rng = rng
        self._backlog = backlog
        self._endpoints: dict[str, Endpoint] = {}

    def get(self, name: str) -> Endpoint | None:
        return self._endpoints.get(name)

    def rebuild(self) -> None:
        """Take in what has changed.  An endpoint that has not keeps its policy, and so its place in a rotation."""
        self.generation = self._registry.generation
        endpoints = {}
        for name, value in self._registry.endpoints().items():
            known = self._endpoints.get(name)
            if known is None or known.value != value:
                known = Endpoint(value, random.Random(self._rng.getrandbits(64)), self._backlog)
            endpoints[name] = known
        self._endpoints = endpoints

    def backends(self) -> Iterator[tuple[str, list[str]]]:
        """(endpoint, the backends that get its requests) of those that have traffic."""
        for name, endpoint in self._endpoints.items():
            backends = [backend for backend, weight in endpoint.value.traffic.items() if weight > 0]
            if backends:
                yield name, backends

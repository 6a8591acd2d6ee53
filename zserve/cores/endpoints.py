"""The endpoints as the data path needs them: who gets the next request of each."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..registry.registry import Registry
from ..registry.values import ENDPOINT, POLICIES, EndpointValue, check_policy
from ..scheduling.own_policy import OwnPolicy, check_own_policy
from ..scheduling.traffic import Backlog, PolicyLoader, Shadows, ShardKey, TrafficPolicy, make_policy, resolve_policy

__all__ = ["Endpoint", "EndpointTable"]

MAX_NOTICES = 64


class Endpoint:
    """One endpoint's traffic: a policy over its weights, and shadows beside it.

    only: the one backend that all requests go to, "" where there is a choice.  watches: whether the policy may look at
    how much each has before it.  shadowed: whether there are shadows.
    """

    __slots__ = ("_own", "_policy", "_shadows", "only", "shadowed", "value", "watches")

    def __init__(
        self,
        value: EndpointValue,
        rng: random.Random,
        backlog: Backlog,
        load: PolicyLoader,
        complain: Callable[[str], None],
    ) -> None:
        self.value = value
        self._policy: TrafficPolicy | None = None
        self._own: OwnPolicy | None = None
        self.only = ""
        traffic = value.traffic
        chosen = [name for name, weight in traffic.items() if weight > 0]
        if chosen:
            if value.policy in POLICIES:
                self.only = chosen[0] if len(chosen) == 1 else ""
                self._policy = make_policy(value.policy, traffic, rng, backlog, value.policy_kwargs)
            else:
                self._own = OwnPolicy(value.policy, traffic, rng, backlog, value.policy_kwargs, load, complain)
                self._policy = ShardKey(traffic, self._own)
        self.watches = not self.only and (self._own is not None or value.policy == "power_of_two")
        self._shadows = Shadows(value.shadows, rng) if value.shadows else None
        self.shadowed = self._shadows is not None

    @property
    def fallbacks(self) -> int:
        """Requests that went by weight because the user's own policy failed."""
        return 0 if self._own is None else self._own.fallbacks

    @property
    def fault(self) -> str:
        """Why it failed first; "" while it has not."""
        return "" if self._own is None else self._own.fault

    def choose(self, shard: str) -> str | None:
        """The backend of the next request; None if there is no traffic set."""
        return None if self._policy is None else self._policy.choose(shard)

    def draw_shadows(self) -> list[str]:
        """The backends that get a copy of it."""
        return [] if self._shadows is None else self._shadows.draw()


class EndpointTable:
    """All endpoints; follows the registry when :meth:`rebuild` is called.

    load: imports a policy that a user has supplied by name; router: the name of this router, for people.  notices: what
    is worth a line in the log, for the shell to take; the latest 64.
    """

    def __init__(
        self,
        registry: Registry,
        rng: random.Random,
        backlog: Backlog,
        load: PolicyLoader = resolve_policy,
        router: str = "",
    ) -> None:
        self.generation = -1
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._registry = registry
        self._rng = rng
        self._backlog = backlog
        self._load = load
        self._router = router
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
                known = self._made(name, value)
            endpoints[name] = known
        self._endpoints = endpoints

    def _made(self, name: str, value: EndpointValue) -> Endpoint:
        def complain(fault: str) -> None:
            self.notices.append(f"endpoint {name!r} shares its requests by weight at random instead: {fault}")

        return Endpoint(value, random.Random(self._rng.getrandbits(64)), self._backlog, self._load, complain)

    def vet(self, key: str, value: Any) -> None:
        """Try the policy of an endpoint that is to be written, if it is a user's own.

        Raises ValueError that says why it is of no use here.  What the endpoint has already is not tried again: a
        shadow can be set through a router that cannot import the policy.
        """
        if not key.startswith(ENDPOINT) or value.policy in POLICIES:
            return
        before = self._registry.endpoint(key[len(ENDPOINT) :])
        if before is None or _traffic(before) != _traffic(value):
            self._try(value.policy, value.traffic, value.policy_kwargs)

    def check_policy(self, name: str, kwargs: Mapping[str, Any]) -> None:
        """The same for the policy of endpoints that are still to come."""
        check_policy(name, kwargs)
        if name not in POLICIES:
            self._try(name, {}, kwargs)

    def _try(self, name: str, weights: Mapping[str, float], kwargs: Mapping[str, Any]) -> None:
        try:
            check_own_policy(name, weights, kwargs, self._backlog, self._load)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error} (tried by router {self._router!r})") from error

    def backends(self) -> Iterator[tuple[str, list[str]]]:
        """(endpoint, the backends that get its requests) of those that have traffic."""
        for name, endpoint in self._endpoints.items():
            backends = [backend for backend, weight in endpoint.value.traffic.items() if weight > 0]
            if backends:
                yield name, backends


def _traffic(value: EndpointValue) -> tuple[object, ...]:
    return value.policy, value.policy_kwargs, value.traffic

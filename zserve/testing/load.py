"""What goes on in a simulated fabric while faults happen: requests, and people who change the config."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ..errors import Refusal
from .clients import Call, SimClient
from .gateways import SimGateway

if TYPE_CHECKING:
    from .fabric import SimFabric

__all__ = ["NotWorking", "Operators", "RequestLoad"]


class NotWorking(AssertionError):
    """Something failed although nothing had gone wrong yet."""


class RequestLoad:
    """Open loop: each gateway gets requests at *rate* a second, whatever becomes of the earlier ones.

    idempotent: the share of requests that may be run twice.
    """

    def __init__(self, fabric: SimFabric, rng: random.Random, rate: float, idempotent: float = 0.5) -> None:
        self.opened = 0
        self.refused = 0
        self._fabric = fabric
        self._rng = rng
        self._rate = rate
        self._idempotent = idempotent
        self._until = 0.0

    def run(self, gateway: SimGateway, until: float) -> None:
        """Send to *gateway* until the virtual second *until*."""
        self._until = until
        self._fabric.clock.after(self._rng.expovariate(self._rate), self._next, gateway, until)

    def _next(self, gateway: SimGateway, until: float) -> None:
        if self._fabric.clock.now >= until:
            return
        if gateway.alive:
            gateway.hub.deliver(self._send, gateway)
        self._fabric.clock.after(self._rng.expovariate(self._rate), self._next, gateway, until)

    def _send(self, gateway: SimGateway) -> None:
        rng = self._rng
        endpoints = list(gateway.sync.registry.endpoints())
        if not endpoints or gateway.leaving:
            return
        body = b"%d" % self.opened
        budget_s = rng.choice((0.1, 0.3, 1.0, 3.0))
        idempotent, shard = rng.random() < self._idempotent, str(rng.randrange(9))
        sent = gateway.request(rng.choice(endpoints), body, budget_s, idempotent=idempotent, shard=shard)
        if isinstance(sent, Refusal):
            self.refused += 1
        else:
            self.opened += 1


class Operators:
    """Control clients that change everything that can be changed, at random, through random routers.

    backends: the names in use.  calls: all that was asked.
    """

    def __init__(self, fabric: SimFabric, rng: random.Random, clients: list[SimClient]) -> None:
        self.calls: list[Call] = []
        self._fabric = fabric
        self._rng = rng
        self._clients = clients
        self._serial = 0

    # --- the start ----------------------------------------------------------------------------------------------------

    def prepare(self, backends: int, endpoints: int, replicas: int) -> None:
        """Create backends and endpoints, one after the other, and wait until they are there.

        Raises NotWorking if that does not work while nothing is wrong.
        """
        rng = self._rng
        for number in range(backends):
            batch = rng.random() < 0.4
            config: dict[str, Any] = {"num_replicas": rng.randint(1, replicas)}
            if batch:
                config["max_batch_size"] = rng.choice((2, 4, 8))
                config["batch_wait_timeout"] = rng.choice((0.0, 0.01))
            args: dict[str, Any] = {"name": f"backend-{number}", "code": "app:run", "version": "1", "config": config}
            args["batchable"] = batch
            self._do("create_backend", args)
        for number in range(endpoints):
            name = f"endpoint-{number}"
            self._do("create_endpoint", {"name": name, "route": f"/{number}", "methods": ["GET", "POST"]})
            self._do("set_traffic", {"endpoint": name, "traffic": self._weights(backends)})

    def _do(self, op: str, args: dict[str, Any]) -> None:
        client = self._clients[0]
        ended: list[Call] = []
        linked = self._fabric.run_until(lambda: bool(client.linked()), 5.0)
        call = client.call(op, args, on_end=ended.append)
        if not linked or call is None:
            raise NotWorking("a client has no link with any router")
        self.calls.append(call)
        self._fabric.run_until(lambda: bool(ended), 10.0)
        if call.state != "ok":
            raise NotWorking(f"{op} {args}: {call.state} {call.text}")

    def _weights(self, backends: int) -> dict[str, float]:
        chosen = self._rng.sample(range(backends), self._rng.randint(1, backends))
        if len(chosen) == 1:
            return {f"backend-{chosen[0]}": 1.0}
        first = self._rng.randint(1, 99)
        rest = (100 - first) / 100 / (len(chosen) - 1)
        return {f"backend-{n}": first / 100 if n == chosen[0] else rest for n in chosen}

    # --- the turmoil --------------------------------------------------------------------------------------------------

    def run(self, until: float, every_s: float, backends: int, endpoints: int) -> None:
        """Change something every *every_s* seconds on average until the virtual second *until*."""
        self._fabric.clock.after(self._rng.expovariate(1.0 / every_s), self._next, until, every_s, backends, endpoints)

    def _next(self, until: float, every_s: float, backends: int, endpoints: int) -> None:
        if self._fabric.clock.now >= until:
            return
        # Now and then several at once, about the same thing, through several routers.
        op, args = self._change(backends, endpoints)
        self._ask(op, args)
        if self._rng.random() < 0.3:
            self._ask(*self._same_again(op, args, backends))
        self.run(until, every_s, backends, endpoints)

    def _ask(self, op: str, args: dict[str, Any]) -> None:
        client = self._rng.choice(self._clients)
        call = client.call(op, args)
        if call is not None:
            self.calls.append(call)
            self._fabric.note("write", f"call {call.id}@{client.name}", f"{op} {args}")

    def _change(self, backends: int, endpoints: int) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        self._serial += 1
        endpoint, backend = f"endpoint-{rng.randrange(endpoints)}", f"backend-{rng.randrange(backends)}"
        extra = f"extra-{rng.randrange(3)}"
        dice = rng.random()
        if dice < 0.30:
            return "set_traffic", {"endpoint": endpoint, "traffic": self._weights(backends)}
        if dice < 0.50:
            return "update_backend_config", {"name": backend, "config": {"user_config": self._serial}}
        if dice < 0.58:
            return "update_backend_config", {"name": backend, "config": {"num_replicas": rng.randint(1, 3)}}
        if dice < 0.66:
            return "shadow_traffic", {"endpoint": endpoint, "backend": backend, "proportion": rng.choice((0.0, 0.5))}
        if dice < 0.70:
            args = {"name": backend, "code": "app:run", "version": f"v{self._serial}"}
            return "update_backend", args
        if dice < 0.80:
            return "create_endpoint", {"name": extra, "route": f"/{extra}", "methods": ["GET"], "backend": backend}
        if dice < 0.90:
            return "delete_endpoint", {"name": extra}
        if dice < 0.95:
            return "create_backend", {"name": extra, "code": "app:extra", "version": f"v{self._serial}"}
        return "delete_backend", {"name": extra}

    def _same_again(self, op: str, args: dict[str, Any], backends: int) -> tuple[str, dict[str, Any]]:
        """A change that contradicts the one just made."""
        self._serial += 1
        if op == "set_traffic":
            return op, {**args, "traffic": self._weights(backends)}
        if op == "update_backend_config":
            return op, {**args, "config": {"user_config": -self._serial}}
        if op == "create_endpoint":
            return "delete_endpoint", {"name": args["name"]}
        if op == "delete_endpoint":
            name = args["name"]
            return "create_endpoint", {"name": name, "route": f"/{name}", "methods": ["GET"], "backend": "backend-0"}
        return op, args

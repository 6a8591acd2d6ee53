"""Changes of the config while all goes on, and what it has to be in the end.

One write after the other, to any router that runs.  One that was acknowledged is in force, until the next one.  Of
one that was not (its router died, or did not answer in time) nobody can say when it takes effect, if ever: until the
end its value stays possible beside the last one that was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from zserve.errors import ServeError

from .nodes import Fabric

__all__ = ["ABSENT", "Writer", "config_of"]

EVERY_S = 1.0
CALL_S = 15.0
KNOWN_S = 20.0
ABSENT = "absent"


class Writer:
    """possible: what each record may be in the end; the last element is what was acknowledged last."""

    def __init__(self, fabric: Fabric, rng: random.Random, cut: Callable[[], bool]) -> None:
        """*cut*: whether some nodes do not hear each other."""
        self.possible: dict[str, list[Any]] = {}
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._fabric = fabric
        self._rng = rng
        self._cut = cut
        self._made = 0
        self._stopped = False
        self._history: dict[str, list[str]] = {}
        self._erasable: list[tuple[float, str]] = []  # since when they are there

    async def run(self) -> None:
        """Write now and then, until stopped."""
        self.possible = {key: [value] for key, value in (await config_of(self._fabric, 0)).items()}
        while not self._stopped:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * EVERY_S)
            up = [number for number, node in enumerate(self._fabric.routers) if node.up]
            if up:
                await self.write(self._rng.choice(up))

    def stop(self) -> None:
        """No further write; one that is under way goes on to its end."""
        self._stopped = True

    async def write(self, router: int) -> None:
        """One write, at this router."""
        draw = self._rng.random()
        if draw < 0.5:
            # Never the same twice: a write that changes nothing where it is made is none.
            weight = self._rng.randrange(1_000_001)
            traffic = {"look": weight / 1e6, "look:b": (1_000_000 - weight) / 1e6}
            await self._call(router, "set_traffic", "traffic of look", traffic, endpoint="look", traffic=traffic)
        elif draw < 0.7:
            limit = self._rng.randrange(1_000, 1_000_000)
            await self._call(
                router,
                "update_backend_config",
                "queue of mark",
                limit,
                name="mark",
                config={"max_queued_requests": limit},
            )
        elif draw < 0.85 and self._may_erase():
            # A delete that finds nothing to delete is no write: by now all routers know that it is there.
            _, name = self._erasable.pop(0)
            await self._call(router, "delete_endpoint", f"endpoint {name}", ABSENT, name=name)
        else:
            self._made += 1
            name = f"extra{self._made}"
            made = await self._call(
                router,
                "create_endpoint",
                f"endpoint {name}",
                f"/{name}",
                name=name,
                route=f"/{name}",
                methods=["GET"],
                backend="look",
            )
            if made and not self._cut():
                self._erasable.append((time.monotonic(), name))

    def _may_erase(self) -> bool:
        return bool(self._erasable) and not self._cut() and time.monotonic() - self._erasable[0][0] > KNOWN_S

    async def _call(self, router: int, op: str, key: str, value: Any, **args: Any) -> bool:
        possible = self.possible.setdefault(key, [ABSENT])
        name, begin_s = self._fabric.routers[router].name, time.monotonic()

        def note(outcome: str) -> None:
            self.counts[outcome.partition(":")[0]] += 1
            took_s = time.monotonic() - begin_s
            self._history.setdefault(key, []).append(f"{begin_s:.2f} s {value!r} at {name}, {outcome}, {took_s:.2f} s")

        try:
            await self._fabric.call(op, args, router=router, timeout_s=CALL_S)
        except (TypeError, ValueError, KeyError) as error:
            note(f"refused: {error}")
            self.unexpected.append(f"{op} {key} at {name}: {error}")
            return False
        except (ServeError, OSError) as error:
            note(f"not acknowledged: {error}")
            possible.insert(0, value)
            return False
        note("acknowledged")
        possible.pop()  # what was in force is overwritten; what nobody has heard of may still come
        possible.append(value)
        return True

    def check(self, config: Mapping[str, Any]) -> list[str]:
        """What of *config* (see :func:`config_of`) was never written, or was overwritten."""
        wrong = list(self.unexpected)
        for key, possible in self.possible.items():
            if config.get(key, ABSENT) not in possible:
                writes = "; ".join(self._history.get(key, [])[-6:])
                wrong.append(
                    f"{key} is {config.get(key, ABSENT)!r}; it may be one of {possible}; the last writes: {writes}"
                )
        wrong += [f"{key} is there, and nobody wrote it" for key in sorted(config.keys() - self.possible.keys())]
        return wrong


async def config_of(fabric: Fabric, router: int) -> dict[str, Any]:
    """What this router holds of what the writer writes.  Raises ServeError."""
    endpoints = await fabric.call("list_endpoints", {}, router=router, timeout_s=CALL_S)
    backends = await fabric.call("list_backends", {}, router=router, timeout_s=CALL_S)
    found: dict[str, Any] = {f"endpoint {name}": one["route"] for name, one in endpoints.items()}
    found["traffic of look"] = endpoints["look"]["traffic"]
    found["queue of mark"] = backends["mark"]["config"]["max_queued_requests"]
    return found

"""Whether a backend has room, and whether this router can tell.

A router may know of fewer worker nodes than there are: it has just started, they are just joining, or a publication of
another router got lost.  So what seems to fit nowhere is refused only by a router that has asked the others whom they
see, and that no worker node has come to for a moment; until then the call waits, for some seconds at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..channel.outbox import Outbox, Peer
from ..config import parse_backend_config
from ..registry.changes import values_after
from ..registry.placement import CannotPlace, check_placeable, unplaceable
from ..registry.sync import ConfigSync
from ..registry.values import BackendValue
from ..wire.messages import Control

__all__ = ["QUIET_S", "WAIT_S", "Placing"]

QUIET_S = 2.0
"""Worker nodes that start together have all joined when none has come for this long."""
WAIT_S = 5.0
"""How long a call waits for worker nodes at most."""

_PLACING = frozenset(("create_backend", "update_backend", "update_backend_config"))

Waiting = tuple[Peer, Control, dict[str, Any], float]
"""(link of the client, its call, arguments, deadline)"""


class Placing:
    """Checks of one router, and the calls that wait because they failed."""

    def __init__(self, sync: ConfigSync, out: Outbox) -> None:
        self._sync = sync
        self._out = out
        self._waiting: list[Waiting] = []
        self._workers: set[bytes] = set()
        self._since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def look(self, now: float) -> None:
        """Take note of the worker nodes that there are."""
        workers = self._sync.membership.worker_ids()
        if self._since is None or not workers <= self._workers:
            self._since = now
        self._workers = workers

    def check(self, op: str, args: Mapping[str, Any]) -> None:
        """Raise CannotPlace for a call that asks for more than the worker nodes seen by now can hold."""
        if op in _PLACING and isinstance(args.get("name"), str):
            self._check_one(args)
        elif op == "apply_changes":
            self._check_changes(args)

    def wait(self, peer: Peer, call: Control, args: dict[str, Any], now: float) -> bool:
        """Have a call wait that does not fit; False if it is certain already that it does not."""
        self.look(now)
        others = self._sync.peers("router")
        if not others and self._quiet(now):
            return False
        self._sync.ask_views(self._out)
        self._waiting.append((peer, call, args, now + WAIT_S))
        return True

    def take(self, now: float) -> list[tuple[Waiting, CannotPlace | None]]:
        """The calls that need not wait any longer; with the error of those that still do not fit."""
        self.look(now)
        if not self._waiting:
            return []
        certain = self._quiet(now) and not self._sync.views_owed
        ended: list[tuple[Waiting, CannotPlace | None]] = []
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            try:
                self.check(item[1].op, item[2])
            except CannotPlace as error:
                if certain or now >= item[3]:
                    ended.append((item, error))
                else:
                    self._waiting.append(item)
            except (TypeError, ValueError, KeyError):
                ended.append((item, None))  # the write says it better
            else:
                ended.append((item, None))
        return ended

    def settled(self, now: float) -> bool:
        """Whether there are worker nodes, and no further one has come for a moment."""
        return any(not info.leaving for info in self._sync.membership.workers()) and self._quiet(now)

    def check_placed(self, name: str) -> None:
        """Raise CannotPlace for a backend of the registry that was written before there was a worker node, and that
        those which have come cannot hold."""
        needs = {other: value.config for other, value in self._sync.registry.backends().items()}
        if reason := unplaceable(needs, self._sync.membership.workers()).get(name):
            raise CannotPlace(f"Cannot place backend {name!r}: {reason}")

    def forget(self, peer: Peer) -> None:
        self._waiting = [item for item in self._waiting if item[0] != peer]

    def _quiet(self, now: float) -> bool:
        return self._since is not None and now - self._since >= QUIET_S

    def _check_one(self, args: Mapping[str, Any]) -> None:
        registry = self._sync.registry
        name = args["name"]
        config = parse_backend_config(args.get("config"))
        before = registry.backend(name)
        if before is not None:
            config = parse_backend_config(args.get("config"), before.config)
            if (config.num_replicas, config.resources) == (before.config.num_replicas, before.config.resources):
                return
        base = before if before is not None else BackendValue(code="a:b", version="0")
        value = msgspec.structs.replace(base, config=config)
        check_placeable(name, value, registry.backends(), self._sync.membership.workers())

    def _check_changes(self, args: Mapping[str, Any]) -> None:
        """The same for several changes at once: what they ask for has to fit beside what stays."""
        registry, workers = self._sync.registry, self._sync.membership.workers()
        if not any(not info.leaving for info in workers):
            return
        before, after = registry.backends(), values_after(registry, args)[1]
        lacking = unplaceable({name: value.config for name, value in before.items()}, workers)
        for name, reason in unplaceable({name: value.config for name, value in after.items()}, workers).items():
            if name in lacking and after[name].config == before[name].config:
                continue  # it has been like that
            raise CannotPlace(f"Cannot place backend {name!r}: {reason}")

"""Credits: how many requests a router may have at a replica, both sides of it.

The replica owns its capacity and grants it.  A grant is absolute: "you may have sent at most ``limit`` requests since
``epoch`` began".  The router's credit is ``limit - sent``.

An epoch is ``incarnation << RECALL_BITS | recalls``.  A new incarnation (the replica met this router anew) starts
``sent`` at zero.  A recall adds one to the epoch and may lower the limit; within one epoch the limit only grows.  So a
grant that is lost, repeated or overtaken by a later one does no harm: the router keeps the highest (epoch, limit).  A
router answers with ``Demand(epoch, sent, ...)``; until it has answered with the epoch of the recall, the replica counts
the old limit as used.  A grant is a lease: a router that is silent for its length loses what it has not used.

Sources: AMQP 1.0 link credit (absolute state), Breakwater (OSDI '20: demand-driven credits, overcommit), and the
stranding of tokens under skewed dispatchers (van der Boor et al., arXiv 1706.01059).
"""

from __future__ import annotations

import math
import random

from ..config import BackendConfig

__all__ = ["AHEAD_S", "LEASE_S", "MAX_AHEAD", "RECALL_BITS", "CreditAccount", "CreditPool", "derive_capacity"]

RECALL_BITS = 32
LEASE_S = 3.0
"""Three heartbeats."""
AHEAD_S = 0.002
"""The window that hides the round trip between router and replica."""
MAX_AHEAD = 256


def derive_capacity(config: BackendConfig, parallelism: int = 1, mean_service_s: float | None = None) -> int:
    """How many requests one replica holds at a time, over all routers together.

    ``max_concurrent_queries`` where it is set.  Otherwise parallelism plus what finishes within about 2 ms (1 to 256
    requests), so that short handlers do not wait for the network and long ones do not hoard; for a batching backend
    (one batch running, one ahead) instead of the parallelism.  *mean_service_s* is seconds per request, None or 0 when
    nothing has been measured yet.
    """
    if config.max_concurrent_queries is not None:
        return config.max_concurrent_queries
    ahead = 1
    if mean_service_s is not None and mean_service_s > 0.0:
        ahead = min(MAX_AHEAD, max(1, math.ceil(AHEAD_S / mean_service_s - 1e-9)))
    if config.max_batch_size is not None and config.max_batch_size > 1:
        return 2 * config.max_batch_size + ahead
    return max(1, parallelism) + ahead


class CreditAccount:
    """Router side: what one replica has granted, and how much of it is used."""

    __slots__ = ("epoch", "limit", "sent")

    def __init__(self) -> None:
        self.epoch = -1
        self.limit = 0
        self.sent = 0

    @property
    def credit(self) -> int:
        """Requests that may be sent now; negative after a recall below what had been sent already."""
        return self.limit - self.sent

    def grant(self, epoch: int, limit: int) -> bool:
        """Take a grant in; False when it is an old or a repeated one."""
        if epoch < self.epoch or (epoch == self.epoch and limit <= self.limit):
            return False
        if epoch >> RECALL_BITS != self.epoch >> RECALL_BITS:
            self.sent = 0
        self.epoch = epoch
        self.limit = limit
        return True


class _Share:
    """Replica side: one router's part of the capacity."""

    __slots__ = (
        "carried",
        "ceiling",
        "epoch",
        "finished",
        "heard_at",
        "limit",
        "live",
        "queued",
        "received",
        "sent",
        "target",
        "told",
        "urgent",
    )

    def __init__(self, epoch: int, now: float) -> None:
        self.epoch = epoch
        self.limit = 0  # what the router is told
        self.ceiling = 0  # what it may still believe: the limit before an unanswered recall
        self.received = 0
        self.sent = 0  # what the router said it had sent
        self.finished = 0
        self.carried = 0  # running since a link before this one
        self.queued = 0
        self.urgent = math.inf
        self.heard_at = now
        self.live = True
        self.told: tuple[int, int] | None = None
        self.target = 0

    @property
    def held(self) -> int:
        """Capacity that this share takes: granted or running, not finished."""
        return self.ceiling - self.finished + self.carried

    @property
    def running(self) -> int:
        return self.received - self.finished + self.carried


class CreditPool:
    """Replica side: shares ``capacity`` among the routers that want it.

    Each live router keeps one credit in reserve when the capacity allows; the rest follows the demand (requests that
    wait at the router, and those it has here), ties to the more urgent, then to chance; what nobody wants is spread
    evenly, so that a sudden request finds a credit waiting.  When a router has demand and another sits on unused
    credits, these are recalled.

    overcommit: how many requests may be granted beyond the capacity, so that reserves do not strand it.
    """

    __slots__ = ("_incarnation", "_rng", "_shares", "capacity", "draining", "lease_s", "over_limit", "overcommit",
                 "recalls", "slack")  # fmt: skip

    def __init__(
        self,
        capacity: int,
        rng: random.Random,
        *,
        incarnation: int = 1,
        lease_s: float = LEASE_S,
        overcommit: int = 0,
        slack: int = 1,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be 1 or more, not {capacity!r}")
        if overcommit < 0:
            raise ValueError(f"overcommit must be 0 or more, not {overcommit!r}")
        self.capacity = capacity
        self.overcommit = overcommit
        self.lease_s = lease_s
        self.slack = slack
        self.draining = False
        self.over_limit = 0  # requests that came beyond their grant
        self.recalls = 0
        self._rng = rng
        self._incarnation = incarnation
        self._shares: dict[bytes, _Share] = {}

    # --- routers come and go ------------------------------------------------------------------------------------------

    def router_joined(self, router: bytes, now: float) -> None:
        """A link to *router* is up.  It gets its first grant from the next :meth:`settle`."""
        old = self._shares.pop(router, None)
        share = _Share(self._incarnation << RECALL_BITS, now)
        self._incarnation += 1
        if old is not None:
            share.carried = old.running
        self._shares[router] = share

    def router_left(self, router: bytes, now: float) -> None:
        """The link is gone: unused credits return now, those of running requests as these finish."""
        share = self._shares.get(router)
        if share is None:
            return
        share.live = False
        share.queued = 0
        share.limit = share.ceiling = share.received
        if not share.running:
            del self._shares[router]

    def heard(self, router: bytes, now: float) -> None:
        """Anything came from *router*: its lease starts again."""
        share = self._shares.get(router)
        if share is not None and now > share.heard_at:
            share.heard_at = now

    # --- requests -----------------------------------------------------------------------------------------------------

    def received(self, router: bytes, count: int, now: float) -> int:
        """*count* requests came; returns how many of them to take, the others are to be handed back.

        All are taken that the grant covers, and ``slack`` more; everything beyond the grant is counted.
        """
        share = self._shares.get(router)
        if share is None or not share.live:
            self.over_limit += count
            return 0
        share.heard_at = max(share.heard_at, now)
        share.received += count
        over = share.received - share.ceiling
        if over <= 0:
            return count
        over = min(over, count)
        self.over_limit += over
        refused = max(0, min(count, share.received - share.ceiling - self.slack))
        share.finished += refused
        if share.received > share.ceiling:
            share.ceiling = share.received
        share.limit = max(share.limit, share.received)
        return count - refused

    def finished(self, router: bytes, count: int = 1) -> None:
        """*count* requests of *router* hold no slot any more: answered, dropped or handed back."""
        share = self._shares.get(router)
        if share is None:
            return
        if share.carried:
            earlier = min(share.carried, count)
            share.carried -= earlier
            count -= earlier
        share.finished = min(share.finished + count, share.received)
        if not share.live and not share.running:
            del self._shares[router]

    def demand(self, router: bytes, epoch: int, sent: int, queued: int, urgent_s: float | None, now: float) -> None:
        """*router* reports: *sent* of *epoch* used, *queued* waiting, the most urgent of them due in *urgent_s*."""
        share = self._shares.get(router)
        if share is None or not share.live:
            return
        share.heard_at = max(share.heard_at, now)
        share.queued = max(0, queued)
        share.urgent = math.inf if urgent_s is None else urgent_s
        if epoch >> RECALL_BITS == share.epoch >> RECALL_BITS:
            share.sent = max(share.sent, min(sent, share.ceiling))
        if epoch == share.epoch and share.limit < share.ceiling:  # answers the recall
            share.limit = share.ceiling = max(share.limit, min(sent, share.ceiling))

    # --- grants -------------------------------------------------------------------------------------------------------

    def grant_for(self, router: bytes) -> tuple[int, int] | None:
        """(epoch, limit) as it stands, to be repeated on replies and heartbeats."""
        share = self._shares.get(router)
        return (share.epoch, share.limit) if share is not None and share.live else None

    def settle(self, now: float, *, patient: bool = False) -> list[tuple[bytes, int, int]]:
        """Share out what is free, recall what is unused and wanted; returns the (router, epoch, limit) that changed.

        To be called once after each group of events.  *patient*: the only router there is need not be told that it may
        have more as long as it has not used half of all.
        """
        if patient and len(self._shares) == 1:
            (share,) = self._shares.values()
            if self._can_wait(share, now):
                return []
        for share in self._shares.values():
            if share.live and share.ceiling > share.received and now - share.heard_at >= self.lease_s:
                self._lower(share, share.received)
                share.ceiling = share.limit
                share.queued = 0
        live = [share for share in self._shares.values() if share.live and now - share.heard_at < self.lease_s]
        most = self.capacity + self.overcommit
        if self.draining:
            most = 0
        elif self.overcommit and len(live) <= 1:
            most = self.capacity  # there is nobody whose reserve would be stranded
        free = most - sum(share.held for share in self._shares.values())
        self._aim(live, most)
        if free > 0:
            self._raise(live, free)
        self._recall(live, most)
        changed = []
        for router, share in self._shares.items():
            if share.live and share.told != (share.epoch, share.limit):
                share.told = (share.epoch, share.limit)
                changed.append((router, share.epoch, share.limit))
        return changed

    def _can_wait(self, share: _Share, now: float) -> bool:
        """Of the only router: whether it has plenty, and there is nothing else to be told."""
        return (
            2 * (share.ceiling - share.received) > self.capacity >= share.held
            and share.limit == share.ceiling
            and share.told == (share.epoch, share.limit)
            and share.live
            and not self.draining
            and now - share.heard_at < self.lease_s
        )

    def _aim(self, live: list[_Share], most: int) -> None:
        """Set each share's target: reserve, then demand, then evenly."""
        if len(live) == 1:
            live[0].target = most
            return
        if not live:
            return
        rest = most
        for share in live:
            share.target = 0
        if most >= len(live):
            for share in live:
                share.target = 1
            rest -= len(live)
        wanted = {id(share): max(0, share.running + share.queued - share.target) for share in live}
        total = sum(wanted.values())
        if total <= rest:
            for share in live:
                share.target += wanted[id(share)]
            self._spread(live, rest - total)
            return
        parts = [(wanted[id(share)] * rest / total, share) for share in live]
        left = rest
        for part, share in parts:
            share.target += int(part)
            left -= int(part)
        parts.sort(key=lambda pair: (int(pair[0]) - pair[0], pair[1].urgent, self._rng.random()))
        for _, share in parts[:left]:
            share.target += 1

    def _spread(self, live: list[_Share], count: int) -> None:
        """Spread *count* unwanted credits evenly; the odd ones stay where they are, else go by chance."""
        each, odd = divmod(count, len(live))
        for share in live:
            share.target += each
        if odd:
            order = sorted(live, key=lambda share: (share.target - share.held, self._rng.random()))
            for share in order[:odd]:
                share.target += 1

    def _raise(self, live: list[_Share], free: int) -> None:
        hungry = [share for share in live if share.held < share.target and share.limit >= share.ceiling]
        hungry.sort(key=lambda share: (share.held - share.target, share.urgent))
        for share in hungry:
            if free <= 0:
                return
            more = min(free, share.target - share.held)
            share.limit += more
            share.ceiling = share.limit
            free -= more

    def _recall(self, live: list[_Share], most: int) -> None:
        over = sum(share.held for share in self._shares.values()) > most
        if not over and not any(share.queued and share.held < share.target for share in live):
            return
        for share in live:
            if share.limit < share.ceiling or share.held <= share.target:
                continue
            lower = max(share.received, share.sent, share.finished - share.carried + share.target)
            if lower < share.limit:
                self._lower(share, lower)

    def _lower(self, share: _Share, limit: int) -> None:
        share.epoch += 1
        share.limit = limit
        self.recalls += 1

    def next_wakeup(self) -> float | None:
        """When the next lease runs out."""
        ends = [share.heard_at + self.lease_s for share in self._shares.values() if share.live and
                share.ceiling > share.received]  # fmt: skip
        return min(ends, default=None)

    @property
    def may_come(self) -> bool:
        """Whether a router may have sent requests that have not arrived: it has not used what it was granted, nor said
        how much of it."""
        return any(share.live and share.ceiling > share.received for share in self._shares.values())

    # --- for people ---------------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Granted or running over all routers; at most capacity + overcommit, except after the capacity was lowered."""
        return sum(share.held for share in self._shares.values())

    def statistics(self) -> dict[str, object]:
        return {
            "capacity": self.capacity,
            "overcommit": self.overcommit,
            "outstanding": self.outstanding,
            "running": sum(share.running for share in self._shares.values()),
            "routers": sum(share.live for share in self._shares.values()),
            "recalls": self.recalls,
            "over_limit": self.over_limit,
        }

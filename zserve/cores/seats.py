"""What a worker node keeps about the replicas of one backend, and when it tries again after one has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..config import user_config_digest
from ..registry.values import BackendValue

__all__ = [
    "CRASH_LOOP",
    "MAX_START_FAILURES",
    "Action",
    "Configure",
    "Group",
    "Replica",
    "Seat",
    "Start",
    "Stop",
    "backoff_s",
]

MAX_BACKOFF_S = 30.0
MAX_START_FAILURES = 3
"""After this many failures to start, only a change of the record makes another try worth while."""
CRASH_LOOP = 5
"""From this many crashes in a row on, the report says that it is a crash loop."""
STEADY_S = 30.0
"""A replica that was ready for this long before it crashed has not been crashing in a row."""
MAX_REASON = 8192


@dataclass(frozen=True, slots=True)
class Start:
    """Start a replica process with this node id."""

    node: bytes
    backend: str
    index: int
    value: BackendValue


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a replica finish what it runs, and end it after *grace_s* seconds at the latest."""

    node: bytes
    grace_s: float


@dataclass(frozen=True, slots=True)
class Configure:
    """The config of a running replica changed; its code did not."""

    node: bytes
    value: BackendValue


Action: TypeAlias = Start | Stop | Configure


def backoff_s(tries: int) -> float:
    """Seconds to wait after so many tries in a row that went wrong: 0, 0.5, 1, 2, 4 .. 30."""
    return 0.0 if tries <= 1 else min(MAX_BACKOFF_S, 0.5 * 2.0 ** min(tries - 2, 10))


class Replica:
    """One replica process; ``state``, ``configured``, ``refused`` as in :class:`ReplicaStatus`.

    trouble: the traceback of the ``reconfigure`` that refused.
    """

    __slots__ = (
        "backend", "configured", "index", "node", "pid", "ready_at", "refused", "state", "trouble", "value",
    )  # fmt: skip

    def __init__(self, node: bytes, backend: str, index: int, value: BackendValue) -> None:
        self.node = node
        self.backend = backend
        self.index = index
        self.value = value
        self.state = "starting"
        self.pid = 0
        self.ready_at = 0.0
        self.configured = user_config_digest(value.config)  # by the time it is ready
        self.refused = b""
        self.trouble = ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def took(self, user_config: bytes, trouble: str) -> None:
        """It has taken in a ``user_config``, or, if there is a traceback, has refused it and keeps the one before."""
        if trouble:
            self.refused, self.trouble = user_config, _shortened(trouble)
        else:
            self.configured, self.refused, self.trouble = user_config, b"", ""


class Seat:
    """Room for one replica in charge, and for a successor while the code is being replaced.

    last, reason: the replica that ended last, and why, until another one is ready in its place.  before: why the one
    before the present one had to be replaced, one line.
    """

    __slots__ = (
        "before", "charge", "crashes", "failures", "index", "last", "reason", "restarts", "retry_at", "successor",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.charge: Replica | None = None
        self.successor: Replica | None = None
        self.last: Replica | None = None
        self.reason = ""
        self.before = ""
        self.failures = 0
        self.crashes = 0
        self.restarts = 0
        self.retry_at = 0.0

    def occupants(self) -> list[Replica]:
        return [replica for replica in (self.charge, self.successor) if replica is not None]

    def needs(self, version: str) -> bool:
        """Whether a replica with code *version* should be started here, sooner or later."""
        if self.failures >= MAX_START_FAILURES or self.successor is not None:
            return False
        return self.charge is None or self.charge.value.version != version

    def refuses(self, version: str) -> bool:
        """Whether code *version* was tried here as a replacement, and failed."""
        return self.failures > 0 and self.charge is not None and self.charge.value.version != version

    def became_ready(self, replica: Replica) -> Replica | None:
        """*replica* takes over; the one that it replaces is returned."""
        self.failures = 0
        self.before = _one_line(self.reason) if self.last is not None and self.last.state == "dead" else self.before
        self.reason = ""
        self.last = None
        before = self.charge if self.successor is replica else None
        if self.successor is replica:
            self.charge, self.successor = replica, None
        return before

    def failed(self, replica: Replica, reason: str, now: float) -> None:
        """*replica* could not be started."""
        self._left(replica)
        self.failures += 1
        self.retry_at = now + backoff_s(self.failures + 1)
        self._ended(replica, "failed", reason)

    def crashed(self, replica: Replica, how: str, now: float) -> None:
        """*replica* was ready, and its process has ended."""
        self._left(replica)
        self.crashes = 1 if now - replica.ready_at >= STEADY_S else self.crashes + 1
        self.retry_at = now + backoff_s(self.crashes)
        loop = f" (crash loop: {self.crashes} times in a row)" if self.crashes >= CRASH_LOOP else ""
        self._ended(replica, "dead", how + loop)

    def forgive(self) -> None:
        """The record changed: what went wrong before does not count any more."""
        self.failures = self.crashes = 0
        self.retry_at = 0.0
        self.reason = self.before = ""
        self.last = None

    def _left(self, replica: Replica) -> None:
        if self.successor is replica:
            self.successor = None
        else:
            self.charge = None

    def _ended(self, replica: Replica, state: str, reason: str) -> None:
        replica.state = state
        self.restarts += 1
        self.last = replica
        self.reason = _shortened(reason)


def _shortened(reason: str) -> str:
    """Not longer than fits into a report: the beginning says where, the end what."""
    if len(reason) <= MAX_REASON:
        return reason
    return f"{reason[: MAX_REASON // 4]}\n...\n{reason[-(MAX_REASON // 2) :]}"


def _one_line(reason: str) -> str:
    """The beginning and the end of it, which say where and what."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}" if lines else ""
    return text if len(text) <= 300 else f"{text[:147]} ... {text[-147:]}"


class Group:
    """All seats of one backend on this node, and the record that they follow."""

    __slots__ = ("name", "seats", "stamp", "value")

    def __init__(self, name: str, value: BackendValue, stamp: bytes) -> None:
        self.name = name
        self.value = value
        self.stamp = stamp
        self.seats: list[Seat] = []

    def replaceable(self) -> bool:
        """Whether one more replica may be replaced by new code: one after the other, and none after a failure."""
        version = self.value.version
        return not any(seat.successor is not None or seat.refuses(version) for seat in self.seats)

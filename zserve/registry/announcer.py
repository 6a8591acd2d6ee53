"""When a router publishes its view."""

from __future__ import annotations

from ..channel.outbox import Outbox
from .views import Membership

__all__ = ["EVERY_S", "EVERY_S_A_MEMBER", "Announcer"]

EVERY_S = 0.02
EVERY_S_A_MEMBER = 0.0005
"""Changes of a view within this time, longer for large ones, are published as one."""


class Announcer:
    """Publishes the differences in the own view of a router, not too often.  due: when the next one is, if any."""

    def __init__(self, membership: Membership) -> None:
        self.due: float | None = None
        self._membership = membership
        self._sent_at = float("-inf")
        self._sent = membership.own_serial

    def changed(self, now: float) -> float:
        """The view has changed; when that will be published, by :meth:`tick`."""
        if self.due is None:
            pause = EVERY_S + EVERY_S_A_MEMBER * self._membership.own_size
            self.due = max(now, self._sent_at + pause)
        return self.due

    def announce(self, out: Outbox, now: float) -> None:
        """The same, and at once if it may be."""
        self.changed(now)
        self.tick(out, now)

    def tick(self, out: Outbox, now: float) -> None:
        if self.due is None or self.due > now:
            return
        self.due = None
        self._sent_at = now
        change = self._membership.own_change(self._sent)
        self._sent = self._membership.own_serial
        if change is not None:
            out.publish(change)

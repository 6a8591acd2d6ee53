"""How config and membership reach every node: published for speed, pulled for certainty.

Theory of operation.  A router publishes each record that it writes or newly learns, once.  PUB/SUB loses messages
without a word, so nothing depends on it: every heartbeat carries the registry's digest and the serial of the router's
own view, and a node that finds either different from its own pulls: it sends what it has and gets what it lacks, over
the reliable ROUTER/DEALER link.  Two routers pull from each other; everybody else only takes.  A node that joins pulls
at once.  A pull that changes nothing (a record that is refused here) is repeated ever more rarely.

Routers are listened to.  From any other member a router takes only the records that it has asked for, because the
summary in a pull named something that the router had never seen or had lost: when the last disk with a write is gone,
the write comes back from whoever still has it in force.  Clients have no way to write a record or a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ..channel.outbox import Outbox, Peer
from ..wire.messages import Confirm, Confirmed, Hello, NodeInfo, Ping, Pull, Records, View
from .barrier import BARRIER_TIMEOUT_S, WriteBarrier
from .record import Record
from .registry import Registry, Verdict
from .views import VIEW_GRACE_S, Membership

__all__ = ["ConfigSync", "WriteBarrier"]

PULL_EVERY_S = 0.4
PULL_RARELY_S = 30.0
VIEW_EVERY_S = 0.02
VIEW_EVERY_S_A_MEMBER = 0.0005
"""Changes of a view within this time, longer for large ones, are published as one."""
EXPIRE_EVERY_S = 600.0
MAX_MESSAGE_BYTES = 512 * 1024
MAX_WAITING = 1024
_MEMBER_ROLES = frozenset(("gateway", "router", "worker", "replica"))


class _Link:
    __slots__ = ("asked", "info", "interval_s", "pulled_at", "situation", "waiting")

    def __init__(self, info: NodeInfo) -> None:
        self.info = info
        self.pulled_at = float("-inf")
        self.interval_s = PULL_EVERY_S
        self.situation: tuple[Any, ...] = ()
        self.waiting: dict[str, bytes] = {}
        self.asked: frozenset[str] = frozenset()


class ConfigSync:
    """The part of every core that keeps registry and membership up to date.

    info: this node (the same object that the shell completes with the addresses it bound).
    wall_ms: tells the wall-clock time in milliseconds since the epoch; the only thing here that is not an event.
    """

    def __init__(self, info: NodeInfo, wall_ms: Callable[[], int], registry: Registry | None = None) -> None:
        self.info = info
        self.is_router = info.role == "router"
        self.registry = registry if registry is not None else Registry(info.node)
        self.membership = Membership(info if self.is_router else None)
        self.ignored = 0
        self._wall_ms = wall_ms
        self._links: dict[Peer, _Link] = {}
        self._expire_at = float("-inf")
        self._view_due: float | None = None
        self._view_sent_at = float("-inf")

    # --- what a core asks ---------------------------------------------------------------------------------------------

    def wall_ms(self) -> int:
        return self._wall_ms()

    def digest(self) -> bytes:
        """For :attr:`Ping.digest`."""
        return self.registry.digest()

    @property
    def view_serial(self) -> int:
        """For :attr:`Ping.view`; 0 for roles other than router."""
        return self.membership.own_serial

    @property
    def synced(self) -> bool:
        """Whether a linked router has told all that it knows: the view comes behind the records."""
        return any(
            self.membership.serial_of(link.info.node) for link in self._links.values() if link.info.role == "router"
        )

    def routers_known(self) -> Sequence[str]:
        """The addresses of all routers of the fabric."""
        return [info.address for info in self.membership.routers() if info.address]

    def take_changes(self) -> list[str]:
        """The keys whose record changed since the last call."""
        return self.registry.take_changes()

    def role_of(self, peer: Peer) -> str:
        """The role that *peer* said HELLO with; "" if there is no link with it."""
        link = self._links.get(peer)
        return link.info.role if link is not None else ""

    def info_of(self, peer: Peer) -> NodeInfo | None:
        link = self._links.get(peer)
        return link.info if link is not None else None

    def peers(self, *roles: str) -> list[Peer]:
        """All linked peers, or those of these roles."""
        return [peer for peer, link in self._links.items() if not roles or link.info.role in roles]

    # --- events -------------------------------------------------------------------------------------------------------

    def link_up(self, peer: Peer, hello: Hello, out: Outbox, now: float) -> None:
        info = hello.info
        if hello.backend and (info.backend, info.code) != (hello.backend, hello.code):
            info = msgspec.structs.replace(info, backend=hello.backend, code=hello.code)
        link = self._links[peer] = _Link(info)
        if info.role == "router":
            self.membership.router_up(info.node, info.boot, now)
            self._pull(peer, link, out, now)
        if self.is_router and info.role in _MEMBER_ROLES and self.membership.set_member(info):
            self._view_changed(out, now)

    def link_down(self, peer: Peer, now: float, reason: str = "") -> None:
        """*reason* beginning with "goodbye" means that the other side left on purpose."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        node, boot = link.info.node, link.info.boot
        if link.info.role == "router":
            self.membership.router_down(node, boot, now, 0.0 if reason.startswith("goodbye") else VIEW_GRACE_S)
        still_linked = any(other.info.node == node and other.info.boot == boot for other in self._links.values())
        if self.is_router and not still_linked and self.membership.drop_member(node, boot):
            self._plan_view(now)  # there is no outbox here, so it leaves with the next tick

    def receive(self, peer: Peer, message: Any, out: Outbox, now: float) -> bool:
        """Handle *message* if it belongs here; False if not.  Confirmed is for the core, which has the barrier."""
        kind = type(message)
        if kind is Ping:
            self.on_ping(peer, message, out, now)
        elif kind is Records:
            self.on_records(peer, message, out, now)
        elif kind is Pull:
            self.on_pull(peer, message, out)
        elif kind is View:
            self.on_view(peer, message)
        elif kind is Confirm:
            self.on_confirm(peer, message, out, now)
        else:
            return False
        return True

    def on_ping(self, peer: Peer, ping: Ping, out: Outbox, now: float) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        if ping.leaving and not link.info.leaving:
            link.info = msgspec.structs.replace(link.info, leaving=True)
            if self.is_router and link.info.role in _MEMBER_ROLES and self.membership.set_member(link.info):
                self._view_changed(out, now)
        if link.info.role == "router":
            behind = ping.view > self.membership.serial_of(link.info.node)
            if behind or (ping.digest and ping.digest != self.registry.digest()):
                self._pull(peer, link, out, now, ping.digest, ping.view if behind else 0)

    def on_pull(self, peer: Peer, pull: Pull, out: Outbox) -> None:
        link = self._links.get(peer)
        if link is None or not self.is_router:
            self.ignored += 1
            return
        newer, wanted = self.registry.difference(pull.have)
        want = wanted if link.info.role in _MEMBER_ROLES else []
        link.asked = frozenset(want)
        for message in _in_messages(newer, want):
            out.send(peer, message)
        view = self.membership.own_view() if pull.view else None
        if view is not None:
            out.send(peer, view)

    def on_records(self, peer: Peer, message: Records, out: Outbox, now: float) -> list[Verdict]:
        """Returns what became of each record, in order."""
        link = self._links.get(peer)
        if link is None:
            self.ignored += 1
            return []
        records = message.records
        if link.info.role != "router":
            records = [record for record in records if self.is_router and record.key in link.asked]
            if not records:
                self.ignored += 1
                return []
        wall_ms = self._wall_ms()
        verdicts: list[Verdict] = []
        news: list[Record] = []
        for record in records:
            before = self.registry.get(record.key)
            verdict = self.registry.merge(record, wall_ms)
            verdicts.append(verdict)
            if verdict.applied:
                news.append(record)
                if verdict.kind == "conflict" and before is not None:
                    news.append(before)  # so that the losing write is known everywhere, not only where it was made
        if self.is_router and news:
            self.publish(news, out)
        if message.want and link.info.role == "router":
            held = (self.registry.get(key) for key in message.want)
            for answer in _in_messages([record for record in held if record is not None], []):
                out.send(peer, answer)
        if news:
            self._answer_waiting(out)
        return verdicts

    def on_view(self, peer: Peer, view: View) -> bool:
        """A router's own view; True if it is news."""
        link = self._links.get(peer)
        if link is None or link.info.role != "router" or (link.info.node, link.info.boot) != (view.router, view.boot):
            self.ignored += 1
            return False
        return self.membership.merge(view)

    def on_confirm(self, peer: Peer, confirm: Confirm, out: Outbox, now: float) -> None:
        link = self._links.get(peer)
        if link is None or link.info.role != "router":
            self.ignored += 1
        elif self.registry.applied(confirm.key, confirm.stamp):
            out.send(peer, Confirmed(confirm.key, confirm.stamp))
        elif len(link.waiting) < MAX_WAITING:
            link.waiting[confirm.key] = max(confirm.stamp, link.waiting.get(confirm.key, b""))
            self._pull(peer, link, out, now, confirm.stamp)

    def tick(self, out: Outbox, now: float) -> None:
        self.membership.tick(now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_EVERY_S
            self.registry.expire(self._wall_ms())
        if self._view_due is not None and self._view_due <= now:
            self._publish_view(out, now)

    def next_wakeup(self) -> float | None:
        drop = self.membership.next_wakeup()
        due = self._view_due
        return drop if due is None else due if drop is None else min(drop, due)

    # --- what a router does with its own writes -----------------------------------------------------------------------

    def publish(self, records: Iterable[Record], out: Outbox) -> None:
        """Publish records to all who subscribe to this router."""
        for message in _in_messages(list(records), []):
            out.publish(message)

    def spread(
        self,
        records: Sequence[Record],
        peers: Iterable[Peer],
        out: Outbox,
        now: float,
        timeout_s: float = BARRIER_TIMEOUT_S,
    ) -> WriteBarrier:
        """Publish own writes, and see that *peers* have them in force: the barrier is over once they have.

        The records go to *peers* over their links too, in front of the question, so that no answer has to wait for a
        lost publication to be noticed.
        """
        self.publish(records, out)
        names: dict[Peer, str] = {}
        for peer in peers:
            link = self._links.get(peer)
            if link is None:
                continue
            names[peer] = _name(link.info)
            for message in _in_messages(list(records), []):
                out.send(peer, message)
            for record in records:
                out.send(peer, Confirm(record.key, record.stamp))
        return WriteBarrier(records, names, now, timeout_s)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _pull(self, peer: Peer, link: _Link, out: Outbox, now: float, *situation: Any) -> None:
        """Ask *peer* for what is missing here, but not again and again for what did not help."""
        situation = (self.registry.digest(), *situation)
        repeated = situation == link.situation
        if now < link.pulled_at + (link.interval_s if repeated else PULL_EVERY_S):
            return
        link.interval_s = min(2 * link.interval_s, PULL_RARELY_S) if repeated else PULL_EVERY_S
        link.situation = situation
        link.pulled_at = now
        out.send(peer, Pull(self.registry.summary(), True))

    def _answer_waiting(self, out: Outbox) -> None:
        for peer, link in self._links.items():
            for key, stamp in list(link.waiting.items()):
                if self.registry.applied(key, stamp):
                    del link.waiting[key]
                    out.send(peer, Confirmed(key, stamp))

    def _view_changed(self, out: Outbox, now: float) -> None:
        if self._plan_view(now) <= now:
            self._publish_view(out, now)

    def _plan_view(self, now: float) -> float:
        if self._view_due is None:
            pause = VIEW_EVERY_S + VIEW_EVERY_S_A_MEMBER * self.membership.own_size
            self._view_due = max(now, self._view_sent_at + pause)
        return self._view_due

    def _publish_view(self, out: Outbox, now: float) -> None:
        self._view_due = None
        self._view_sent_at = now
        view = self.membership.own_view()
        if view is not None:
            out.publish(view)


def _name(info: NodeInfo) -> str:
    return f"{info.role} {info.name or info.http or info.node.hex()[:8]}"


def _in_messages(records: Sequence[Record], want: Sequence[str]) -> list[Records]:
    """*records* in messages of at most half a MiB of values (one record may be larger); *want* is in the last."""
    messages: list[Records] = []
    batch: list[Record] = []
    size = 0
    for record in records:
        weight = 300 + len(record.value or b"")
        if batch and size + weight > MAX_MESSAGE_BYTES:
            messages.append(Records(batch))
            batch, size = [], 0
        batch.append(record)
        size += weight
    if batch or want:
        messages.append(Records(batch, list(want)))
    return messages

"""How config and membership reach every node: published for speed, pulled for certainty.

Theory of operation.  A router publishes each record that it writes or newly learns, once.  PUB/SUB loses messages
without a word, so nothing depends on it: every heartbeat carries the registry's digest and the serial of the router's
own view, and a node that finds either different from its own pulls: it sends what it has and gets what it lacks, over
the reliable ROUTER/DEALER link.  Two routers pull from each other; everybody else only takes.  A node that joins pulls
at once.  A pull that changes nothing (a record that is refused here) is repeated ever more rarely.  Of a view that
changed, only the difference is published.

A node needs links with a few routers only.  Records reach it because routers publish what they learn; the views of
other routers, and the reports of worker nodes on their way to all routers, are passed on (:mod:`.relay`); a router asks
the gateways that the writer of a record has no link with whether they have it, before it says so itself.

Routers are listened to.  From any other member a router takes only the records that it has asked for, because the
summary in a pull named something that the router had never seen or had lost: when the last disk with a write is gone,
the write comes back from whoever still has it in force.  Clients have no way to write a record or a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ..channel.outbox import Outbox, Peer
from ..wire.messages import Confirm, Confirmed, Hello, NodeInfo, Ping, Pull, Records, Report, View, ViewChange
from . import standing
from .announcer import Announcer
from .answers import Answers, in_messages
from .barrier import BARRIER_TIMEOUT_S, WriteBarrier
from .confirming import Confirming
from .record import Record
from .registry import Registry, Verdict
from .relay import FOLLOWERS, Relay
from .reports import Reports
from .views import VIEW_GRACE_S, Membership

__all__ = ["ConfigSync", "WriteBarrier"]

PULL_EVERY_S = 0.4
PULL_RARELY_S = 30.0
EXPIRE_EVERY_S = 600.0
PATIENT_PINGS = 3
"""Heartbeats in a row that must differ in what their sender knows of others, before that is pulled: what is passed on
arrives a moment later than what it changes, and it does arrive unless something has gone wrong."""
_MEMBER_ROLES = frozenset(("gateway", "router", "worker", "replica"))


class _Link:
    __slots__ = ("asked", "differs", "info", "interval_s", "owes_view", "pulled_at", "situation")

    def __init__(self, info: NodeInfo) -> None:
        self.info = info
        self.pulled_at = float("-inf")
        self.interval_s = PULL_EVERY_S
        self.situation: tuple[Any, ...] = ()
        self.owes_view = False
        self.differs = 0
        self.asked: frozenset[str] = frozenset()


class ConfigSync:
    """The part of every core that keeps registry and membership up to date.

    info: this node (the same object that the shell completes with the addresses it bound).
    wall_ms: tells the wall-clock time in milliseconds since the epoch; the only thing here that is not an event.
    latest_ms: the same, the latest that it may be (see :mod:`.time_of_day`).
    """

    def __init__(
        self,
        info: NodeInfo,
        wall_ms: Callable[[], int],
        registry: Registry | None = None,
        latest_ms: Callable[[], int] | None = None,
    ) -> None:
        self.info = info
        self.is_router = info.role == "router"
        self.registry = registry if registry is not None else Registry(info.node)
        self.membership = Membership(info if self.is_router else None)
        self.reports = Reports()
        self.relay = Relay(self.membership, self.reports)
        self._reports_checked = -1
        self.standing = standing.Standing(info.node)
        self._answers = Answers(self.registry, self.standing, wall_ms)
        self._confirming = Confirming(self.registry)
        if self.is_router and not len(self.registry):
            self.standing.begin(standing.BLANK, (), standing.BLANK_S)
        self.ignored = 0
        self._wall_ms = wall_ms
        self._latest_ms = latest_ms or wall_ms
        self._links: dict[Peer, _Link] = {}
        self._expire_at = float("-inf")
        self._announcer = Announcer(self.membership)

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

    def known(self, peer: Peer) -> bytes:
        """For :attr:`Ping.known` to *peer*; b"" for roles other than router."""
        link = self._links.get(peer)
        return self.relay.digest(link.info.role) if self.is_router and link is not None else b""

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
            self.standing.router_up(peer, now)
            self._pull(peer, link, out, now)
        if self.is_router and info.role in _MEMBER_ROLES and self.membership.set_member(info):
            self._announcer.announce(out, now)

    def link_down(self, peer: Peer, now: float, reason: str = "") -> None:
        """*reason* beginning with "goodbye" means that the other side left on purpose."""
        link = self._links.pop(peer, None)
        if link is None:
            return
        self._confirming.link_down(peer)
        node, boot = link.info.node, link.info.boot
        if link.info.role == "router":
            self.standing.router_down(peer)
            self.membership.router_down(node, boot, now, 0.0 if reason.startswith("goodbye") else VIEW_GRACE_S)
        still_linked = any(other.info.node == node and other.info.boot == boot for other in self._links.values())
        if self.is_router and not still_linked and self.membership.drop_member(node, boot):
            self._announcer.changed(now)  # there is no outbox here, so it leaves with the next tick
        if self.is_router:
            self._forget_reports()

    def receive(self, peer: Peer, message: Any, out: Outbox, now: float) -> bool:
        """Handle *message* if it belongs here; False if not.  Confirmed is for the core, which has the barrier."""
        kind = type(message)
        if kind is Ping:
            self.on_ping(peer, message, out, now)
        elif kind is Records:
            self.on_records(peer, message, out, now)
        elif kind is Pull:
            self.on_pull(peer, message, out)
        elif kind is ViewChange or kind is View:
            self.on_view(peer, message, out, now)
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
                self._announcer.announce(out, now)
        if link.info.role == "router":
            records = bool(ping.digest) and ping.digest != self.registry.digest()
            self.standing.heard(peer, link.info.node, ping.absent_ms, not records)
            behind = ping.view > self.membership.serial_of(link.info.node, link.info.boot)
            differs = bool(ping.known) and ping.known != self.relay.digest(self.info.role)
            link.differs = link.differs + 1 if differs else 0
            others = link.differs >= PATIENT_PINGS
            if records or behind or others:
                situation = (ping.digest, ping.view if behind else 0, ping.known if others else b"")
                self._pull(peer, link, out, now, *situation, records=records)

    def on_pull(self, peer: Peer, pull: Pull, out: Outbox) -> None:
        link = self._links.get(peer)
        if link is None or not self.is_router:
            self.ignored += 1
            return
        if pull.records:
            answer = self._answers.to(pull.have, link.info.role)
            link.asked = frozenset(answer[-1].want if answer else ())
            for records in answer:
                out.send(peer, records)
        known = pull.known or []
        if pull.known is not None:
            for message in self.relay.newer(known, link.info):
                out.send(peer, message)
        if pull.view:
            own = (self.info.node, self.info.boot)
            base = next((serial for node, boot, serial in known if (node, boot) == own), 0)
            view = self.membership.own_change(base)
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
        wall_ms, latest_ms = self._wall_ms(), self._latest_ms()
        verdicts: list[Verdict] = []
        news: list[Record] = []
        for record in records:
            before = self.registry.get(record.key)
            verdict = self.registry.merge(record, wall_ms, latest_ms)
            verdicts.append(verdict)
            if verdict.applied:
                news.append(record)
                if verdict.kind == "conflict" and before is not None:
                    news.append(before)  # so that the losing write is known everywhere, not only where it was made
        if self.is_router and news:
            self.publish(news, out)
        if message.want and link.info.role == "router":
            held = (self.registry.get(key) for key in message.want)
            for answer in in_messages([record for record in held if record is not None]):
                out.send(peer, answer)
        if message.forget and link.info.role == "router" and not self.is_router:
            self.registry.forget(message.forget)
        if news:
            self._confirming.answer(out)
        return verdicts

    def on_view(self, peer: Peer, view: View | ViewChange, out: Outbox, now: float) -> bool:
        """What a router sees, or another one does whose word it passes on; True if it is news."""
        link = self._links.get(peer)
        if link is None or link.info.role != "router":
            self.ignored += 1
            return False
        own_word = (link.info.node, link.info.boot) == (view.router, view.boot)
        if not own_word and (view.router == link.info.node or self.info.role not in FOLLOWERS):
            self.ignored += 1
            return False
        if own_word:
            link.owes_view = False
        if self.membership.lacks(view):
            self._pull(peer, link, out, now, view.router, view.serial, records=False)
            return False
        news = self.membership.merge(view, now)
        if news and self.is_router:
            self.relay.pass_view_on(view, link.info, self._infos(), out)
        return news

    def on_report(self, peer: Peer, report: Report, out: Outbox) -> bytes:
        """What a worker node says, or another router passes on: the worker node's id if it is news, else b""."""
        link = self._links.get(peer)
        if link is None or not self.is_router:
            self.ignored += 1
            return b""
        if link.info.role == "worker":
            report = self.reports.signed(report, link.info.node, link.info.boot)
        elif link.info.role != "router" or len(report.worker) != 16 or len(report.boot) != 8:
            self.ignored += 1
            return b""
        if not self.reports.take(report):
            return b""
        self.relay.pass_report_on(report, link.info, self._infos(), out)
        return report.worker

    def on_confirm(self, peer: Peer, confirm: Confirm, out: Outbox, now: float) -> None:
        link = self._links.get(peer)
        if link is None or link.info.role != "router":
            self.ignored += 1
            return
        if not self._confirming.asked(peer, confirm, self._gateways_beyond(link.info), out):
            self._pull(peer, link, out, now, confirm.stamp)

    def on_confirmed(self, peer: Peer, confirmed: Confirmed, out: Outbox) -> None:
        """*peer* has a record in force; another router may be waiting for that."""
        self._confirming.confirmed(peer, confirmed, out)

    def _gateways_beyond(self, writer: NodeInfo) -> set[Peer]:
        """The gateways that this router has links with, and the router *writer* has not."""
        if not self.is_router:
            return set()
        told = self.membership.members_of(writer.node, writer.boot)
        return {peer for peer, info in self._infos() if info.role == "gateway" and info.node not in told}

    def tick(self, out: Outbox, now: float) -> None:
        self.membership.tick(now)
        if self.is_router:
            self._forget_reports()
            self._confirming.answer(out)  # a gateway that somebody waited for may be gone
            self._take_back(self.standing.tick(now), out)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_EVERY_S
            self.registry.expire(self._wall_ms())
        self._announcer.tick(out, now)

    def next_wakeup(self) -> float | None:
        drop_at, due = self.membership.next_wakeup(), self._announcer.due
        if drop_at is None or due is None:
            return due if drop_at is None else drop_at
        return drop_at if drop_at < due else due

    def restore(self, records: Sequence[Record]) -> list[tuple[str, str]]:
        """Begin with what this router had saved.  Returns (key, reason) of what is not usable."""
        if records:
            self.standing.certain()
        return self.registry.restore(records, self._wall_ms())

    def begin_in_doubt(self, records: Iterable[Record], last_ran_ms: int, wait_s: float) -> None:
        """This router was away for longer than deletes are remembered: put *records*, its own, aside for now."""
        self.standing.begin(last_ran_ms, records, wait_s)

    # --- what a router does with its own writes -----------------------------------------------------------------------

    def publish(self, records: Iterable[Record], out: Outbox) -> None:
        """Publish records to all who subscribe to this router."""
        for message in in_messages(list(records)):
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
            for message in in_messages(list(records)):
                out.send(peer, message)
            for record in records:
                out.send(peer, Confirm(record.key, record.stamp))
        return WriteBarrier(records, names, now, timeout_s)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _forget_reports(self) -> None:
        """Those of worker nodes that no router has a link with any more."""
        version = self.membership.version_of("worker")
        if version != self._reports_checked:
            self._reports_checked = version
            self.reports.forget_all_but(self.membership.worker_ids())

    def _take_back(self, records: Sequence[Record], out: Outbox) -> None:
        """Nobody knows better than this router what was in force."""
        if records:
            self.registry.restore(records, self._wall_ms())
            self.publish([record for record in records if self.registry.get(record.key) == record], out)

    def ask_views(self, out: Outbox) -> None:
        """Ask all linked routers whom they see; :attr:`views_owed` until they have answered."""
        for peer, link in self._links.items():
            if link.info.role == "router":
                link.owes_view = True
                out.send(peer, Pull([], True, False, self.relay.versions(self.info.role)))

    @property
    def views_owed(self) -> bool:
        """Whether an answer to :meth:`ask_views` is on its way."""
        return any(link.owes_view for link in self._links.values())

    def _infos(self) -> list[tuple[Peer, NodeInfo]]:
        return [(peer, link.info) for peer, link in self._links.items()]

    def _pull(
        self, peer: Peer, link: _Link, out: Outbox, now: float, *situation: Any, records: bool = True
    ) -> None:
        """Ask *peer* for what is missing here, but not again and again for what did not help."""
        situation = (self.registry.digest(), *situation)
        repeated = situation == link.situation
        if now < link.pulled_at + (link.interval_s if repeated else PULL_EVERY_S):
            return
        link.interval_s = min(2 * link.interval_s, PULL_RARELY_S) if repeated else PULL_EVERY_S
        link.situation = situation
        link.pulled_at = now
        have = self.registry.summary() if records else []
        out.send(peer, Pull(have, True, records, self.relay.versions(self.info.role) or self._version_of(link.info)))

    def _version_of(self, router: NodeInfo) -> list[tuple[bytes, bytes, int]]:
        return [(router.node, router.boot, self.membership.serial_of(router.node, router.boot))]


def _name(info: NodeInfo) -> str:
    return f"{info.role} {info.name or info.http or info.node.hex()[:8]}"

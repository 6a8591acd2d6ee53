"""Who is in the fabric: the union of what the live routers see.

Each router is the only writer of its own view, the list of nodes that it has links with; ``(boot, serial)`` orders its
versions.  So there is nothing to agree on: a node is there if at least one live router has a link with it, and the
router's own heartbeats decide about that.

A node need not have a link with every router: routers pass the views of others on.  Which routers are alive is then
worked out as link-state routing does it (OSPF, RFC 2328): a router counts if there is a link with it, or if a router
that counts has one.  All of that hangs on the links of this node, so two views can not keep each other alive, and what
the last router has lost is lost everywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import msgspec

from ..wire.messages import NodeInfo, View, ViewChange

__all__ = ["VIEW_GRACE_S", "Membership"]

VIEW_GRACE_S = 5.0
"""How long the view of a router is kept after the last way to it was lost: its nodes need this long to be seen by
others, and a link that only hiccuped comes back sooner."""

MAX_LOG = 256
"""How many changes of the own view are remembered; who is further behind gets all of it."""

_Key = tuple[bytes, bytes]
"""(node id, boot nonce) of a router."""


class _Members:
    """The nodes that one router has links with, and the same by role: few roles matter to most nodes, and whoever asks
    for the worker nodes must not pay for thousands of gateways."""

    __slots__ = ("infos", "roles")

    def __init__(self) -> None:
        self.infos: dict[bytes, NodeInfo] = {}
        self.roles: dict[str, dict[bytes, NodeInfo]] = {}

    def put(self, info: NodeInfo, changed: set[str]) -> None:
        """*changed* is told the roles in which that made a difference."""
        node = info.node
        before = self.infos.get(node)
        if before == info:
            return
        if before is not None and before.role != info.role:
            self.drop(node, changed)
        self.infos[node] = info
        role = self.roles.get(info.role)
        if role is None:
            role = self.roles[info.role] = {}
        role[node] = info
        changed.add(info.role)

    def drop(self, node: bytes, changed: set[str]) -> None:
        """*changed* is told the role in which that made a difference."""
        info = self.infos.pop(node, None)
        if info is not None:
            del self.roles[info.role][node]
            changed.add(info.role)


class _RouterView:
    __slots__ = (
        "arrival",
        "counts",
        "drop_at",
        "grace_s",
        "links",
        "members",
        "reached",
        "routers",
        "serial",
        "up_since",
    )

    def __init__(self, now: float) -> None:
        self.serial = 0
        self.members = _Members()
        self.routers: frozenset[_Key] = frozenset()
        self.links = 0
        self.up_since = now
        self.reached = False
        self.counts = False
        self.grace_s = VIEW_GRACE_S
        self.drop_at: float | None = None
        self.arrival = 0

    def take(self, view: View | ViewChange) -> set[str]:
        """The newer version of it.  The roles in which that made a difference."""
        changed = self._replace(view.members) if isinstance(view, View) else self._change(view)
        if "router" in changed:
            self.routers = frozenset((info.node, info.boot) for info in self.members.roles["router"].values())
        return changed

    def _replace(self, infos: list[NodeInfo]) -> set[str]:
        members = _Members()
        there: set[str] = set()
        for info in infos:
            if _well_formed(info):
                members.put(info, there)
        if members.infos == self.members.infos:
            return set()
        before, self.members = self.members, members
        members.roles.setdefault("router", {})
        return there.union(before.roles)

    def _change(self, change: ViewChange) -> set[str]:
        changed: set[str] = set()
        for node in change.left:
            self.members.drop(node, changed)
        for info in change.joined:
            if _well_formed(info):
                self.members.put(info, changed)
        return changed


class Membership:
    """The views of all routers that there is, or very recently was, a way to; a router's own one included.

    own: the router's own NodeInfo, None for other roles.  :attr:`version` grows with every change, :attr:`merged` with
    every view taken in, be there a difference in it or not, :attr:`routers_version` when routers may be others.
    """

    def __init__(self, own: NodeInfo | None = None) -> None:
        self.version = 0
        self.merged = 0
        self.routers_version = 0
        self.own_serial = 1 if own is not None else 0
        self._own = own
        self._members = _Members()
        self._log: deque[tuple[int, bytes]] = deque(maxlen=MAX_LOG)
        self._views: dict[_Key, _RouterView] = {}
        self._arrivals = 0
        self._by_role: dict[str, list[NodeInfo]] = {}
        self._role_versions: dict[str, int] = {}
        self._all_roles_version = 0
        self._drop_at: float | None = None

    # --- the own view of a router -------------------------------------------------------------------------------------

    def set_member(self, info: NodeInfo) -> bool:
        """A node has a link with this router, or says something new about itself.  True if that changed the view."""
        changed: set[str] = set()
        self._members.put(info, changed)
        return self._own_changed(info.node, changed)

    def drop_member(self, node: bytes, boot: bytes | None = None) -> bool:
        """The last link with *node* is gone.  Nothing happens if another *boot* of it has joined since."""
        member = self._members.infos.get(node)
        if member is None or (boot is not None and member.boot != boot):
            return False
        changed: set[str] = set()
        self._members.drop(node, changed)
        return self._own_changed(node, changed)

    @property
    def own_size(self) -> int:
        """How many nodes have a link with this router."""
        return len(self._members.infos)

    def own_view(self) -> View | None:
        """All of the own view; None for roles other than router."""
        if self._own is None:
            return None
        members = [self._own, *self._members.infos.values()]
        return View(self._own.node, self._own.boot, self.own_serial, members)

    def own_change(self, base: int) -> View | ViewChange | None:
        """What brings one who has version *base* of the own view up to date: the difference, or all of it where that is
        not known any more.  None for roles other than router."""
        if self._own is None:
            return None
        oldest = self._log[0][0] - 1 if self._log else self.own_serial
        if not max(1, oldest) <= base <= self.own_serial:
            return self.own_view()
        nodes = dict.fromkeys(node for serial, node in self._log if serial > base)
        members = self._members.infos
        joined = [members[node] for node in nodes if node in members]
        left = [node for node in nodes if node not in members]
        return ViewChange(self._own.node, self._own.boot, base, self.own_serial, joined, left)

    def _own_changed(self, node: bytes, roles: set[str]) -> bool:
        if roles:
            self.own_serial += 1
            self._log.append((self.own_serial, node))
            self._changed(roles)
        return bool(roles)

    # --- the views of other routers -----------------------------------------------------------------------------------

    def router_up(self, node: bytes, boot: bytes, now: float) -> None:
        """A link with a router is up.  A boot nonce other than before is another incarnation: its old view is void."""
        for former in [key for key in self._views if key[0] == node and key[1] != boot]:
            del self._views[former]
        view = self._views.get((node, boot))
        if view is None:
            self._views[node, boot] = view = _RouterView(now)
        if view.links == 0:
            view.up_since = now
            view.grace_s = VIEW_GRACE_S
        view.links += 1
        self._reach(now)

    def router_down(self, node: bytes, boot: bytes, now: float, grace_s: float = VIEW_GRACE_S) -> None:
        """A link with a router is gone; with the last way to it, its view ends *grace_s* seconds later."""
        view = self._views.get((node, boot))
        if view is None or view.links == 0:
            return
        view.links -= 1
        if view.links == 0:
            view.grace_s = grace_s
            self._reach(now)
            self.tick(now)

    def merge(self, view: View | ViewChange, now: float = 0.0) -> bool:
        """Take in what a router sees, as it says itself or another one passes on.  False if that is not newer, or is
        the difference to a version that is not here (see :meth:`lacks`)."""
        key = (view.router, view.boot)
        known = self._views.get(key)
        if self._serial(key) >= view.serial or self.lacks(view) or self._knows_better(key):
            return False
        if known is None:
            known = self._views[key] = _RouterView(now)
            known.drop_at = now + VIEW_GRACE_S  # unless it turns out that there is a way to this router
            self._drop_at = self._next_drop()
        known.serial = view.serial
        self.merged += 1
        changed = known.take(view)
        if changed:
            self._arrivals += 1
            known.arrival = self._arrivals
            self._changed(changed)
        if "router" in changed:
            self._reach(now)
        if not known.reached and known.links == 0:
            self._reach(now)
        return True

    def _knows_better(self, key: _Key) -> bool:
        """Whether that is this router itself, or a former self of one that there is a link with."""
        if self._own is not None and key[0] == self._own.node:
            return True
        return any(other[0] == key[0] and other != key and view.links for other, view in self._views.items())

    def lacks(self, view: View | ViewChange) -> bool:
        """Whether *view* is of no use because the version that it builds on is not here."""
        return isinstance(view, ViewChange) and view.base > self._serial((view.router, view.boot))

    def serial_of(self, router: bytes, boot: bytes | None = None) -> int:
        """The serial of the newest view of *router* here; 0 for none."""
        if boot is not None:
            return self._serial((router, boot))
        return max((view.serial for (node, _), view in self._views.items() if node == router), default=0)

    def _serial(self, key: _Key) -> int:
        view = self._views.get(key)
        return 0 if view is None else view.serial

    def members_of(self, router: bytes, boot: bytes) -> Collection[bytes]:
        """The ids of the nodes that *router* has links with, as far as known."""
        view = self._views.get((router, boot))
        return () if view is None else view.members.infos.keys()

    def versions(self) -> list[tuple[bytes, bytes, int]]:
        """(router, boot, serial) of every view of a router that there is a way to; a router's own one included."""
        found = [(*key, view.serial) for key, view in self._views.items() if view.reached and view.serial]
        if self._own is not None:
            found.append((self._own.node, self._own.boot, self.own_serial))
        return found

    def newer_than(self, known: dict[_Key, int], asker: bytes) -> list[View]:
        """The views of other routers that there is a way to, where they are newer than what *asker* knows."""
        return [
            View(*key, view.serial, list(view.members.infos.values()))
            for key, view in self._views.items()
            if view.reached and view.serial > known.get(key, 0) and key[0] != asker
        ]

    def tick(self, now: float) -> bool:
        """Drop the views whose grace is over.  True if there were any."""
        if self._drop_at is None or self._drop_at > now:
            return False
        over = [key for key, view in self._views.items() if view.drop_at is not None and view.drop_at <= now]
        for key in over:
            del self._views[key]
        self._drop_at = self._next_drop()
        if over:
            self.routers_version += 1
            self._changed()
        return bool(over)

    def next_wakeup(self) -> float | None:
        return self._drop_at

    def _next_drop(self) -> float | None:
        return min((view.drop_at for view in self._views.values() if view.drop_at is not None), default=None)

    def _reach(self, now: float) -> None:
        """Work out which routers there is a way to; give those that there is none to any more a moment."""
        reached = {key for key, view in self._views.items() if view.links}
        edge = list(reached)
        while edge:
            for key in self._views[edge.pop()].routers:
                if key not in reached and key in self._views:
                    reached.add(key)
                    edge.append(key)
        nodes = {node for node, _ in reached}
        for key, view in list(self._views.items()):
            if key in reached:
                view.reached, view.counts, view.drop_at = True, True, None
            elif key[0] in nodes:
                del self._views[key]  # it runs again, and knows nothing of what this one knew
            elif view.reached:
                leaving = key[0] in view.members.infos and view.members.infos[key[0]].leaving
                view.reached, view.drop_at = False, now + (0.0 if leaving else view.grace_s)
        self._drop_at = self._next_drop()
        self.routers_version += 1
        self._changed()

    # --- the union ----------------------------------------------------------------------------------------------------

    def nodes(self) -> dict[bytes, NodeInfo]:
        """Every known node by its id."""
        return {info.node: info for role in self._roles() for info in self._of_role(role)}

    def version_of(self, role: str) -> int:
        """Grows when the nodes of *role* may be others."""
        return max(self._role_versions.get(role, 0), self._all_roles_version)

    def routers(self) -> list[NodeInfo]:
        """All routers that have an address, sorted by node id."""
        return self._of_role("router")

    def gateways(self) -> list[NodeInfo]:
        """All gateways, sorted by node id."""
        return self._of_role("gateway")

    def workers(self) -> list[NodeInfo]:
        """All worker nodes, the leaving ones too, sorted by node id."""
        return self._of_role("worker")

    def worker_ids(self) -> set[bytes]:
        return {info.node for info in self.workers()}

    def replicas(self) -> list[NodeInfo]:
        """All replicas that have a link with a router, which they open once they are ready."""
        return self._of_role("replica")

    def routers_of(self, node: bytes) -> list[bytes]:
        """The ids of the routers that have a link with *node*, sorted."""
        found = {router for (router, _), view in self._views.items() if view.reached and node in view.members.infos}
        if self._own is not None and node in self._members.infos:
            found.add(self._own.node)
        return sorted(found - {node})

    def live_routers(self) -> list[tuple[bytes, float]]:
        """(node id, up since) of the routers that there is a link with now."""
        return [(node, view.up_since) for (node, _), view in self._views.items() if view.links]

    def _of_role(self, role: str) -> list[NodeInfo]:
        found = self._by_role.get(role)
        if found is None:
            found = self._by_role[role] = sorted(self._union(role).values(), key=lambda info: info.node)
        return list(found)

    def _union(self, role: str) -> dict[bytes, NodeInfo]:
        """A router's word about itself goes before what others say about it; among others the latest view counts, but a
        node that any of them knows to be leaving is leaving."""
        nodes: dict[bytes, NodeInfo] = {}
        leaving: set[tuple[bytes, bytes]] = set()
        for members in self._that_count():
            for node, info in members.roles.get(role, {}).items():
                nodes[node] = info
                if info.leaving:
                    leaving.add((node, info.boot))
        if role == "router":
            for (router, _), view in self._views.items():
                if view.counts and router in view.members.infos:
                    nodes[router] = view.members.infos[router]
            if self._own is not None:
                nodes[self._own.node] = self._own
        for node, boot in leaving:
            if nodes[node].boot == boot and not nodes[node].leaving:
                nodes[node] = msgspec.structs.replace(nodes[node], leaving=True)
        return nodes

    def _that_count(self) -> list[_Members]:
        """What there is to join, the oldest first."""
        views = sorted((view for view in self._views.values() if view.counts), key=lambda view: view.arrival)
        return [*(view.members for view in views), self._members]

    def _roles(self) -> set[str]:
        return {"router"}.union(*(members.roles for members in self._that_count()))

    def _changed(self, roles: set[str] | None = None) -> None:
        """roles: None for all of them."""
        self.version += 1
        if roles is None:
            self._by_role = {}
            self._all_roles_version = self.version
            return
        for role in roles:
            self._by_role.pop(role, None)
            self._role_versions[role] = self.version


def _well_formed(info: NodeInfo) -> bool:
    return len(info.node) == 16 and len(info.boot) == 8

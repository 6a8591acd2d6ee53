"""Who is in the fabric: the union of what the live routers see.

Each router is the only writer of its own view, the list of nodes that it has links with; ``(boot, serial)`` orders its
versions.  So there is nothing to agree on: a node is there if at least one live router has a link with it, and the
router's own heartbeats decide about that.
"""

from __future__ import annotations

import msgspec

from ..wire.messages import NodeInfo, View

__all__ = ["VIEW_GRACE_S", "Membership"]

VIEW_GRACE_S = 5.0
"""How long the view of a router is kept after the last link with it was lost: its nodes need this long to be seen by
others, and a link that only hiccuped comes back sooner."""


class _RouterView:
    __slots__ = ("arrival", "boot", "drop_at", "links", "members", "serial", "up_since")

    def __init__(self, boot: bytes, now: float) -> None:
        self.boot = boot
        self.serial = 0
        self.members: dict[bytes, NodeInfo] = {}
        self.links = 0
        self.up_since = now
        self.drop_at: float | None = None
        self.arrival = 0


class Membership:
    """The views of all routers that this node has, or very recently had, a link with; a router's own one included.

    own: the router's own NodeInfo, None for other roles.  :attr:`version` grows with every change.
    """

    def __init__(self, own: NodeInfo | None = None) -> None:
        self.version = 0
        self.own_serial = 1 if own is not None else 0
        self._own = own
        self._members: dict[bytes, NodeInfo] = {}
        self._views: dict[bytes, _RouterView] = {}
        self._arrivals = 0
        self._nodes: dict[bytes, NodeInfo] | None = None
        self._by_role: dict[str, list[NodeInfo]] = {}

    # --- the own view of a router -------------------------------------------------------------------------------------

    def set_member(self, info: NodeInfo) -> bool:
        """A node has a link with this router, or says something new about itself.  True if that changed the view."""
        if self._members.get(info.node) == info:
            return False
        self._members[info.node] = info
        return self._own_changed()

    def drop_member(self, node: bytes, boot: bytes | None = None) -> bool:
        """The last link with *node* is gone.  Nothing happens if another *boot* of it has joined since."""
        member = self._members.get(node)
        if member is None or (boot is not None and member.boot != boot):
            return False
        del self._members[node]
        return self._own_changed()

    @property
    def own_size(self) -> int:
        """How many nodes have a link with this router."""
        return len(self._members)

    def own_view(self) -> View | None:
        """The view to publish; None for roles other than router."""
        if self._own is None:
            return None
        members = [self._own, *self._members.values()]
        return View(self._own.node, self._own.boot, self.own_serial, members)

    def _own_changed(self) -> bool:
        self.own_serial += 1
        self._changed()
        return True

    # --- the views of other routers -----------------------------------------------------------------------------------

    def router_up(self, node: bytes, boot: bytes, now: float) -> None:
        """A link with a router is up.  A boot nonce other than before is another incarnation: its old view is void."""
        view = self._views.get(node)
        if view is None or view.boot != boot:
            self._views[node] = view = _RouterView(boot, now)
            self._changed()
        if view.links == 0:
            view.up_since = now
        view.links += 1
        view.drop_at = None

    def router_down(self, node: bytes, boot: bytes, now: float, grace_s: float = VIEW_GRACE_S) -> None:
        """A link with a router is gone; with the last one, its view ends *grace_s* seconds later."""
        view = self._views.get(node)
        if view is None or view.boot != boot or view.links == 0:
            return
        view.links -= 1
        if view.links == 0:
            view.drop_at = now + grace_s
            self.tick(now)

    def merge(self, view: View) -> bool:
        """Take in what a router says it sees.  False if it is not newer, or not of a router known by a link."""
        known = self._views.get(view.router)
        if known is None or known.boot != view.boot or known.serial >= view.serial:
            return False
        members = {info.node: info for info in view.members if len(info.node) == 16 and len(info.boot) == 8}
        known.serial = view.serial
        if members != known.members:
            known.members = members
            self._arrivals += 1
            known.arrival = self._arrivals
            self._changed()
        return True

    def serial_of(self, router: bytes) -> int:
        """The serial of the newest view of *router* here; 0 for none."""
        view = self._views.get(router)
        return view.serial if view is not None else 0

    def tick(self, now: float) -> bool:
        """Drop the views whose grace is over.  True if there were any."""
        over = [node for node, view in self._views.items() if view.drop_at is not None and view.drop_at <= now]
        for node in over:
            del self._views[node]
        if over:
            self._changed()
        return bool(over)

    def next_wakeup(self) -> float | None:
        return min((view.drop_at for view in self._views.values() if view.drop_at is not None), default=None)

    # --- the union ----------------------------------------------------------------------------------------------------

    def nodes(self) -> dict[bytes, NodeInfo]:
        """Every known node by its id.  A router's word about itself goes before what others say about it; among others
        the latest view counts, but a node that any of them knows to be leaving is leaving."""
        if self._nodes is None:
            nodes: dict[bytes, NodeInfo] = {}
            leaving: set[tuple[bytes, bytes]] = set()
            lists = [view.members for view in sorted(self._views.values(), key=lambda view: view.arrival)]
            for members in [*lists, self._members]:
                for node, info in members.items():
                    nodes[node] = info
                    if info.leaving:
                        leaving.add((node, info.boot))
            for router, view in self._views.items():
                if router in view.members:
                    nodes[router] = view.members[router]
            if self._own is not None:
                nodes[self._own.node] = self._own
            for node, boot in leaving:
                if nodes[node].boot == boot and not nodes[node].leaving:
                    nodes[node] = msgspec.structs.replace(nodes[node], leaving=True)
            self._nodes = nodes
        return self._nodes

    def routers(self) -> list[NodeInfo]:
        """All routers that have an address, sorted by node id."""
        return self._of_role("router")

    def workers(self) -> list[NodeInfo]:
        """All worker nodes, the leaving ones too, sorted by node id."""
        return self._of_role("worker")

    def replicas(self) -> list[NodeInfo]:
        """All replicas that have a link with a router, which they open once they are ready."""
        return self._of_role("replica")

    def live_routers(self) -> list[tuple[bytes, float]]:
        """(node id, up since) of the routers that there is a link with now."""
        return [(node, view.up_since) for node, view in self._views.items() if view.links]

    def _of_role(self, role: str) -> list[NodeInfo]:
        found = self._by_role.get(role)
        if found is None:
            found = sorted((info for info in self.nodes().values() if info.role == role), key=lambda info: info.node)
            self._by_role[role] = found
        return list(found)

    def _changed(self) -> None:
        self._nodes = None
        self._by_role = {}
        self.version += 1

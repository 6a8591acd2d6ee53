"""Answers that go from a replica straight to the gateway that waits for them, past the router.

Theory of operation.  A gateway has a socket for answers, and the replicas on its machine have links with it.  A request
id begins with the boot nonce of its gateway, so a replica knows who waits for a request without being told.  The
router, whose credits and estimates hang on the end of each request, is told by :class:`Answered`: nobody waits for
that, so it may come a little later, and for many answers at once.

Only the usual answers go this way, to requests that have come once, from one router, and have not failed.  About all
others (errors, streams, what was sent again) the router may have something to decide, so they go through it.

What is lost on the way is found like what a router has lost: see :meth:`.gateway.GatewayCore.link_down`.
"""

from __future__ import annotations

from collections.abc import Collection

from ..channel.outbox import Outbox, Parcel, Peer
from ..channel.suspicion import same_machine
from ..registry.sync import ConfigSync
from ..wire.messages import Answered, Hello

__all__ = ["ANSWERED_VERSION", "ID_SIZE", "PREFIX_SIZE", "UNTOLD", "UNTOLD_S", "Shortcuts", "gateways_beside"]

ANSWERED_VERSION = 4
"""The protocol version from which on a router knows :class:`Answered`."""
ID_SIZE = 16
PREFIX_SIZE = 8
"""Bytes of a request id that name its gateway: the boot nonce."""
UNTOLD = 64
"""So many answers a router need not know of yet.  Echo at 64 connections: 1.04 times the answers of telling it at once,
0.96 of the processor time."""
UNTOLD_S = 0.002
"""And for so long.  Should the replica be killed meanwhile, the router takes these requests for lost, and runs those
again that may be, for nobody."""


def gateways_beside(sync: ConfigSync) -> list[str]:
    """Where the gateways on the machine of this node take answers."""
    own = sync.info
    return [
        info.address
        for info in sync.membership.gateways()
        if info.address and not info.leaving and same_machine(own, info.host, info.pid_space)
    ]


class Shortcuts:
    """A replica's links with gateways.  Effects: the outbox."""

    __slots__ = ("_gateways", "_links", "_out", "_routers", "_since", "_untold", "taken")

    def __init__(self, out: Outbox) -> None:
        self.taken = 0
        self._out = out
        self._links: dict[Peer, bytes] = {}  # the boot nonces of gateways
        self._gateways: dict[bytes, Peer] = {}  # the other way round, without those that are silent
        self._routers: set[Peer] = set()  # those that know Answered
        self._untold: dict[Peer, list[tuple[bytes, int, int, float]]] = {}  # by router: (id, run_us, waited_us, when)
        self._since = 0.0  # of the oldest of them

    def link_up(self, peer: Peer, hello: Hello) -> None:
        if hello.info.role == "gateway":
            self._links[peer] = hello.info.boot
            self._gateways[hello.info.boot] = peer
        elif hello.info.role == "router" and hello.version >= ANSWERED_VERSION:
            self._routers.add(peer)

    def link_doubted(self, peer: Peer, cause: str) -> None:
        """What is for a silent gateway goes to the router, who may know better."""
        boot = self._links.get(peer)
        if boot is None:
            return
        if not cause:
            self._gateways[boot] = peer
        elif self._gateways.get(boot) == peer:
            del self._gateways[boot]

    def link_down(self, peer: Peer) -> None:
        self._routers.discard(peer)
        self._untold.pop(peer, None)
        boot = self._links.pop(peer, None)
        if boot is not None and self._gateways.get(boot) == peer:
            del self._gateways[boot]

    @property
    def open(self) -> bool:
        """Whether there is a gateway to which answers could go."""
        return bool(self._gateways)

    def send(self, router: Peer, parcels: list[Parcel], waited: list[int], now: float) -> None:
        """Results for requests that have come from *router*, where each had waited for so many microseconds (of which
        nothing need be said where the way is not :attr:`open`)."""
        gateways = self._gateways
        if not gateways or router not in self._routers:
            self._out.send_all(router, parcels)
            return
        told: list[tuple[bytes, int, int, float]] = []
        ways: dict[Peer, list[Parcel]] = {}
        for parcel, waited_us in zip(parcels, waited):  # noqa: B905 (they are as many)
            result = parcel[0]
            request_id = result.id
            way = gateways.get(request_id[:PREFIX_SIZE], router) if result.status < 500 else router
            if way is not router:
                told.append((request_id, result.run_us, result.queue_us + result.batch_us, now))
                result.queue_us += waited_us  # as the router would
            together = ways.get(way)
            if together is None:
                ways[way] = [parcel]
            else:
                together.append(parcel)
        for way, together in ways.items():
            self._out.send_all(way, together)
        if told:
            self.taken += len(told)
            if not self._untold:
                self._since = now
            untold = self._untold.get(router)
            if untold is None:
                self._untold[router] = told
            else:
                untold.extend(told)

    def may_wait(self, leaving: Collection[Peer], now: float) -> bool:
        """Whether routers need not be told yet.  *leaving*: to whom something leaves anyway."""
        for router, untold in self._untold.items():
            if len(untold) >= UNTOLD or router in leaving:
                return False
        return now - self._since < UNTOLD_S

    @property
    def untold(self) -> bool:
        """Whether there is anything to :meth:`tell`."""
        return bool(self._untold)

    def tell(self, now: float) -> None:
        """Tell the routers of the answers since the last time."""
        all_untold, self._untold = self._untold, {}
        for router, untold in all_untold.items():
            ids, run_us, waited_us, at = zip(*untold, strict=True)
            ago_us = [int((now - then) * 1e6) for then in at]
            self._out.send(router, Answered(b"".join(ids), list(run_us), list(waited_us), ago_us))

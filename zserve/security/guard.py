"""The judge of what comes in over keyed links: pure, one for each node.

The transport has proven which key a message comes from; the guard decides what that is worth.  HELLO binds a link to
its key (role and node id must be the key's), and from then on each message must come from that key and be one that the
role may send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from ..channel.outbox import Parcel, Peer
from ..wire.messages import ASK_FOR_HELLO, Control, ControlReply, Hello, Message, Report, Reset
from .known_keys import OWNER_BYTES, KnownKey, KnownKeys
from .roles import PUBLISHED, READS, may_be, may_send

__all__ = ["Guard", "Verdict"]


_LOOKED_INTO = frozenset((Control, Hello, Report))


class Verdict:
    """What became of one wire message: what of it is ``admitted``, what to ``answer``, and why the rest was ``refused``
    ("" if there is none)."""

    __slots__ = ("admitted", "answers", "refused")

    def __init__(self, admitted: list[Parcel]) -> None:
        self.admitted = admitted
        self.answers: list[Message] = []
        self.refused = ""


class _Link:
    __slots__ = ("allowed", "dialled", "greeted", "key", "operator", "public", "router")

    def __init__(self, public: bytes, key: KnownKey, role: str, receiver: str, *, dialled: bool) -> None:
        self.public = public
        self.key = key
        self.allowed = may_send(role, receiver)
        self.operator = "operator" in key.roles
        self.router = role == "router"  # routers pass on what others have reported
        self.dialled = dialled
        self.greeted = not dialled


class Guard:
    """Judges for a node of *role*; *known* gives the keys that are in force.

    refused: messages that were turned away, whatever the reason.
    """

    def __init__(self, role: str, known: Callable[[], KnownKeys]) -> None:
        self.role = role
        self.refused = 0
        self._known = known
        self._links: dict[Peer, _Link] = {}

    def dialled(self, peer: Peer, public: bytes) -> bool:
        """A link is being opened towards the router with the key *public*; False if it is not a router's."""
        key = self._known().get(public)
        if key is None or "router" not in key.roles:
            return False
        self._links[peer] = _Link(public, key, "router", self.role, dialled=True)
        return True

    def judge(self, peer: Peer, public: bytes | None, parcels: Sequence[Parcel]) -> Verdict:
        """What of a wire message from *peer*, sent with the key *public*, goes on to links and core."""
        link = self._links.get(peer)
        if link is None or not link.greeted or link.public != public or (parcels and type(parcels[0][0]) is Hello):
            return self._greet(peer, link, public, parcels)
        allowed = link.allowed
        for message, _, _ in parcels:
            kind = type(message)
            if kind not in allowed or kind in _LOOKED_INTO:
                return self._sift(link, parcels)
        return Verdict(list(parcels))

    def published(self, peer: Peer, parcels: Sequence[Parcel]) -> list[Parcel]:
        """What of a publication of the router at *peer* goes on."""
        link = self._links.get(peer)
        admitted = [parcel for parcel in parcels if type(parcel[0]) in PUBLISHED] if link is not None else []
        self.refused += len(parcels) - len(admitted)
        return admitted

    def revoked(self) -> list[Peer]:
        """The links whose key does not allow any more what it was admitted for, after the keys have changed."""
        known = self._known()
        gone = []
        for peer, link in self._links.items():
            key = known.get(link.public)
            if key is None or not link.key.roles <= key.roles:
                gone.append(peer)
            else:
                link.key = key
                link.operator = "operator" in key.roles
        return gone

    def forget(self, peer: Peer) -> None:
        """The link has ended."""
        self._links.pop(peer, None)

    def knows(self, peer: Peer) -> bool:
        """Whether the link is bound to a key."""
        return peer in self._links

    def name_of(self, peer: Peer) -> str:
        """The name that the known-keys file gives to the holder of the link's key."""
        link = self._links.get(peer)
        return link.key.name if link is not None else ""

    # --- the rare cases ---------------------------------------------------------------------------------------------

    def _greet(self, peer: Peer, link: _Link | None, public: bytes | None, parcels: Sequence[Parcel]) -> Verdict:
        """The first message of a link: HELLO, or nothing."""
        hello = parcels[0][0] if parcels else None
        if link is not None and link.public != public:
            return self._refuse(parcels, "this link belongs to another key")
        if type(hello) is not Hello:
            if link is not None:  # dialled: a router that turns us away does not greet first
                admitted = [parcel for parcel in parcels if type(parcel[0]) is Reset]
                self.refused += len(parcels) - len(admitted)
                return Verdict(admitted)
            return self._refuse(parcels, ASK_FOR_HELLO)
        key = self._known().get(public) if public is not None else None
        refusal = "this key is not known here" if key is None else _why_not(key, hello)
        if key is None or refusal:
            return self._refuse(parcels, refusal)
        assert public is not None
        if link is None or not link.dialled:  # said twice, it is judged twice
            link = self._links[peer] = _Link(public, key, hello.info.role, self.role, dialled=False)
        link.greeted = True
        return self._sift(link, parcels)

    def _refuse(self, parcels: Sequence[Parcel], reason: str) -> Verdict:
        self.refused += max(1, len(parcels))
        verdict = Verdict([])
        verdict.refused = reason
        verdict.answers.append(Reset(reason))
        return verdict

    def _sift(self, link: _Link, parcels: Sequence[Parcel]) -> Verdict:
        verdict = Verdict([])
        for parcel in parcels:
            message = parcel[0]
            kind = type(message)
            if kind not in link.allowed or (kind is Hello and parcel is not parcels[0]):
                verdict.refused = f"{kind.__name__} is not for the key of {link.key.name} to send"
            elif kind is Control and not link.operator and message.op not in READS:
                verdict.refused = f"{message.op[:40]} needs an operator's key, which that of {link.key.name} is not"
                verdict.answers.append(_denied(message, verdict.refused))
            elif kind is Report and not link.router and not _own_report(message, link.key.owner):
                verdict.refused = f"{link.key.name} reports on replicas that are not its own"
            else:
                verdict.admitted.append(parcel)
                continue
            self.refused += 1
        return verdict


def _why_not(key: KnownKey, hello: Hello) -> str:
    """The reason why the holder of *key* may not say this HELLO; "" if it may."""
    info = hello.info
    if not may_be(key.roles, info.role):
        return f"the key of {key.name} is for {','.join(sorted(key.roles))}, not for a {info.role[:40]}"
    if info.node[:OWNER_BYTES] != key.owner:
        return f"the node id is not one of the key of {key.name}"
    if info.role == "replica" and info.worker[:OWNER_BYTES] != key.owner:
        return f"the replica's worker node is not one of the key of {key.name}"
    return ""


def _own_report(report: Report, owner: bytes) -> bool:
    if report.worker and report.worker[:OWNER_BYTES] != owner:
        return False
    return all(one.node[:OWNER_BYTES] == owner for one in report.replicas)


def _denied(call: Control, reason: str) -> ControlReply:
    return ControlReply(call.id, False, orjson.dumps({"error": "ServeError", "message": reason}))

"""Suspicion: a link that has been silent for a while, and what can be found out about the node at its other end.

Theory of operation.  After SUSPECT_AFTER_S of silence a node is under suspicion.  It gets nothing new from here while
there are others to give it to, and three other nodes are asked about it (Doubt): one on its own machine, which can look
at its process, and routers, which have links with everybody.  Their answers (Word) settle what is wrong:

- Somebody has heard it since: the node lives and the connection is at fault.  That refutes the suspicion (SWIM would
  raise an incarnation number for it; here the boot nonce and the time are enough, see :meth:`Suspicion.take`).  The
  link gets twice the time to come back.
- Its process can be looked at: stopped (SIGSTOP, a debugger), gone, or running, and then it is its event loop that
  stalls.
- Neither: the host, if nobody there is heard, else the connection.

Anything that comes over the link ends the suspicion at once.  Pure: what is done about it, the links decide.
Sources: SWIM (Das et al., DSN 2002), Lifeguard (arXiv 1707.00788), memberlist's ``state.go``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..wire.messages import Doubt, NodeInfo, Word

__all__ = [
    "ENDED",
    "MAX_WITNESSES",
    "RUNS",
    "STOPPED",
    "SUSPECT_AFTER_S",
    "UNKNOWN",
    "Suspicion",
    "choose_witnesses",
    "name_of",
    "same_machine",
]

SUSPECT_AFTER_S = 2.5
"""Silence after which a node is suspected: two heartbeats and a half."""
MAX_WITNESSES = 3
"""How many others are asked (as in SWIM and memberlist)."""
REFUTED_FACTOR = 2.0

STOPPED: Final = "stopped"
RUNS: Final = "runs"
ENDED: Final = "ended"
UNKNOWN: Final = ""
"""What can be said of a process; on the wire in :class:`Word`."""
_STATES = frozenset((STOPPED, RUNS, ENDED))


class Suspicion:
    """What is known about one link that has been silent for *silent_s*, with the node *info*.

    process: one of the four states.  logged: the cause that people have been told.
    """

    __slots__ = ("_heard", "_info", "_silent_us", "cause", "logged", "process")

    def __init__(self, info: NodeInfo, silent_s: float) -> None:
        self.process: str = UNKNOWN
        self.cause = ""
        self.logged = ""
        self._info = info
        self._silent_us = int(silent_s * 1e6)
        self._heard: dict[str, bool] = {}

    @property
    def refuted(self) -> bool:
        """Whether somebody has heard it since."""
        return True in self._heard.values()

    @property
    def patience(self) -> float:
        """What to multiply the time with that the link is given."""
        return REFUTED_FACTOR if self.refuted else 1.0

    @property
    def doubt(self) -> Doubt:
        """The question for others."""
        info = self._info
        return Doubt(info.node, info.boot, info.host, info.pid_space, info.pid)

    def take(self, word: Word, witness: str) -> None:
        """What *witness* answers, "by router r1" or "over another link".

        Heard less long ago than the silence was when the suspicion began, which is at most as long as it was when the
        witness was asked: so it was heard there after it was heard here for the last time, on whatever clock."""
        if word.process in _STATES:
            self.process = word.process
        if word.heard_us >= 0:
            self._heard[witness] = word.heard_us < self._silent_us
        else:  # it has no link, or has lost it
            self._heard.pop(witness, None)

    def judge(self, host_heard: bool) -> str:
        """What is wrong, for people; kept in :attr:`cause`.  *host_heard*: other nodes on its machine are heard."""
        info = self._info
        nor = "".join(f", nor {witness}" for witness in self._heard)
        if self.refuted:
            witnesses = " and ".join(witness for witness, heard in self._heard.items() if heard)
            cause = f"it is heard {witnesses}: the connection with it is at fault"
        elif self.process == STOPPED:
            cause = f"its process {info.pid} is stopped (SIGSTOP)"
        elif self.process == ENDED:
            cause = f"its process {info.pid} has ended"
        elif self.process == RUNS:
            cause = f"its process {info.pid} runs, but its event loop is stalled"
        elif host_heard:
            cause = f"it is not heard{nor}, but others on host {info.host} are"
        else:
            cause = f"host {info.host or 'unknown'} is not heard{nor}: it may be down or cut off"
        self.cause = cause
        return cause


def same_machine(one: NodeInfo, host: str, pid_space: int) -> bool:
    """Whether a process id of (*host*, *pid_space*) means something to *one*."""
    return bool(pid_space) and one.pid_space == pid_space and one.host == host


def choose_witnesses(suspect: NodeInfo, linked: Iterable[tuple[bytes, NodeInfo]]) -> list[bytes]:
    """Whom to ask about *suspect*: of the (peer, info) given, one on its machine, then routers, then anybody."""
    neighbour: bytes | None = None
    routers: list[bytes] = []
    others: list[bytes] = []
    asked: set[bytes] = set()
    for peer, info in linked:
        if info.node == suspect.node or info.node in asked:
            continue
        asked.add(info.node)
        if neighbour is None and same_machine(suspect, info.host, info.pid_space):
            neighbour = peer
        elif info.role == "router":
            routers.append(peer)
        else:
            others.append(peer)
    first = [neighbour] if neighbour is not None else []
    return (first + routers + others)[:MAX_WITNESSES]


def name_of(info: NodeInfo) -> str:
    """A node as people know it: role and name, or the beginning of its id."""
    return f"{info.role} {info.name or info.node.hex()[:8]}"

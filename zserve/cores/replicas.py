"""The replicas that a router has links with, and what the worker nodes say of all replicas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..channel.outbox import Peer
from ..registry.reports import Reports
from ..wire.messages import Hello, ReplicaStatus, Report

__all__ = ["ReplicaTable"]

STUCK_S = 10.0
"""A replica is taken for stuck that has no place for more and has finished nothing for so long..."""
STUCK_RUNS = 5.0
"""... or for so many times what its calls take, if that is longer."""

_ENDED = frozenset(("dead", "failed"))


class ReplicaTable:
    """Links by backend, and, in *reports*, what each worker node says."""

    def __init__(self, reports: Reports) -> None:
        self._hello: dict[Peer, Hello] = {}
        self._by_backend: dict[str, list[Peer]] = {}
        self._reports = reports
        self._starting: dict[bytes, float] = {}
        self._full_since: dict[Peer, float] = {}  # when those that have no place for more last finished something

    def add(self, peer: Peer, hello: Hello) -> None:
        self._hello[peer] = hello
        self._by_backend.setdefault(hello.backend, []).append(peer)

    def remove(self, peer: Peer) -> Hello | None:
        """Forget a link; the replica's HELLO if it was that of one."""
        hello = self._hello.pop(peer, None)
        self._full_since.pop(peer, None)
        if hello is not None:
            peers = self._by_backend[hello.backend]
            peers.remove(peer)
            if not peers:
                del self._by_backend[hello.backend]
        return hello

    def heard(self, peer: Peer, progress_us: int, now: float) -> None:
        """The heartbeat of *peer* told how it gets on (see :class:`Ping`)."""
        if progress_us < 0:
            self._full_since.pop(peer, None)
        elif peer in self._hello:
            self._full_since[peer] = now - progress_us * 1e-6

    def stuck_s(self, peer: Peer, run_s: float, now: float) -> float:
        """For how long a replica, whose calls take *run_s* seconds by experience, has finished nothing although all its
        places are taken; 0 as long as that may be as it should."""
        since = self._full_since.get(peer)
        if since is None or now - since < max(STUCK_S, STUCK_RUNS * run_s):
            return 0.0
        return now - since

    def links(self) -> Iterable[tuple[Peer, Hello]]:
        """The links with all replicas, and how each introduced itself."""
        return self._hello.items()

    def has_ended(self, node: bytes, worker: bytes) -> bool:
        """Whether the worker node of a replica says that its process is not there any more."""
        report = dict(self._reports.items()).get(worker)
        if report is None:
            return False
        return all(status.node != node or status.state in _ENDED for status in report.replicas)

    def of(self, backend: str) -> Sequence[Peer]:
        """The links with replicas of *backend*."""
        return self._by_backend.get(backend, ())

    def ready(self, backend: str, version: str) -> int:
        """How many replicas of *backend* that run *version* of its code have a link."""
        return sum(self._hello[peer].code == version for peer in self.of(backend))

    def reported(self, report: Report, now: float) -> list[tuple[Peer, str]]:
        """A worker node has said something new; the links of replicas whose process has ended, with how it ended."""
        before = self._starting
        self._starting = {
            status.node: before.get(status.node, now) for _, status in self.statuses() if status.state == "starting"
        }
        ended = {status.node: status for status in report.replicas if status.state in _ENDED}
        if not ended:
            return []
        gone = []
        for peer, hello in self._hello.items():
            status = ended.get(hello.info.node)
            if status is not None:
                gone.append((peer, status.reason or status.state))
        return gone

    def absent(self, backend: str) -> list[str]:
        """What worker nodes say of the replicas of *backend*, where this router is linked with none: one text each."""
        found = []
        for _, status in self.statuses():
            if status.backend == backend:
                state = "has no link with this router" if status.state == "ready" else f"is {status.state}"
                why = status.reason.strip().rpartition("\n")[2] if status.state in _ENDED else ""
                process = f", process {status.pid}," if status.pid else ""
                found.append(f"replica {backend}#{status.index}{process} {state}" + (f": {why}" if why else ""))
        return found

    def starting_for(self, node: bytes, now: float) -> float | None:
        """Seconds since this router heard that the replica is being constructed; None if it is not."""
        since = self._starting.get(node)
        return None if since is None else now - since

    def statuses(self) -> Iterable[tuple[bytes, ReplicaStatus]]:
        """(id of the worker node, status) of every replica that a worker node reports."""
        for worker, report in self._reports.items():
            for status in report.replicas:
                yield worker, status

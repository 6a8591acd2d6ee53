"""Clients in threads, each request of which must end with an answer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType

import httpx

__all__ = ["Load"]


class Load:
    """*clients* threads that ask one of *bases* after the other; as any HTTP client would, a request that found the
    server closing an idle connection, or nobody listening, goes to the next base.

    ``answers`` counts statuses, ``lost`` describes requests that were sent and got no answer.
    """

    def __init__(
        self,
        bases: Sequence[str],
        path: str,
        clients: int = 8,
        *,
        method: str = "GET",
        check: Callable[[httpx.Response], bool] | None = None,
    ) -> None:
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.longest_gap_s = 0.0
        self._bases = list(bases)
        self._path = path
        self._method = method
        self._check = check
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last_answer = time.monotonic()
        self._turn = itertools.count()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        self._last_answer = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def count(self) -> int:
        return sum(self.answers.values())

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Return when *more* answers than now have come."""
        wanted = self.count + more
        end = time.monotonic() + timeout_s
        while self.count < wanted:
            assert time.monotonic() < end, f"{self.count} of {wanted} answers, lost: {self.lost[:3]}"
            time.sleep(0.005)

    def _run(self) -> None:
        with httpx.Client(timeout=30.0) as client:
            while not self._stop.is_set():
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        # The turn is this request's own: threads that shared it while they go on could take a dead base every time.
        first = next(self._turn)
        for turn in range(first, first + 20):
            base = self._bases[turn % len(self._bases)]
            try:
                answer = client.request(self._method, base + self._path)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                if isinstance(error, httpx.ConnectError) or "without sending a response" in str(error):
                    continue
                with self._lock:
                    self.lost.append(f"{base}: {error!r}")
                return
            except httpx.HTTPError as error:
                with self._lock:
                    self.lost.append(f"{base}: {error!r}")
                return
            now = time.monotonic()
            with self._lock:
                self.answers[answer.status_code] += 1
                self.longest_gap_s = max(self.longest_gap_s, now - self._last_answer)
                self._last_answer = now
                if self._check is not None and not self._check(answer):
                    self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
            return
        with self._lock:
            self.lost.append("no base took it")

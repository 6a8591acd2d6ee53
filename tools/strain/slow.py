"""``python -m tools.strain.slow``: how much slow senders cost those who are not slow.

Measures the latency of good traffic without them and with them, in turns, on a fabric of real processes.  Exit status
1: the p99 with them is more than twice what it is without them (by the median of the pairs), a request of the good ones
failed, or a slow sender lived longer than its limit.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import sys
import threading
import time
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from zserve.nodes.descriptors import raise_open_files

from .serving import result_of, run_load, running_fabric, start_load

RATIO = 2.0
HEADER_S = 10.0
BODY_S = 20.0
"""A body that is too slow is cut off at the end of the first or second 10 s that brought less than 10 KiB."""
SLACK_S = 3.0
"""Beyond its limit: a gateway looks once a second, and what it writes has to arrive."""
_BEGINNINGS = (
    (b"GET /echo HTTP/1.1\r\nHost: h\r\n", b"X-Slow: y\r\n", HEADER_S),
    (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n", b"x", BODY_S),
    (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", BODY_S),
)


class _Sender(NamedTuple):
    connection: socket.socket
    piece: bytes
    until: float


class SlowSenders:
    """*count* connections that each send a few bytes a second, headers or bodies; one that is cut off is replaced.

    cut: how many were; longest_s: by how much the longest-lived was beyond what its kind may take, negative for less.
    """

    def __init__(self, url: str, count: int) -> None:
        place = urlsplit(url)
        self._address = (place.hostname, place.port)
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._open: dict[int, _Sender] = {}
        self._made = 0
        self._stop = threading.Event()
        self._complete = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.cut = 0
        self.longest_s = -BODY_S

    def __enter__(self) -> SlowSenders:
        self._thread.start()
        if not self._complete.wait(60.0):
            raise RuntimeError(f"{len(self._open)} of {self._count} slow senders came through")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60.0)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            for _ in range(min(50, self._count - len(self._open))):
                self._begin()
            if len(self._open) == self._count:
                self._complete.set()
            for key, _ in self._selector.select(0.05):
                self._readable(self._open[key.fd])
            now = time.monotonic()
            for sender in self._open.values():
                self.longest_s = max(self.longest_s, now - sender.until)
            if now >= due:
                due = now + 1.0
                for sender in list(self._open.values()):
                    self._send(sender, sender.piece)
        for sender in self._open.values():
            sender.connection.close()
        self._selector.close()

    def _begin(self) -> None:
        beginning, piece, limit_s = _BEGINNINGS[self._made % len(_BEGINNINGS)]
        self._made += 1
        connection = socket.create_connection(self._address, 30.0)
        connection.setblocking(False)
        sender = _Sender(connection, piece, time.monotonic() + limit_s)
        self._open[connection.fileno()] = sender
        self._selector.register(connection, selectors.EVENT_READ)
        self._send(sender, beginning)

    def _send(self, sender: _Sender, data: bytes) -> None:
        try:
            sender.connection.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self._end(sender)

    def _readable(self, sender: _Sender) -> None:
        try:
            if sender.connection.recv(4096):
                return  # the 408; the end follows
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(sender)

    def _end(self, sender: _Sender) -> None:
        self.cut += 1
        self._selector.unregister(sender.connection)
        del self._open[sender.connection.fileno()]
        sender.connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.strain.slow", description="What slow senders cost others.")
    parser.add_argument("--senders", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=500.0, help="good requests a second")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each measurement")
    parser.add_argument("--pairs", type=int, default=3, help="how often, without and with")
    given = parser.parse_args()
    raise_open_files()
    ratios, failed, cut, longest_s = [], 0, 0, -BODY_S
    with running_fabric(1, 1, 1, 2) as fabric:
        url = fabric.gateways[0].http
        run_load(url, 3.0, rate=given.rate)
        for _ in range(given.pairs):
            alone = run_load(url, given.seconds, rate=given.rate)
            with SlowSenders(url, given.senders) as senders:
                load = start_load(url, given.seconds, rate=given.rate)
                beside = result_of(load)
            ratios.append(beside["p99_ms"] / alone["p99_ms"])
            failed += sum(found["offered"] - found["good"] for found in (alone, beside))
            cut, longest_s = cut + senders.cut, max(longest_s, senders.longest_s)
            print(
                f"p99 without {alone['p99_ms']:.2f} ms, with {given.senders} slow senders {beside['p99_ms']:.2f} ms: "
                f"{ratios[-1]:.2f} times (p50 {alone['p50_ms']:.2f}, {beside['p50_ms']:.2f} ms; generator late by "
                f"{alone['lag_p99_ms']:.2f}, {beside['lag_p99_ms']:.2f} ms at p99)",
                flush=True,
            )
    ratio = statistics.median(ratios)
    print(f"{ratio:.2f} times, allowed {RATIO:g}; {failed} good requests failed; {cut} slow senders were cut off, the "
          f"latest {longest_s:+.1f} s after its limit, allowed {SLACK_S:+.1f}")  # fmt: skip
    return int(ratio > RATIO or failed > 0 or longest_s > SLACK_S)


if __name__ == "__main__":
    sys.exit(main())

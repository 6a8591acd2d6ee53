"""The open-loop load generator, a process of its own: ``python -m benchmarks.openloop < plan.json``.

Requests start when the plan says so, whether earlier ones have been answered or not, and a latency runs from that
*intended* moment.  So a server that stalls is charged for every request that would have come meanwhile (otherwise
"coordinated omission", Gil Tene), and so is the generator itself: by how much it was late is in the result (``lag``),
with the share of one processor that it used.

Plan and result are JSON; the plan is :class:`Plan`.  Answers are counted by what they mean to the client:

    good      200 to 299, within the deadline
    late      200 to 299, after it
    refused   429 or 503: told at once, or at least told, to come back later
    expired   504 or 408: the server gave up by itself
    failed    another status, or a broken connection
    gave_up   none until the client's patience ended
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import httptools
import msgspec

from .arrivals import arrivals
from .figures import percentile_ms

__all__ = ["Outcome", "Plan", "Stream", "generate"]

_READ_BYTES = 65_536


class Stream(msgspec.Struct, kw_only=True):
    """Requests of one kind.  rate: a second; moments: for arrivals "replay"."""

    name: str
    path: str
    body: str
    rate: float = 0.0
    deadline_ms: float
    arrivals: str = "poisson"
    moments: list[float] = []
    content_type: str = "application/json"


class Plan(msgspec.Struct, kw_only=True):
    """patience_s: when the client closes the connection.  connections: at most so many; more requests wait, and count.

    touch: a file that is made touch_at_s after the start (see model.py).  window_s: of the time line in the result.
    """

    host: str
    port: int
    seconds: float
    streams: list[Stream]
    seed: int = 1
    patience_s: float = 1.0
    connections: int = 8000
    touch: str = ""
    touch_at_s: float = 0.0
    window_s: float = 0.5


class Outcome(msgspec.Struct, kw_only=True):
    """Of one stream.  Latencies of good and late answers, in milliseconds; windows: good answers by intended start, and
    offered_in, how many requests were to start in each."""

    offered: int
    good: int
    late: int
    refused: int
    expired: int
    failed: int
    gave_up: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    windows: list[int]
    offered_in: list[int]
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float


class _Tally:
    """What came of the requests of one stream."""

    def __init__(self, stream: Stream, plan: Plan, request: bytes) -> None:
        self.stream = stream
        self.request = request
        self.deadline_s = stream.deadline_ms / 1e3
        self.offered = self.good = self.late = self.refused = self.expired = self.failed = self.gave_up = 0
        self.latencies: list[float] = []
        self.refusals: list[float] = []
        self.lags: list[float] = []
        self.window_s = plan.window_s
        self.windows = [0] * (int(plan.seconds / plan.window_s) + 1)
        self.offered_in = list(self.windows)

    def answered(self, status: int, intended: float, took_s: float) -> None:
        if 200 <= status < 300:
            self.latencies.append(took_s)
            if took_s <= self.deadline_s:
                self.good += 1
                self.windows[int(intended / self.window_s)] += 1
            else:
                self.late += 1
        elif status in (429, 503):
            self.refused += 1
            self.refusals.append(took_s)
        elif status in (504, 408):
            self.expired += 1
        else:
            self.failed += 1

    def outcome(self) -> Outcome:
        latencies, refusals, lags = sorted(self.latencies), sorted(self.refusals), sorted(self.lags)
        return Outcome(
            offered=self.offered,
            good=self.good,
            late=self.late,
            refused=self.refused,
            expired=self.expired,
            failed=self.failed,
            gave_up=self.gave_up,
            p50_ms=percentile_ms(latencies, 0.50),
            p90_ms=percentile_ms(latencies, 0.90),
            p99_ms=percentile_ms(latencies, 0.99),
            max_ms=percentile_ms(latencies, 1.0),
            refused_p50_ms=percentile_ms(refusals, 0.50),
            refused_p99_ms=percentile_ms(refusals, 0.99),
            windows=self.windows,
            offered_in=self.offered_in,
            lag_p50_ms=percentile_ms(lags, 0.50),
            lag_p99_ms=percentile_ms(lags, 0.99),
            lag_max_ms=percentile_ms(lags, 1.0),
        )


class _Connection:
    """One keep-alive connection, one request at a time."""

    __slots__ = ("_load", "_parser", "_rest", "connecting", "intended", "number", "socket", "tally")

    def __init__(self, load: _Load, connection: socket.socket) -> None:
        self._load = load
        self._parser: Any = httptools.HttpResponseParser(self)
        self._rest = b""
        self.socket = connection
        self.connecting = True
        self.tally: _Tally | None = None
        self.intended = 0.0
        self.number = 0

    def send(self, tally: _Tally, intended: float) -> None:
        self.tally = tally
        self.intended = intended
        self.number += 1
        self._rest = tally.request
        self.go_on()

    def go_on(self) -> None:
        """Send what the socket takes; the rest when it takes more."""
        rest = self._rest
        try:
            self._rest = rest[self.socket.send(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._load.close(self)
            return
        if self._rest:
            self._load.watch(self, select.EPOLLIN | select.EPOLLOUT)
        elif len(rest) != len(self.tally.request if self.tally is not None else rest):
            self._load.watch(self, select.EPOLLIN)

    def readable(self) -> None:
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            if data:
                self._parser.feed_data(data)
                return
        except httptools.HttpParserError:
            pass
        self._load.close(self)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        tally, parser, load = self.tally, self._parser, self._load
        if tally is None:
            return
        self.tally = None
        tally.answered(parser.get_status_code(), self.intended, load.now() - self.intended)
        if parser.should_keep_alive():
            load.idle(self)
        else:
            load.close(self)


class _Load:
    """An event loop of its own, straight on epoll: with asyncio a request cost the generator as much processor time as
    it costs a server, and on a small machine it is the server that it takes it from."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._opening = 0
        self._waiting: deque[tuple[_Tally, float]] = deque()
        self._patience: deque[tuple[float, _Connection, int]] = deque()
        self._began = 0.0
        self.tallies = [_Tally(stream, plan, _request(plan, stream)) for stream in plan.streams]
        self._schedule = sorted(
            (at, index)
            for index, stream in enumerate(plan.streams)
            for at in arrivals(stream.arrivals, stream.rate, plan.seconds, plan.seed + index, stream.moments)
        )
        self._next = 0

    def now(self) -> float:
        return time.perf_counter() - self._began

    def run(self) -> None:
        for _ in range(self._at_first()):
            self._connect()
            if self._opening >= 64:  # not more than a server's backlog holds
                self._opened()
        self._opened()
        touch_at = self._plan.touch_at_s if self._plan.touch else float("inf")
        gc.collect()
        gc.freeze()
        gc.disable()
        self._began = time.perf_counter()
        schedule = self._schedule
        end = self._plan.seconds + self._plan.patience_s + 0.5
        while True:
            now = self.now()
            if now >= touch_at:
                Path(self._plan.touch).touch()
                touch_at = float("inf")
            while self._next < len(schedule) and schedule[self._next][0] <= now:
                at, index = schedule[self._next]
                self._next += 1
                self._start(self.tallies[index], at, now)
            self._lose_patience(now)
            if self._next < len(schedule):
                pause = schedule[self._next][0] - now
            elif self._busy() and now < end:
                pause = 0.005
            else:
                break
            self._poll(min(max(pause, 0.0), 0.02))
        for connection in list(self._connections.values()):
            connection.socket.close()
        self._epoll.close()

    def _at_first(self) -> int:
        """Connections that are there before the start: what answers just within the deadline need, and half more."""
        need = sum(1.5 * stream.rate * stream.deadline_ms / 1e3 for stream in self._plan.streams)
        return min(max(64, int(need)), 1024, self._plan.connections)

    def _opened(self) -> None:
        while self._opening:
            self._poll(0.1)

    def _busy(self) -> bool:
        return bool(self._waiting) or any(
            connection.tally is not None and connection.number == number for _, connection, number in self._patience
        )

    def _poll(self, seconds: float) -> None:
        """Take what has come.  epoll counts in whole milliseconds, so requests start up to one late (see ``lag``)."""
        connections = self._connections
        for descriptor, events in self._epoll.poll(seconds):
            connection = connections.get(descriptor)
            if connection is None:
                continue
            if connection.connecting:
                self._connected(connection)
            elif events & select.EPOLLOUT:
                connection.go_on()
            else:
                connection.readable()

    def _start(self, tally: _Tally, intended: float, now: float) -> None:
        tally.offered += 1
        tally.offered_in[int(intended / tally.window_s)] += 1
        tally.lags.append(now - intended)
        if self._idle:
            self._send(self._idle.pop(), tally, intended)
            return
        self._waiting.append((tally, intended))
        if len(self._connections) < self._plan.connections:
            self._connect()

    def _send(self, connection: _Connection, tally: _Tally, intended: float) -> None:
        connection.send(tally, intended)
        self._patience.append((intended + self._plan.patience_s, connection, connection.number))

    def _lose_patience(self, now: float) -> None:
        patience = self._patience
        while patience:
            until, connection, number = patience[0]
            waits = connection.number == number and connection.tally is not None
            if waits and until > now:
                break
            patience.popleft()
            if waits and connection.tally is not None:
                connection.tally.gave_up += 1
                connection.tally = None
                self.close(connection)
        while self._waiting and self._waiting[0][1] + self._plan.patience_s <= now:
            self._waiting.popleft()[0].gave_up += 1

    # --- connections --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opening += 1
        self._connections[made.fileno()] = _Connection(self, made)
        made.connect_ex((self._plan.host, self._plan.port))
        self._epoll.register(made.fileno(), select.EPOLLOUT)

    def _connected(self, connection: _Connection) -> None:
        self._opening -= 1
        connection.connecting = False
        if connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            if self._waiting:  # a refused connection is an answer of its own
                self._waiting.popleft()[0].failed += 1
            self.close(connection)
            return
        self.watch(connection, select.EPOLLIN)
        self.idle(connection)

    def watch(self, connection: _Connection, events: int) -> None:
        self._epoll.modify(connection.socket.fileno(), events)

    def idle(self, connection: _Connection) -> None:
        """It has nothing to do: the request that has waited longest, if there is one."""
        if self._waiting:
            tally, intended = self._waiting.popleft()
            self._send(connection, tally, intended)
        else:
            self._idle.append(connection)

    def close(self, connection: _Connection) -> None:
        """Ended by the server, or by us; whatever it was asked for has failed."""
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        connection.socket.close()
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.tally is not None:
            connection.tally.failed += 1
            connection.tally = None


def _request(plan: Plan, stream: Stream) -> bytes:
    body = stream.body.encode()
    head = (
        f"POST {stream.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
        f"Content-Type: {stream.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def generate(plan: Plan) -> dict[str, Any]:
    """Carry out *plan*; stream name to :class:`Outcome` as a dict, and what the generator itself used."""
    load = _Load(plan)
    wall, cpu = time.perf_counter(), time.process_time()
    load.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "streams": {tally.stream.name: msgspec.to_builtins(tally.outcome()) for tally in load.tallies},
        "generator_cpu": 100.0 * cpu / wall,
    }


def _ask_for_connections() -> None:
    """As many open files as are allowed without asking anyone."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _ask_for_priority() -> None:
    """Where that is allowed: a client that gets no processor measures itself.  Its lag tells whether it got enough."""
    try:
        os.nice(-10)
        Path("/proc/self/autogroup").write_text("-10")  # where Linux divides the processor among sessions first
    except OSError:
        pass


if __name__ == "__main__":
    _ask_for_priority()
    _ask_for_connections()
    json.dump(generate(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # connections that are still open need no farewell

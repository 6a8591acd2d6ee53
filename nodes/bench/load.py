"""Requests as a plan says: an open loop, or a closed one.

*Open loop*: requests start when the plan says so, whether earlier ones have been answered or not, and a latency runs
from that *intended* moment.  So a server that stalls is charged for every request that would have come meanwhile
(otherwise "coordinated omission", Gil Tene), and so is the generator itself: by how much it was late is in the outcome
(``lag``).

*Closed loop*: so many clients, each of which asks again when it has its answer.  The rate is what the server can do;
latencies are those of a server that is never asked more than it can answer.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .arrivals import arrivals
from .connection import Connection
from .plan import Plan
from .polling import Poll
from .tally import Tally

__all__ = ["Load"]

_TICK_S = 0.1
_AGAIN_S = 0.05
"""How long a client of a closed loop waits before it connects again."""


class Load:
    """An event loop of its own, straight on epoll: with asyncio a request cost the generator as much processor time as
    it costs a server, and on a small machine it is the server that it takes it from.

    *tick* is called ten times a second with the seconds since the start.
    """

    def __init__(self, plan: Plan, address: Any = None, tick: Callable[[float], None] | None = None) -> None:
        self._plan = plan
        self._address: Any = address or (plan.host, plan.port)
        self._family = socket.AF_INET6 if len(self._address) == 4 else socket.AF_INET
        self._tick = tick
        self._poller = Poll()
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._opening = 0
        self._waiting: deque[tuple[Tally, float]] = deque()
        self._patience: deque[tuple[float, Connection, int]] = deque()
        self._absent: deque[float] = deque()
        self._turn = 0
        self._began = self._ended = 0.0
        self.tallies = [Tally(stream, plan) for stream in plan.streams]
        self._schedule = (
            []
            if plan.clients
            else sorted(
                (at, index)
                for index, stream in enumerate(plan.streams)
                for at in arrivals(stream.arrivals, stream.rate, plan.seconds, plan.seed + index, stream.moments)
            )
        )
        self._next = 0

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    @property
    def took_s(self) -> float:
        """From the start until the last answer, or until the end of what was planned, whichever is later."""
        return self._ended

    def run(self) -> None:
        """Carry out the plan.  KeyboardInterrupt leaves outcomes as far as it came."""
        for _ in range(self._at_first()):
            self._connect()
            if self._opening >= 64:  # not more than a server's backlog holds
                self._opened()
        self._opened()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self._began = time.perf_counter()
            if self._plan.clients:
                self._in_a_closed_loop()
            self._until_the_end()
        finally:
            self._ended = min(self.now(), max(self._plan.seconds, self._ended))
            gc.enable()
            gc.unfreeze()
            for connection in list(self._connections.values()):
                connection.socket.close()
            self._poller.close()

    def _until_the_end(self) -> None:
        plan, schedule = self._plan, self._schedule
        touch_at = plan.touch_at_s if plan.touch else float("inf")
        tick_at = 0.0 if self._tick is not None else float("inf")
        end = plan.seconds + plan.patience_s + 0.5
        while True:
            now = self.now()
            if now >= touch_at:
                Path(plan.touch).touch()
                touch_at = float("inf")
            if now >= tick_at and self._tick is not None:
                self._tick(now)
                tick_at = now + _TICK_S
            while self._next < len(schedule) and schedule[self._next][0] <= now:
                at, index = schedule[self._next]
                self._next += 1
                self._start(self.tallies[index], at, now)
            while self._absent and self._absent[0] <= now < plan.seconds:
                self._absent.popleft()
                self._connect()
            self._lose_patience(now)
            if self._next < len(schedule):
                pause = schedule[self._next][0] - now
            elif (plan.clients and now < plan.seconds) or (self._busy() and now < end):
                pause = 0.005
            else:
                break
            self._poll(min(max(pause, 0.0), 0.02))

    def _at_first(self) -> int:
        """Connections that are there before the start; for an open loop, what answers just within the deadline need,
        and half more."""
        if self._plan.clients:
            return self._plan.clients
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
        for descriptor, events in self._poller.poll(seconds):
            connection = connections.get(descriptor)
            if connection is None:
                continue
            if connection.connecting:
                self._connected(connection)
            elif events & select.POLLOUT:
                connection.go_on()
            else:
                connection.readable()

    def _start(self, tally: Tally, intended: float, now: float) -> None:
        tally.started(intended, now - intended)
        if self._idle:
            self._send(self._idle.pop(), tally, intended)
            return
        self._waiting.append((tally, intended))
        if len(self._connections) < self._plan.connections:
            self._connect()

    def _send(self, connection: Connection, tally: Tally, intended: float) -> None:
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

    # --- the closed loop ----------------------------------------------------------------------------------------------

    def _in_a_closed_loop(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            self._ask_again(connection)

    def _ask_again(self, connection: Connection) -> None:
        now = self.now()
        if now < self._plan.seconds:
            tally = self.tallies[self._turn % len(self.tallies)]
            self._turn += 1
            tally.started(now, 0.0)
            self._send(connection, tally, now)

    # --- connections --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        made = socket.socket(self._family, socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opening += 1
        self._connections[made.fileno()] = Connection(self, made)
        made.connect_ex(self._address)
        self._poller.register(made.fileno(), select.POLLOUT)

    def _connected(self, connection: Connection) -> None:
        self._opening -= 1
        connection.connecting = False
        if connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused()
            self.close(connection)
            return
        self.watch(connection, select.POLLIN)
        self.idle(connection)

    def _refused(self) -> None:
        """A refused connection is an answer of its own."""
        if self._waiting:
            self._waiting.popleft()[0].broken()
        elif self._plan.clients and self._began:
            tally = self.tallies[self._turn % len(self.tallies)]
            self._turn += 1
            tally.started(min(self.now(), self._plan.seconds), 0.0)
            tally.broken()

    def watch(self, connection: Connection, events: int) -> None:
        self._poller.modify(connection.socket.fileno(), events)

    def idle(self, connection: Connection) -> None:
        """It has nothing to do: the request that has waited longest, if there is one; in a closed loop, the next."""
        if self._plan.clients:
            if self._began:
                self._ended = self.now()
                self._ask_again(connection)
            else:
                self._idle.append(connection)
        elif self._waiting:
            tally, intended = self._waiting.popleft()
            self._send(connection, tally, intended)
        else:
            self._idle.append(connection)

    def close(self, connection: Connection) -> None:
        """Ended by the server, or by us; whatever it was asked for has failed."""
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        self._poller.unregister(connection.socket.fileno())
        connection.socket.close()
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.tally is not None:
            connection.tally.broken()
            connection.tally = None
        if self._plan.clients:
            self._absent.append((self.now() if self._began else 0.0) + _AGAIN_S)

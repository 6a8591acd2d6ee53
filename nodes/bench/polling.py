"""Waiting for sockets, with as little between the loop and the system as there can be."""

from __future__ import annotations

import select
import sys

__all__ = ["Poll"]

if sys.platform == "linux":
    Poll = select.epoll
else:

    class Poll:
        """``select.poll`` with the names and the unit (seconds) of ``select.epoll``."""

        def __init__(self) -> None:
            self._poll = select.poll()
            self.register = self._poll.register
            self.modify = self._poll.modify

        def poll(self, seconds: float) -> list[tuple[int, int]]:
            return self._poll.poll(1e3 * seconds)

        def unregister(self, descriptor: int) -> None:
            self._poll.unregister(descriptor)

        def close(self) -> None:
            pass

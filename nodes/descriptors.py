"""Running out of file descriptors: said once, and said again when it is over.

A node that has none left serves those who are connected; who comes new is turned away by the kernel, and nothing in the
process learns of it.  So the node looks.
"""

from __future__ import annotations

import errno
import logging
import os
import resource

import msgspec

from zserve.http.limits import HttpLimits

__all__ = ["Descriptors", "raise_open_files", "within_descriptors"]

log = logging.getLogger("zserve.descriptors")

_RESERVE = 128
"""Descriptors that a gateway keeps for anything but its clients: links with routers above all, which it would lose."""


class Descriptors:
    """Finds out, whenever :meth:`look` is called, whether this process could open another file."""

    def __init__(self) -> None:
        self.exhausted = False

    def look(self) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self.exhausted:
                self.exhausted = True
                whose = f"this process ({_limit()})" if error.errno == errno.EMFILE else "this machine"
                log.error(
                    "out of file descriptors, at the limit of %s: new connections are refused until others end; raise "
                    "it (ulimit -n, LimitNOFILE=)",
                    whose,
                )
            return
        if self.exhausted:
            self.exhausted = False
            log.warning("file descriptors are there again: new connections are taken")


def within_descriptors(limits: HttpLimits) -> HttpLimits:
    """*limits* with no more connections than this process may have descriptors for; the log tells of a cut."""
    most = _limit()
    room = most - min(_RESERVE, most // 2)
    if room >= limits.connections:
        return limits
    log.warning(
        "at most %d connections at a time, not %d: this process may open %d files; raise that (ulimit -n, "
        "LimitNOFILE=) or set --max-connections",
        room,
        limits.connections,
        most,
    )
    return msgspec.structs.replace(limits, connections=room)


def raise_open_files() -> None:
    """Have this process open as many files as it may without asking anyone, as load generators want."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 31 if soft == resource.RLIM_INFINITY else soft

"""Child processes on an event loop: started, listened to, stopped, and never left behind.

Each child gets
  - a process group of its own, so that Ctrl-C in the terminal reaches only the parent, which then stops its children
    in the right order; and so that what the child itself has started can be ended with it;
  - a life line: its standard input is a pipe that the parent holds open, and whose end tells it that the parent is
    gone, however that happened;
  - a status pipe, on which it reports one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from zserve.errors import ServeError

__all__ = ["Child", "Exit", "fork", "out_of_memory_kills", "spawn"]

MAX_STATUS_LINE_BYTES = 1024 * 1024
_POLL_S = 0.05  # only where the system has no pidfd (macOS)

log = logging.getLogger("zserve.supervise")


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended: ``status``, or -1 and the ``signal`` that killed it.

    ``asked``: the parent had told it to end; ``out_of_memory``: the system killed something for memory meanwhile.
    """

    status: int = -1
    signal: int = 0
    asked: bool = False
    out_of_memory: bool = False

    @property
    def clean(self) -> bool:
        return self.status == 0

    def __str__(self) -> str:
        """One phrase for people, to follow "the process"."""
        if not self.signal:
            return f"exited with status {self.status}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = "unknown"
        text = f"was killed by signal {self.signal} ({name})"
        if self.signal == signal.SIGKILL and not self.asked:
            text += ": the system ran out of memory" if self.out_of_memory else ", by hand or for lack of memory"
        elif self.signal in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
            text += ": a crash in native code"
        return text


class Child:
    """One child process, made by :func:`spawn` or :func:`fork`.  :meth:`watch` puts it on the running loop.

    ``exit`` is None while it runs; ``status_fd`` is the number that the status pipe has in the child.
    """

    def __init__(self, name: str, pid: int, lifeline: int, status: int, status_fd: int) -> None:
        self.name = name
        self.pid = pid
        self.status_fd = status_fd
        self.exit: Exit | None = None
        self._lifeline = lifeline
        self._status = status
        self._pidfd = -1
        self._pending = b""
        self._asked = False
        self._oom_before = out_of_memory_kills()
        self._on_status: Callable[[dict[str, Any]], None] | None = None
        self._on_exit: Callable[[Exit], None] | None = None
        self._exited: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- on the loop ------------------------------------------------------------------------------------------------

    def watch(
        self,
        on_status: Callable[[dict[str, Any]], None] | None = None,
        on_exit: Callable[[Exit], None] | None = None,
    ) -> None:
        """Have *on_status* called with each report, and then *on_exit* once, on the running loop."""
        self._on_status = on_status
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        if self._status >= 0:
            os.set_blocking(self._status, False)
            self._loop.add_reader(self._status, self._read_status)
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)
                self._loop.add_reader(self._pidfd, self._poll)
        if self._pidfd < 0:
            self._poll()

    async def wait(self) -> Exit:
        """How it ended, once it has."""
        assert self._exited is not None, "watch() comes first"
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    async def stop(self, grace_s: float) -> Exit:
        """Ask it to end (SIGTERM), and kill it if it still runs after *grace_s* seconds."""
        self.terminate()
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            log.warning("%s (process %d) did not end within %g s: killed", self.name, self.pid, grace_s)
            self.kill()
        return await self.wait()

    # --- anywhere ---------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self._asked = True
        self._signal(signal.SIGTERM)

    def force(self) -> None:
        """Have it end without waiting: the second signal, another one than the first, for equal ones may merge."""
        if not self._asked:
            self.terminate()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, and all that it has started in its process group, now."""
        self._asked = True
        self._signal(signal.SIGKILL)
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def send_line(self, line: bytes) -> None:
        """Write *line* to its standard input, which stays open."""
        assert b"\n" not in line
        with suppress(BrokenPipeError):
            data = line + b"\n"
            while data:
                data = data[os.write(self._lifeline, data) :]

    def reap(self) -> Exit | None:
        """How it ended, if it has; works without a loop."""
        if self.exit is not None:
            return self.exit
        try:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            ended = None
            self._finish(Exit(asked=self._asked))  # someone else has reaped it
            return self.exit
        if ended is None:
            return None
        # While it is a zombie its id is not reused, so this can hit nothing but what it left in its group.
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        _, code = os.waitpid(self.pid, 0)
        number = os.WTERMSIG(code) if os.WIFSIGNALED(code) else 0
        self._finish(
            Exit(
                status=-1 if number else os.WEXITSTATUS(code),
                signal=number,
                asked=self._asked,
                out_of_memory=number == signal.SIGKILL and out_of_memory_kills() > self._oom_before,
            )
        )
        return self.exit

    # --- inside -----------------------------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if self.exit is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _poll(self) -> None:
        if self.reap() is None and self._pidfd < 0:
            self._timer = self._loop.call_later(_POLL_S, self._poll)

    def _finish(self, exit_: Exit) -> None:
        if self._exited is not None:
            self._read_status()  # its last words, before the news of its end
            if self._pidfd >= 0:
                self._loop.remove_reader(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
            self._close_status()
            self._exited.set()
        elif self._status >= 0:
            os.close(self._status)
            self._status = -1
        self.exit = exit_
        os.close(self._lifeline)
        self._lifeline = -1
        if self._on_exit is not None:
            self._on_exit(exit_)

    def _close_status(self) -> None:
        if self._status >= 0:
            self._loop.remove_reader(self._status)
            os.close(self._status)
            self._status = -1

    def _read_status(self) -> None:
        while self._status >= 0:
            try:
                data = os.read(self._status, 65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._close_status()
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            if len(self._pending) > MAX_STATUS_LINE_BYTES:
                self._pending = b""
            for line in lines:
                self._report(line)

    def _report(self, line: bytes) -> None:
        try:
            report = json.loads(line)
        except ValueError:
            report = None
        if not isinstance(report, dict):
            log.warning("%s wrote something else than a report to its status pipe: %.80r", self.name, line)
        elif self._on_status is not None:
            self._on_status(report)


def spawn(
    name: str,
    argv: Callable[[int], Sequence[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    keep: Sequence[int] = (),
) -> Child:
    """Start a program; *argv* is given the number that the status pipe has in the child; *keep*: descriptors for it.

    Raises :class:`ServeError` if it cannot be started.
    """
    status, child_status = os.pipe()
    child_lifeline, lifeline = os.pipe()
    try:
        process = subprocess.Popen(
            argv(child_status),
            stdin=child_lifeline,
            pass_fds=(child_status, *keep),
            process_group=0,
            env=env,
            cwd=cwd or None,
        )
    except OSError as error:
        os.close(lifeline)
        os.close(status)
        raise ServeError(f"cannot start {name}: {error.strerror}: {error.filename or sys.executable}") from error
    finally:
        os.close(child_lifeline)
        os.close(child_status)
    process.returncode = 0  # from here on the Child waits for it; subprocess must not
    return Child(name, process.pid, lifeline, status, child_status)


def fork(name: str, main: Callable[[int], int], *, keep: Sequence[int] = ()) -> Child:
    """Run *main* in a fork of this process; it is given the number of its status pipe, and returns the exit status.

    Only for a process with no other thread, no event loop and no ZeroMQ context, none of which survives a fork.
    *keep*: descriptors that the child needs; all others but standard output and error are closed in it.
    """
    status, child_status = os.pipe()
    child_lifeline, lifeline = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(child_lifeline)
        os.close(child_status)
        with suppress(OSError):  # both sides do it, so that it is done whoever runs first
            os.setpgid(pid, pid)
        return Child(name, pid, lifeline, status, child_status)
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(child_lifeline, 0)
        os.dup2(2, 1)  # standard output may be where the parent speaks to its own parent
        _close_all_but({0, 1, 2, child_status, *keep})
        code = main(child_status)
    except BaseException:  # the stack above belongs to the parent: nothing may unwind into it
        log.exception("%s ended by an unexpected error", name)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _close_all_but(keep: set[int]) -> None:
    low = 0
    for fd in [*sorted(keep), resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0xFFFFF]:
        if low < fd:  # an empty range closes everything (the system call's upper bound is inclusive)
            os.closerange(low, fd)
        low = fd + 1


def out_of_memory_kills() -> int:
    """How often the system has killed something for memory, as far as it tells (Linux)."""
    total = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with suppress(OSError, ValueError), open(path) as lines:
            found = re.search(r"^oom_kill (\d+)$", lines.read(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total

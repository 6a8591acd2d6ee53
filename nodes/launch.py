"""Starting the all-in-one from a command, and waiting for it with Ctrl-C in mind."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from zserve.errors import ApplicationError, ServeError
from zserve.http.limits import HttpLimits

from .complaint import complain

__all__ = ["LocalFabric", "Place", "interruptible"]

START_TIMEOUT_S = 30.0
_ABANDON_S = 5
_FORCE_S = 3  # a second more than a program that is forced takes to clean up


class Place(NamedTuple):
    """Where a fabric is: ``address`` of its router, ``http`` URL, the folder for code files."""

    address: str
    http: str
    code_dir: str


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP are like Ctrl-C inside: KeyboardInterrupt."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LocalFabric:
    """The process ``python -m zserve.nodes.local``, started by the constructor, which does not wait.

    Its standard input is held open: should this process die, the fabric ends too.  It has a process group of its own,
    so that Ctrl-C reaches this process only, which then has it drained.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        gateways: int,
        slots: int,
        busy_poll: bool,
        name: str,
        app_dir: Path,
        state_dir: Path | None,
        policy: str,
        policy_kwargs: Mapping[str, Any],
        grace_s: float,
        log_level: str,
        debug: bool,
        limits: HttpLimits,
        tokens: str,
        tls_cert: str,
        tls_key: str,
    ) -> None:
        self._grace_s = grace_s
        self._run_dir = ""
        self._asked = False
        self._forced = False
        line = [sys.executable, "-P", "-m", "zserve.nodes.local", "--host", host, "--port", str(port)]
        line += ["--gateways", str(gateways), "--slots", str(slots), "--name", name]
        line += [] if busy_poll else ["--no-busy-poll"]
        line += ["--app-dir", str(app_dir), "--grace", str(grace_s)]
        line += ["--queueing-policy", policy, "--policy-kwargs", json.dumps(dict(policy_kwargs))]
        line += ["--log-level", log_level, *(["--debug"] if debug else [])]
        line += ["--state-dir", str(state_dir)] if state_dir is not None else []
        line += ["--limits", msgspec.json.encode(limits).decode()]
        line += ["--tokens", tokens, "--tls-cert", tls_cert, "--tls-key", tls_key]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)

    def started(self) -> Place:
        """Where it is, once HTTP answers; raises what kept it from starting."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        until = time.monotonic() + START_TIMEOUT_S
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
                raise ServeError(f"the fabric did not start within {START_TIMEOUT_S:g} s")
            chunk = os.read(fd, 65536)
            if not chunk:
                raise ServeError(f"the fabric ended while it started, with status {self._process.wait()}")
            said += chunk
        facts: dict[str, Any] = json.loads(said)
        if "error" in facts:
            kind = ApplicationError if facts.get("exit") == ApplicationError.exit_status else ServeError
            raise kind(facts["error"])
        self._run_dir = facts["run_dir"]
        return Place(address=facts["address"], http=facts["http"], code_dir=facts["code_dir"])

    def take_over_signals(self) -> None:
        """From now on the first Ctrl-C (or SIGTERM, SIGHUP) has the fabric drained, a second one has it end at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_overdue)

    def wait(self) -> int:
        """Until it ends; the exit status of the command.  To be called after :meth:`take_over_signals`."""
        status = self._process.wait()
        signal.alarm(0)
        self._close()
        if self._forced:
            self._sweep()  # one that is made to end does not remove everything itself
            return 1
        if not status:
            return 0
        if self._asked:
            complain("not everything could finish in time")
        else:
            complain(f"the fabric {f'was killed by signal {-status}' if status < 0 else f'ended with status {status}'}")
            self._sweep()
        return 1

    def abandon(self) -> None:
        """It is of no use any more: nothing was served, so nothing takes long to finish."""
        self.take_over_signals()
        self._asked = True
        self._signal(signal.SIGTERM)
        signal.alarm(_ABANDON_S)
        self._process.wait()
        signal.alarm(0)
        self._close()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            self._signal(signal.SIGTERM)
            signal.alarm(math.ceil(self._grace_s) + 10)
            if self._forced:  # by a second signal that came while this one was dealt with
                self._signal(signal.SIGINT)
                signal.alarm(_FORCE_S)
                return
            os.write(2, b"zserve: finishing what runs (Ctrl-C again to stop at once)\n")
        else:
            self._force("stopped without waiting for what still ran")

    def _on_overdue(self, _number: int, _frame: FrameType | None) -> None:
        if not self._forced:
            self._force("the fabric did not end in time")
        elif self._process.returncode is None:
            self._signal(signal.SIGKILL)  # its nodes find their life lines cut

    def _force(self, why: str) -> None:
        """The second signal has it end without waiting; it is another one than the first, for equal ones may merge."""
        if not self._forced:
            self._forced = True
            complain(why)
        self._signal(signal.SIGINT)
        signal.alarm(_FORCE_S)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _sweep(self) -> None:
        """The fabric was killed or made to end; its nodes notice.  What they could not remove is removed here."""
        from .run_directory import base_directory, sweep

        until = time.monotonic() + _ABANDON_S
        while self._run_dir and os.path.exists(self._run_dir) and time.monotonic() < until:
            time.sleep(0.05)
            sweep(base_directory())

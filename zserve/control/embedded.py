"""The embedded fabric: a gateway, a router and a worker node as one child process tree of the script that called init.

The child is ``python -m zserve.nodes.local``.  It says in one JSON line on its standard output where it is reached (or
why it could not start), and ends when its standard input reaches end of file: so it cannot outlive this process,
however this process ends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .. import errors
from ..errors import ServeError

__all__ = ["EmbeddedFabric"]

START_TIMEOUT_S = 30.0
"""How long the child may take to answer HTTP."""
DRAIN_TIMEOUT_S = 40.0
"""How long it may take to finish what runs after shutdown(); then it is terminated."""
TERMINATE_TIMEOUT_S = 5.0


class EmbeddedFabric:
    """Starts the child in its constructor and returns when it answers HTTP.

    address: of its router.  http: its base URL.  code_dir: where pickled code goes.  run_dir: its run directory.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        name: str | None = None,
        queueing_policy: str | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        app_dirs: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        # -P: nothing of the current folder shadows a module of the fabric.  User code comes through --app-dir, and only
        # in the replicas.
        line = list(command) if command is not None else [sys.executable, "-P", "-m", "zserve.nodes.local"]
        line += ["--host", host, "--port", str(port)]
        if name:
            line += ["--name", name]
        if queueing_policy is not None:
            line += ["--queueing-policy", queueing_policy]
        if policy_kwargs:
            line += ["--policy-kwargs", orjson.dumps(dict(policy_kwargs)).decode()]
        for path in app_dirs:
            line += ["--app-dir", path]
        self.owner = os.getpid()
        self.app_dirs = list(app_dirs)
        # A process group of its own: Ctrl-C on the terminal goes to the script, which then drains the fabric.
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        try:
            started = self._read_start()
        except BaseException:
            self._kill()
            raise
        self.address = str(started["address"])
        self.http = str(started.get("http", ""))
        self.code_dir = str(started["code_dir"])
        self.run_dir = str(started.get("run_dir", ""))

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Block until the child ends; its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """Drain and end the child: end of file first, then SIGTERM, then SIGKILL for its process group."""
        if os.getpid() != self.owner:
            self.forget()
            return
        self._close_input()
        for signum, patience_s in ((None, DRAIN_TIMEOUT_S), (signal.SIGTERM, TERMINATE_TIMEOUT_S)):
            try:
                if signum is not None:
                    self._process.send_signal(signum)
                self._process.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                continue
            except KeyboardInterrupt:
                continue  # a second Ctrl-C forces
        else:
            self._kill()
        self._close_output()

    def forget(self) -> None:
        """In a forked child: let go of the pipes, so that the fabric ends with the process that started it."""
        self._process.returncode = 0  # not ours to wait for
        self._close_input()
        self._close_output()

    def _kill(self) -> None:
        self._close_input()
        if self._process.poll() is None:  # not reaped yet, so the group id is still its own
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
        self._close_output()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass

    def _close_output(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_start(self) -> dict[str, Any]:
        """The line that the child says once it is up."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        until = time.monotonic() + START_TIMEOUT_S
        text = b""
        while b"\n" not in text:
            if not poller.poll(max(0.0, until - time.monotonic()) * 1000):
                raise ServeError(f"the embedded fabric did not answer within {START_TIMEOUT_S:g} s of its start")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                break
            text += chunk
        try:
            started = orjson.loads(text.partition(b"\n")[0])
        except ValueError:
            started = None
        if not isinstance(started, dict) or not (started.get("error") or {"address", "code_dir"} <= started.keys()):
            said = f": {text[:200].decode(errors='replace').strip()}" if text.strip() else ""
            raise ServeError(f"the embedded fabric did not start{self._exit_status()}{said}")
        if started.get("error"):
            raise _start_error(started)
        return started

    def _exit_status(self) -> str:
        try:
            return f" (exit status {self._process.wait(1.0)})"
        except subprocess.TimeoutExpired:
            return ""


def _start_error(started: Mapping[str, Any]) -> ServeError:
    found = getattr(errors, str(started.get("class", "")), None)
    if isinstance(found, type) and issubclass(found, ServeError):
        return found(str(started["error"]))
    text = str(started["error"])
    if started.get("exit") == errors.ApplicationError.exit_status:
        return errors.ApplicationError(text)
    return ServeError(text)

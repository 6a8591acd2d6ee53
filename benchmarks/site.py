"""One running system under test: its folder, port, processes, and how it is ended."""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from . import procfs
from .errors import NotRun

__all__ = ["Probe", "Site", "free_port"]

STOP_S = 10.0
ORPHANS_S = 1.0
_MODEL = Path(__file__).with_name("model.py")


class Probe:
    """A request and what its answer must contain: how a system is known to be ready, and to answer rightly."""

    def __init__(self, path: str, body: bytes, wanted: bytes, content_type: str = "application/json") -> None:
        self.path = path
        self.body = body
        self.wanted = wanted
        self.content_type = content_type


class Site:
    """Where one system is started; as a context manager it ends everything that was started, and nothing else.

    Each process that is spawned leads a session of its own.  The system's processes are those, their descendants and
    whoever shares their sessions, which also finds servers that put themselves into the background.
    """

    def __init__(
        self, python: Path, sources: Mapping[str, str], workload: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.python = python
        self.workload = workload
        self.folder = Path(tempfile.mkdtemp(prefix="zb-"))
        self.port = free_port()
        self.doubled = self.folder / "doubled"
        self.launched_s = 0.0
        self.first_answer_s = 0.0
        self._environment = dict(environment or {})
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._known: list[procfs.Process] = []
        self._log = self.folder / "output"
        shutil.copy(_MODEL, self.folder / "model.py")
        for name, text in sources.items():
            (self.folder / name).write_text(text)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def spawn(self, command: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
        """Start one process in the site's folder."""
        if not self._spawned:
            self.launched_s = time.perf_counter()
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ZSERVE_"))}
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **clean,
                    "BENCHMARK_DOUBLED": str(self.doubled),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **self._environment,
                    **(environment or {}),
                },
                start_new_session=True,
            )
        self._spawned.append(process)

    def spawn_together(
        self, commands: Sequence[Sequence[object]], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start several processes as one system; if the last one fails, they all end.

        They share a session, as those of a system that starts its processes by itself: Linux divides the processor
        among sessions first (sched_autogroup), and one that came in several would get more of a busy machine.
        """
        *others, last = [shlex.join(str(part) for part in command) for command in commands]
        background = " ".join(f"{command} &" for command in others)
        self.spawn(["/bin/sh", "-c", f"{background} {last} || kill 0; wait"], environment)

    def log_tail(self, lines: int = 8) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return " / ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())[-800:]

    # --- answers ------------------------------------------------------------------------------------------------------

    def ask(self, probe: Probe, timeout_s: float = 10.0) -> str | None:
        """None if the answer is right, otherwise what is wrong with it.  Raises OSError if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("POST", probe.path, probe.body, {"Content-Type": probe.content_type})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"no HTTP answer: {error!r}") from None
        finally:
            connection.close()
        if answer.status != 200:
            return f"status {answer.status}: {body[:200]!r}"
        if _dense(probe.wanted) not in _dense(body):
            return f"wrong answer {body[:200]!r}, wanted {probe.wanted[:200]!r}"
        return None

    def wait_ready(self, probe: Probe, timeout_s: float) -> None:
        """Until the first right answer (first_answer_s after the launch).  Raises NotRun with the end of the output."""
        end = time.monotonic() + timeout_s
        wrong: str | None = "no answer yet"
        while True:
            try:
                wrong = self.ask(probe, 5.0)
            except OSError as error:
                wrong = str(error)
            if wrong is None:
                self.first_answer_s = time.perf_counter() - self.launched_s
                return
            ended = [process.returncode for process in self._spawned if process.poll() is not None]
            failed = [status for status in ended if status]
            if failed or len(ended) == len(self._spawned):
                raise NotRun(f"ended with status {(failed or ended)[0]} before it answered: {self.log_tail()}")
            if time.monotonic() > end:
                raise NotRun(f"not ready within {timeout_s:.0f} s ({wrong}): {self.log_tail()}")
            time.sleep(0.005)

    # --- usage --------------------------------------------------------------------------------------------------------

    def processes(self) -> list[procfs.Process]:
        self._known = procfs.tree([process.pid for process in self._spawned], self._known)
        return self._known

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds(self.processes())

    def pss_mb(self) -> float:
        return procfs.pss_bytes(self.processes()) / 1e6

    # --- the end ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """SIGTERM to the process groups of all that was spawned, last first, and in the end SIGKILL.

        That comes after ten seconds, or one second after the last of what was spawned has ended.
        """
        self.processes()
        for process in reversed(self._spawned):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_S
        orphaned = False
        while self._alive() and time.monotonic() < end:
            if not orphaned and all(process.returncode is not None for process in self._spawned):
                orphaned, end = True, min(end, time.monotonic() + ORPHANS_S)
            time.sleep(0.02)
        for pid in self._alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self._spawned:
            process.wait(STOP_S)

    def _alive(self) -> list[int]:
        for process in self._spawned:
            process.poll()
        return [process.pid for process in self.processes() if process.state != "Z"]


def _dense(text: bytes) -> bytes:
    """Without white space: JSON may be written in many ways."""
    return b"".join(text.split())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

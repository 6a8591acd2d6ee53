"""The code blocks of a page, run as a reader would: files written, scripts run, commands typed, output compared."""

from __future__ import annotations

import doctest
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

__all__ = ["Reader", "blocks"]

START_S = 60.0
COMMAND_S = 60.0
_SERVES = re.compile(r"^zserve (run|node) ")
_FILE = re.compile(r"# (\S+\.(?:py|toml))\n")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each fenced block, in order."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


class Reader:
    """Somebody with two shells in an empty folder.

    A ``python`` or ``toml`` block that begins with "# name.py" is saved under that name; other ``python`` blocks are
    run together by :meth:`run_rest`.  ``$`` lines of a ``console`` block (all lines of a ``bash`` block) are typed;
    what follows is the output expected, "..." standing for anything.  ``zserve run`` goes to the second shell, where it
    ends what ran there before; so does a block that says ``^C``.  Port 8000 of the page is a free one here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.rest: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "zserve-run.log"
        run_dir = folder / "r"
        run_dir.mkdir(mode=0o700)
        self.run_dir = run_dir
        self.environment: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ZSERVE_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ZSERVE_RUN_DIR": str(run_dir),
            "ZSERVE_PORT": str(self.port),
        }

    def read(self, page: str) -> None:
        """Do all that the page says."""
        for language, text in blocks(page):
            text = self.here(text)
            named = _FILE.match(text)
            if language in ("python", "toml") and named:
                (self.folder / named[1]).write_text(text)
            elif language == "python":
                self.rest.append(text)
            elif language == "bash":
                for line in text.splitlines():
                    self.type(line, None)
            elif language == "console":
                if text == "^C\n":
                    self.stop()
                for command, expected in _commands(text):
                    self.type(command, expected)
        self.run_rest()

    def here(self, text: str) -> str:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        return text.replace("serve.init()", f"serve.init(http_port={self.port})")

    def type(self, command: str, expected: str | None) -> None:
        if _SERVES.match(command):
            self._serve(command)
            return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        log = self._log.read_text() if self._log.exists() else ""
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}\n--- zserve run:\n{log}"
        if expected is not None:
            got = done.stdout if done.stdout.endswith("\n") or not done.stdout else done.stdout + "\n"
            same = doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS)
            assert same, f"$ {command}\n{got}--- instead of\n{expected}--- zserve run:\n{log}"

    def run_rest(self) -> None:
        """The blocks that have no file name, as one script."""
        if not self.rest:
            return
        script = self.folder / "the_page.py"
        script.write_text("\n".join(self.rest))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-u", str(script)],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _serve(self, command: str) -> None:
        self.stop()
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        end = time.monotonic() + START_S
        while "serving" not in self._log.read_text():
            assert self._server.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Ctrl-C in the second shell."""
        if self._server is None:
            return
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
        try:
            assert self._server.wait(40) == 0, self._log.read_text()
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(10)
            raise
        finally:
            self._server = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _commands(text: str) -> Iterator[tuple[str, str]]:
    command, expected = "", ""
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:].rstrip("\n"), ""
        else:
            expected += line
    if command:
        yield command, expected


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

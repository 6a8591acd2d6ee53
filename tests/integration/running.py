"""``zserve run`` as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

__all__ = ["RunningApp"]

START_S = 60.0


class RunningApp:
    """``zserve run MODULE`` on a free port, with a run directory of its own; ended with Ctrl-C."""

    def __init__(self, module: str, app_dir: Path, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zs-")
        self.folder = Path(self._folder.name)
        self.run_base = self.folder / "run"
        self.run_base.mkdir(mode=0o700)
        self._log = self.folder / "output"
        command = [sys.executable, "-m", "zserve", "run", module, "--app-dir", str(app_dir), "--port", "0", *arguments]
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ZSERVE_RUN_DIR": str(self.run_base)},
                process_group=0,
            )
        self.url = ""
        self.address = ""

    def output(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> None:
        end = time.monotonic() + START_S
        while not (found := re.search(r"serving .* on (https?://\S+)", self.output())):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < end, self.output()
            time.sleep(0.01)
        self.url = found.group(1)
        facts = json.loads(next(self.run_base.glob("*/fabric.json")).read_text())
        self.address = facts["address"]

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(40)

    def leftovers(self) -> list[str]:
        """What is still in the run directory."""
        return [str(path) for path in self.run_base.rglob("*")] if self.run_base.exists() else []

    def __enter__(self) -> RunningApp:
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._folder.cleanup()

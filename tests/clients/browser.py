"""Headless Chromium, told what to do through the DevTools protocol (over a pipe, so no port and no WebSocket)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

__all__ = ["Browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 60.0
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page; *folder* gets its profile and log.  Skips the test where Chromium is missing or does not run.

    width, height: of the page, in CSS pixels; touch: a phone, fingers instead of a mouse.
    """

    def __init__(self, folder: Path, *, width: int = 1000, height: int = 800, touch: bool = False) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("chromium is not installed here (Debian: apt-get install chromium)")
        self._log = folder / "chromium.log"
        self._touch = touch
        self._number = 0
        self._session = ""
        self._said = b""
        theirs_in, self._to = _pipe()
        self._from, theirs_out = _pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # The protocol is spoken on descriptors 3 and 4.
                ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-', "bash",
                 program, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs_in, theirs_out),
                process_group=0,
            )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.call("Page.bringToFront")
            self.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
            )
            if touch:
                self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            self._unusable()
        until = time.monotonic() + ANSWER_S
        while True:
            answer = self._read(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Go there, and wait until all of it is loaded."""
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.run("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def draw(self, stroke: Sequence[Sequence[float]]) -> None:
        """From point to point (CSS pixels) with the button, or a finger, down."""
        (x, y), *rest = stroke
        self._pointer("mousePressed", "touchStart", x, y)
        for x, y in rest:
            self._pointer("mouseMoved", "touchMove", x, y)
        self._pointer("mouseReleased", "touchEnd", x, y)

    def click(self, x: float, y: float) -> None:
        self.draw([(x, y)])

    def screenshot(self, file: Path) -> None:
        """A PNG of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        for descriptor in (self._to, self._from):
            os.close(descriptor)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(20)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pointer(self, mouse: str, touch: str, x: float, y: float) -> None:
        if self._touch:
            self.call(
                "Input.dispatchTouchEvent", type=touch, touchPoints=[] if touch == "touchEnd" else [{"x": x, "y": y}]
            )
        else:
            self.call("Input.dispatchMouseEvent", type=mouse, x=x, y=y, button="left", buttons=1, clickCount=1)

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._said:
            if not select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]:
                raise AssertionError(f"chromium does not answer: {self._log.read_text(errors='replace')[-500:]}")
            data = os.read(self._from, 1 << 20)
            if not data:
                self._unusable()
            self._said += data
        message, _, self._said = self._said.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _unusable(self) -> None:
        said = self._log.read_text(errors="replace")[-500:]
        if self._session:
            raise AssertionError(f"chromium ended: {said}")
        pytest.skip(f"chromium does not run here: {said}")


def _pipe() -> list[int]:
    """A pipe whose ends have numbers that nobody else asks for."""
    ends = os.pipe()
    try:
        return [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
    finally:
        for end in ends:
            os.close(end)

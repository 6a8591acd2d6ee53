"""What the gateway looks after once a second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zserve.http.front import HttpFront


class Connection:
    """A connection that is in the middle of a streamed answer."""

    waiting_since = None
    headers: list[Any] = []

    def __init__(self, idle_s: float, *, complete: bool = False) -> None:
        outflow = SimpleNamespace(idle_s=lambda now: idle_s)
        self.active: Any = SimpleNamespace(outflow=outflow, response_complete=complete)
        self.cut_off_hard: list[bool] = []

    def cut_off(self, hard: bool = False) -> None:
        self.cut_off_hard.append(hard)


def front(*connections: Connection) -> HttpFront:
    made = HttpFront(None, lambda: None, stream_idle_s=60.0, now=lambda: 0.0)  # type: ignore[arg-type]
    made.server_state = SimpleNamespace(connections=set(connections))  # type: ignore[assignment]
    return made


def test_a_stream_in_which_nothing_moves_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    moving, stuck, done, waiting = Connection(59.0), Connection(61.0), Connection(61.0, complete=True), Connection(0.0)
    waiting.active = None
    front(moving, stuck, done, waiting).sweep()
    assert stuck.cut_off_hard == [True], "with a reset: its client does not take what there is"
    assert moving.cut_off_hard == done.cut_off_hard == waiting.cut_off_hard == []
    assert "nothing moved for 61 s" in caplog.text

from __future__ import annotations

import signal

import pytest
from zserve.nodes import launch
from zserve.nodes.launch import LocalFabric


@pytest.mark.parametrize("while_first_sends", [False, True])
def test_a_second_signal_forces_also_while_the_first_is_dealt_with(
    monkeypatch: pytest.MonkeyPatch, while_first_sends: bool
) -> None:
    fabric = object.__new__(LocalFabric)
    fabric._grace_s, fabric._asked, fabric._forced = 30.0, False, False
    sent: list[int] = []
    alarms: list[int] = []

    def send(number: int) -> None:
        sent.append(number)
        if while_first_sends and len(sent) == 1:
            fabric._on_signal(signal.SIGINT, None)

    monkeypatch.setattr(fabric, "_signal", send)
    monkeypatch.setattr(launch.signal, "alarm", alarms.append)
    fabric._on_signal(signal.SIGINT, None)
    if not while_first_sends:
        fabric._on_signal(signal.SIGINT, None)
    assert sent[0] == signal.SIGTERM
    assert sent[-1] == signal.SIGINT, "another one than the first, behind it"
    assert alarms[-1] == launch._FORCE_S

"""Where the publications of a router are, for those who are told another address than it is bound to."""

from __future__ import annotations

import pytest

from zserve.channel.hub import _advertised


@pytest.mark.parametrize(
    ("told", "bound", "publish", "expected"),
    [
        ("tcp://10.0.0.1:7700", "tcp://0.0.0.0:7700", "tcp://0.0.0.0:41234", "tcp://10.0.0.1:41234"),
        ("tcp://127.0.0.1:7700", "tcp://127.0.0.1:7700", "tcp://127.0.0.1:7701", "tcp://127.0.0.1:7701"),
        ("ipc:///a/r", "ipc:///a/r", "ipc:///a/r.pub", "ipc:///a/r.pub"),
        ("ipc:///seen/way", "ipc:///own/r", "ipc:///own/r.pub", "ipc:///seen/way.pub"),
        ("ipc:///seen/way", "ipc:///own/r", "ipc:///elsewhere/p", "ipc:///elsewhere/p"),
        ("tcp://10.0.0.1:7700", "ipc:///own/r", "ipc:///own/r.pub", "ipc:///own/r.pub"),
    ],
)
def test_publications_are_beside_the_address_that_is_told(told: str, bound: str, publish: str, expected: str) -> None:
    assert _advertised(told, bound, publish) == expected

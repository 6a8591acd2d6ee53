"""Running out of file descriptors."""

from __future__ import annotations

import errno
import os
import resource

import pytest
from zserve.nodes.descriptors import Descriptors, within_descriptors

from zserve.http.limits import HttpLimits


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_it_is_said_once_and_once_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def nothing_left(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    descriptors = Descriptors()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", nothing_left)
            descriptors.look()
            descriptors.look()
        assert descriptors.exhausted
        descriptors.look()
        descriptors.look()
        assert not descriptors.exhausted
    said = [record.message for record in caplog.records]
    assert len(said) == 4
    assert said[0].startswith("out of file descriptors, at the limit of this ")
    assert said[1] == "file descriptors are there again: new connections are taken"


@pytest.mark.parametrize(("most", "connections"), [(100, 50), (1000, 872), (1128, 1000), (65_536, 1000)])
def test_a_gateway_takes_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    limits = HttpLimits(connections=1000, body_bytes=5)
    assert within_descriptors(limits) == HttpLimits(connections=connections, body_bytes=5)
    assert [f"at most {connections} connections" in record.message for record in caplog.records] == (
        [True] if connections < 1000 else []
    )

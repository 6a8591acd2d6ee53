"""The limits of HTTP on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from zserve.nodes.commands import node
from zserve.nodes.options import GatewayOptions

from zserve.http.limits import HttpLimits


def given(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> HttpLimits:
    """The limits that a gateway started with *arguments* has."""
    started: list[Any] = []

    def run_role(options: Any) -> int:
        started.append(options)
        return 0

    monkeypatch.setattr(node, "run_role", run_role)
    line = ["--role", "gateway", "--join", "tcp://127.0.0.1:1", *arguments]
    result = CliRunner().invoke(node.command, line, standalone_mode=False)
    assert result.exception is None, result.output
    (options,) = started
    assert isinstance(options, GatewayOptions)
    return options.limits


def test_they_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch) == HttpLimits()


def test_each_option_sets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = given(
        monkeypatch,
        *("--max-connections", "50", "--max-connections-per-address", "5", "--max-body-bytes", "1000"),
        *("--max-header-bytes", "2000", "--header-timeout", "1.5", "--keep-alive-timeout", "7"),
        *("--max-held-bytes", "3000"),
    )
    assert limits == HttpLimits(
        connections=50,
        connections_per_address=5,
        body_bytes=1000,
        held_bytes=3000,
        header_bytes=2000,
        header_s=1.5,
        keep_alive_s=7.0,
    )

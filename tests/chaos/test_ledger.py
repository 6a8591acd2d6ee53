"""What the checks of a run find, on records that were made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.chaos.ledger import check, read_ledger
from tools.chaos.nodes import Life
from tools.chaos.requests import KINDS, Record

OF = {kind.name: kind for kind in KINDS}
GATEWAY = 4711


def life(**given: object) -> Life:
    found = Life(GATEWAY)
    found.begin_s = 0.0
    for name, value in given.items():
        setattr(found, name, value)
    return found


def request(kind: str = "mark", **given: object) -> Record:
    """One that was answered with 200 as it should be, but for what is *given*."""
    record = Record(
        "s1-0", OF[kind], 10.0, sent_s=10.0, begun_s=10.1, ended_s=10.1, gateway="gateway-0", served_by=GATEWAY,
        status=200, whole=True, right=True,
    )  # fmt: skip
    for name, value in given.items():
        setattr(record, name, value)
    return record


def lost(**given: object) -> Record:
    return request(**{"status": 0, "begun_s": 0.0, "whole": False, "right": False, "trouble": "it ended", **given})


def found(record: Record, runs: int = 1, gateway: Life | None = None, **more: object) -> list[str]:
    return check([record], {record.key: runs} if runs else {}, {GATEWAY: gateway or life()}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "runs"),
    [
        (request, 1),
        (lambda: request("look"), 3),
        (lambda: request(status=502, right=False), 1),
        (lambda: request(status=503, right=False), 0),
        (lambda: request(status=504, begun_s=20.1, right=False), 1),
    ],
)
def test_what_is_as_it_should_be(record: Callable[[], Record], runs: int) -> None:
    assert found(record(), runs) == []


@pytest.mark.parametrize(
    ("record", "runs", "text"),
    [
        (request, 2, "ran 2 times"),
        (request, 0, "answered with 200 and never run"),
        (lambda: request(right=False, text="other"), 1, "the answer to something else: 'other'"),
        (lambda: request(whole=False, trouble="cut"), 1, "200 that was cut short (cut)"),
        (lambda: request(status=404, text="no such"), 0, "404 'no such'"),
        (lambda: request(status=503, whole=False), 0, "503 that was cut short"),
        (lambda: request(status=504, begun_s=26.0), 0, "504 came 6.0 s after its deadline of 10 s"),
        (lost, 1, "no answer, ran 1 times: it ended"),
        (lambda: lost(served_by=1), 0, "from a gateway that is not known"),
        (lambda: lost(sent_s=0.0, trouble="no gateway took it"), 0, "no gateway took it"),
    ],
)
def test_what_is_wrong(record: Callable[[], Record], runs: int, text: str) -> None:
    (line,) = found(record(), runs)
    assert text in line
    assert "s1-0" in line


def test_a_run_that_nobody_asked_for() -> None:
    (line,) = check([request()], {"s1-0": 1, "s1-9": 1}, {GATEWAY: life()})
    assert "never sent: ['s1-9']" in line


def test_a_gateway_that_is_killed_takes_its_connections_with_it() -> None:
    killed = life(killed=True, end_s=10.05)
    assert found(lost(), gateway=killed) == []
    assert found(lost(), 2, gateway=killed) != []
    assert found(lost(sent_s=11.0), gateway=killed) != [], "it was sent after that"
    assert found(lost(sent_s=10.06, ended_s=10.07), 0, gateway=killed) == [], "before its client had noticed"
    assert found(lost(sent_s=9.0, ended_s=9.5), 0, gateway=killed) != [], "its connection ended before"


def test_one_that_leaves_closes_idle_connections_only() -> None:
    leaving = life(leaving_s=9.9, end_s=10.2)
    assert found(lost(), 0, gateway=leaving) == []
    assert found(lost(), 1, gateway=leaving) != [], "it was read, so it had to be answered"
    assert found(lost(fresh=True), 0, gateway=leaving) != [], "the connection was accepted for it"


def test_a_gateway_that_stood_still_is_late_by_as_much() -> None:
    late = request(status=504, begun_s=26.0)
    assert found(late, 0, gateway=life(stops=[[12.0, 18.0]])) == []
    assert found(late, 0, gateway=life(stops=[[12.0, 13.0]])) != []
    assert found(late, 0, gateway=life(stops=[[12.0, math.inf]])) == []
    assert found(late, 0, held_up_s=4.0) == []


def test_a_stream_breaks_off_only_while_something_is_wrong() -> None:
    broken = request("stream", whole=False, right=False, ended_s=10.3)
    assert found(broken, faults=[(9.0, 12.0)]) == []
    (line,) = found(broken, faults=[(2.0, 4.0)])
    assert "broke off although nothing was wrong" in line


def test_ledgers_of_all_processes_count(tmp_path: Path) -> None:
    (tmp_path / "1.ledger").write_text("a\nb\n")
    (tmp_path / "2.ledger").write_text("a\n")
    assert read_ledger(tmp_path) == {"a": 2, "b": 1}

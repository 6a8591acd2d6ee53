"""Bugs that are planted are found, each within a few seeds: the simulator sees what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.channel.outbox import Outbox, Peer
from zserve.cores import gateway, roster, router
from zserve.cores.inquiries import Inquiries
from zserve.cores.recollection import Recollection
from zserve.handler.recent import RecentAnswers
from zserve.registry import registry, sync
from zserve.registry.registry import Registry
from zserve.registry.sync import ConfigSync
from zserve.testing.simulate import Scenario, simulate
from zserve.wire.messages import Pull

WITHIN_SEEDS = 60


def found(expected: str, faults: str = "mixed") -> int:
    """The first seed that violates the invariant *expected*."""
    for seed in range(WITHIN_SEEDS):
        outcome = simulate(seed, Scenario(faults=faults))
        if any(violation.name == expected for violation in outcome.violations):
            return seed
    raise AssertionError(f"{expected!r} was not violated within {WITHIN_SEEDS} seeds")


class _Always(int):
    """A flag that is always set."""

    def __rand__(self, other: int) -> int:
        return 1


def test_answers_to_pulls_get_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignore(self: ConfigSync, peer: Peer, pull: Pull, out: Outbox) -> None: ...

    monkeypatch.setattr(ConfigSync, "on_pull", ignore)
    assert found("one registry") < 5


def test_heartbeats_without_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConfigSync, "digest", lambda self: b"")
    assert found("one registry") < 40


def test_tombstones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TOMBSTONE_MS", 0)
    monkeypatch.setattr(sync, "EXPIRE_EVERY_S", 1.0)
    assert found("no deleted record comes back") < WITHIN_SEEDS


def test_a_gateway_repeats_what_must_not_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "FLAG_IDEMPOTENT", _Always(1))
    assert found("at most once") < 40


def test_a_router_repeats_what_must_not_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "FLAG_IDEMPOTENT", _Always(1))
    assert found("at most once", "crashes") < 40


def test_a_router_does_not_ask_where_a_request_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: Inquiries, *request: Any) -> None:
        self._router.intake.take_in(*request)

    monkeypatch.setattr(Inquiries, "begin", begin)
    assert found("at most once", "routers") < 40


def test_a_replica_forgets_what_it_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecentAnswers, "put", lambda self, *answer: None)
    monkeypatch.setattr(RecentAnswers, "put_all", lambda self, *answers: None)
    assert found("at most once", "routers") < WITHIN_SEEDS


def test_a_replica_does_not_say_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recollection, "_attach", lambda self, peer, call: False)
    assert found("nothing is lost with a router", "routers") < 40


def test_a_router_does_not_read_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "restore", lambda self, records, wall_ms: [])
    assert found("no acknowledged write is lost") < WITHIN_SEEDS


def test_replicas_of_dead_worker_nodes_are_not_placed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "GONE_S", 1000.0)
    assert found("as many replicas as asked for") < 40


def test_a_gateway_answers_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "SLACK_S", 0.5)
    assert found("in time") < 5

"""What a router finds on disk, and how long ago it was there."""

from __future__ import annotations

from pathlib import Path

import pytest
from zserve.nodes.state import RouterState

from zserve.registry.registry import Registry
from zserve.registry.standing import ABSENT_MS, BLANK
from zserve.registry.sync import ConfigSync
from zserve.registry.values import EndpointValue, encode_value
from zserve.wire.messages import NodeInfo

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


def run(folder: Path, wall_ms: int) -> tuple[RouterState, ConfigSync]:
    """A router starts."""
    sync = ConfigSync(NodeInfo(b"r" * 16, b"b" * 8, "router"), lambda: wall_ms)
    state = RouterState(str(folder))
    state.load_into(sync, wall_ms, 10.0)
    return state, sync


def written(folder: Path) -> None:
    state, sync = run(folder, NOW_MS)
    assert sync.standing.absent_ms == BLANK
    sync.registry.write("endpoint/e", encode_value(EndpointValue()), None, NOW_MS)
    state.save(sync.registry, NOW_MS)
    state.close()


@pytest.mark.parametrize(("away_ms", "in_doubt"), [(ABSENT_MS - 1, False), (ABSENT_MS + 1, True), (-ABSENT_MS, False)])
def test_a_router_that_was_away_for_too_long_is_in_doubt(tmp_path: Path, away_ms: int, in_doubt: bool) -> None:
    written(tmp_path)
    state, sync = run(tmp_path, NOW_MS + away_ms)
    assert sync.standing.in_doubt == in_doubt
    assert len(sync.registry) == (0 if in_doubt else 1)
    assert len(sync.standing.held) == (1 if in_doubt else 0)
    assert sync.standing.absent_ms == (NOW_MS if in_doubt else 0)
    state.close()


def test_a_router_that_runs_says_so_now_and_then(tmp_path: Path) -> None:
    written(tmp_path)
    state, _ = run(tmp_path, NOW_MS)
    for hours in range(24 * 20):
        state.touch(NOW_MS + hours * HOUR_MS)
    state.close()
    state, sync = run(tmp_path, NOW_MS + 21 * 24 * HOUR_MS)
    assert not sync.standing.in_doubt, "nothing was written for weeks, and it was there all the time"
    state.close()


def test_what_others_know_better_is_kept_for_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path)
    late_ms = NOW_MS + ABSENT_MS + 1
    state, sync = run(tmp_path, late_ms)
    state.given_up(1)
    assert "registry.sqlite.absent-1" in caplog.text
    registry = Registry(b"r" * 16)
    registry.write("endpoint/other", encode_value(EndpointValue()), None, late_ms)
    state.save(registry, late_ms)
    state.close()
    assert (tmp_path / "registry.sqlite.absent-1").exists()
    state, sync = run(tmp_path, late_ms)
    assert [record.key for record in sync.registry.records()] == ["endpoint/other"]
    state.close()

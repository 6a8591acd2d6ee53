"""Whether there is processor time to spare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from zserve.nodes.processors import may_poll

V2 = "0::/system.slice/zserve.service\n"
V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/ab12\n1:memory:/docker/ab12\n0::/\n"


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def asked(folder: Path, own: str, **limits: str) -> bool:
    """*limits*: contents of limit files, their paths with __ for slashes."""
    (folder / "own").write_text(own)
    for path, content in limits.items():
        file = folder / "cgroup" / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return may_poll(folder / "cgroup", folder / "own")


def test_where_nothing_says_otherwise(tmp_path: Path) -> None:
    assert asked(tmp_path, V2)
    assert may_poll(tmp_path / "none", tmp_path / "none")


def test_not_on_one_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
    assert not asked(tmp_path, V2)


@pytest.mark.parametrize(
    ("own", "path", "content", "free"),
    [
        (V2, "system.slice__zserve.service__cpu.max", "max 100000\n", True),
        (V2, "system.slice__zserve.service__cpu.max", "150000 100000\n", False),
        (V2, "system.slice__cpu.max", "400000 100000\n", False),
        (V2, "cpu.max", "50000 100000\n", False),
        (V2, "cpu.max", "", True),
        (V2, "system.slice__other.service__cpu.max", "50000 100000\n", True),
        (V1, "cpu__docker__ab12__cpu.cfs_quota_us", "-1\n", True),
        (V1, "cpu__docker__ab12__cpu.cfs_quota_us", "100000\n", False),
        (V1, "cpu__cpu.cfs_quota_us", "100000\n", False),
        (V1, "memory__docker__ab12__cpu.cfs_quota_us", "100000\n", True),
    ],
)
def test_a_limit_on_the_way_to_the_top(tmp_path: Path, own: str, path: str, content: str, free: bool) -> None:
    assert asked(tmp_path, own, **{path: content}) is free


def test_a_container_that_sees_the_path_of_its_host(tmp_path: Path) -> None:
    assert not asked(tmp_path, "0::/kubepods/burstable/pod1\n", **{"cpu.max": "100000 100000\n"})

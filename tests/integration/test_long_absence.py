"""A router that comes back with a state of ten days ago."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from zserve.registry.registry import Registry
from zserve.registry.store import Store
from zserve.registry.values import EndpointValue, encode_value

from .fabric import Fabric, eventually

pytestmark = pytest.mark.integration

DAY_MS = 86_400_000


def state(folder: Path, days_ago: int, *names: str) -> Path:
    """A state folder that a router left so long ago."""
    folder.mkdir()
    at_ms = time.time_ns() // 1_000_000 - days_ago * DAY_MS
    registry = Registry(b"w" * 16)
    for name in names:
        registry.write(f"endpoint/{name}", encode_value(EndpointValue()), None, at_ms)
    store = Store(folder / "registry.sqlite")
    store.load()
    store.save(registry.records(), at_ms)
    store.close()
    return folder


def test_it_takes_what_the_others_have_and_brings_nothing_back(fabric: Fabric) -> None:
    fabric.start("router", "--state-dir", str(state(fabric.folder / "stayed", 0, "kept")))
    away = state(fabric.folder / "away", 10, "gone")
    fabric.start("router", "--state-dir", str(away))
    eventually((away / "registry.sqlite.absent-1").exists, "its own records are kept for people", 60.0)
    for router in range(2):
        what = f"router {router} has what was in force"
        eventually(lambda router=router: list(fabric.call("list_records", router)) == ["endpoint/kept"], what, 60.0)
    fabric.call("create_endpoint", 1, name="new", route="/new")
    assert sorted(fabric.call("list_records", 0)) == ["endpoint/kept", "endpoint/new"]

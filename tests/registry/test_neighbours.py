"""Which routers a node chooses for its links."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from zserve.registry.neighbours import choose_routers
from zserve.wire.messages import NodeInfo


def routers(count: int) -> list[NodeInfo]:
    rng = random.Random(7)
    return [NodeInfo(rng.randbytes(16), b"b" * 8, "router", f"r{number}") for number in range(count)]


def names(chosen: list[NodeInfo]) -> list[str]:
    return [info.name for info in chosen]


@pytest.mark.parametrize(("count", "at_most", "expected"), [(0, 3, 0), (2, 3, 2), (3, 3, 3), (9, 3, 3), (9, 0, 9)])
def test_as_many_as_allowed(count: int, at_most: int, expected: int) -> None:
    assert len(choose_routers(b"n" * 16, routers(count), at_most)) == expected


def test_the_choice_does_not_depend_on_the_order() -> None:
    found = routers(9)
    assert names(choose_routers(b"n" * 16, found, 3)) == names(choose_routers(b"n" * 16, found[::-1], 3))


def test_nodes_spread_evenly() -> None:
    rng = random.Random(1)
    found = routers(10)
    counts = Counter(name for _ in range(1000) for name in names(choose_routers(rng.randbytes(16), found, 3)))
    assert min(counts.values()) > 240
    assert max(counts.values()) < 360


def test_one_that_goes_is_replaced_and_the_others_stay() -> None:
    found = routers(9)
    before = choose_routers(b"n" * 16, found, 3)
    after = choose_routers(b"n" * 16, [info for info in found if info is not before[0]], 3)
    assert len(set(names(before)) & set(names(after))) == 2


def test_one_that_leaves_is_avoided_where_there_are_others() -> None:
    found = routers(4)
    first = choose_routers(b"n" * 16, found, 3)[0]
    leaving = [msgspec.structs.replace(info, leaving=info is first) for info in found]
    assert first.name not in names(choose_routers(b"n" * 16, leaving, 3))
    assert len(choose_routers(b"n" * 16, [msgspec.structs.replace(info, leaving=True) for info in found], 3)) == 3

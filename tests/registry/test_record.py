from __future__ import annotations

import msgspec
import pytest

from zserve.registry.record import LINEAGE, MAX_VALUE_BYTES, Record, lineage_after

A, B = b"a" * 16, b"b" * 16


def record(**fields: object) -> Record:
    base: dict[str, object] = {
        "key": "endpoint/e",
        "epoch": 1,
        "hlc": 5,
        "writer": A,
        "revision": 1,
        "parent": b"",
        "value": b"{}",
    }
    return Record(**{**base, **fields})  # type: ignore[arg-type]


def child(parent: Record, **fields: object) -> Record:
    return record(
        **{
            "hlc": parent.hlc + 1,
            "revision": parent.revision + 1,
            "parent": parent.stamp,
            "lineage": lineage_after(parent),
            **fields,
        }
    )


def test_order_is_epoch_then_clock_then_writer() -> None:
    in_order = [record(hlc=9), record(hlc=9, writer=B), record(hlc=10), record(epoch=2, hlc=1)]
    assert sorted(in_order, key=lambda one: one.mark) == in_order
    assert all(len(one.stamp) == 32 and one.mark[:32] == one.stamp for one in in_order)


def test_the_mark_tells_contents_under_one_stamp_apart() -> None:
    one, other, deleted = record(), record(value=b"[]"), record(value=None)
    assert one.stamp == other.stamp == deleted.stamp
    assert len({one.mark, other.mark, deleted.mark}) == 3


def test_a_record_of_the_version_before_has_no_lineage() -> None:
    old = msgspec.msgpack.encode(["endpoint/e", 1, 5, A, 1, b"", b"{}"])
    assert msgspec.msgpack.decode(old, type=Record) == record()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "x" * 301),
        ("key", "endpoint/a\nb"),
        ("epoch", 0),
        ("epoch", 1 << 63),
        ("hlc", -1),
        ("hlc", 1 << 63),
        ("writer", b"short"),
        ("revision", 0),
        ("parent", b"p"),
        ("lineage", b"1234567"),
        ("lineage", bytes(8 * (LINEAGE + 1))),
        ("value", bytes(MAX_VALUE_BYTES + 1)),
    ],
)
def test_faults_of_form_are_named(field: str, value: object) -> None:
    assert record(**{field: value}).fault()


def test_a_good_record_has_no_fault() -> None:
    assert record().fault() is None
    assert record(value=None, epoch=7, revision=30, parent=bytes(32), lineage=bytes(16)).fault() is None


def test_descent_is_known_over_missed_records() -> None:
    chain = [record()]
    for _ in range(LINEAGE + 4):
        chain.append(child(chain[-1]))
    last = chain[-1]
    assert all(last.descends_from(ancestor) for ancestor in chain[:-1])
    assert not chain[0].descends_from(last)
    assert len(last.lineage) == 8 * LINEAGE


def test_a_stranger_within_the_lineage_is_no_ancestor() -> None:
    root = record()
    mine = child(child(root))
    theirs = child(root, writer=B)
    assert mine.descends_from(root)
    assert not mine.descends_from(theirs)
    assert not theirs.descends_from(mine)

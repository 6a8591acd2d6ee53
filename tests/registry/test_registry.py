from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.errors import ConflictError
from zserve.registry.record import MAX_VALUE_BYTES, Record
from zserve.registry.registry import CONFLICT_MS, MAX_CONFLICTS, TOMBSTONE_MS, Registry
from zserve.registry.values import EndpointValue, encode_value

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
NOW = 1_700_000_000_000
KEY = "endpoint/e"


def value(route: str = "/x") -> bytes:
    return encode_value(EndpointValue(route=route))


def pair() -> tuple[Registry, Registry, Record]:
    """Two registries that share one record."""
    here, there = Registry(A), Registry(B)
    record = here.write(KEY, value(), None, NOW)
    assert there.merge(record, NOW).kind == "applied"
    return here, there, record


# --- compare-and-set --------------------------------------------------------------------------------------------------


def test_a_write_counts_up_from_the_record_it_replaces() -> None:
    registry = Registry(A)
    first = registry.write(KEY, value(), None, NOW)
    second = registry.write(KEY, value("/y"), first.stamp, NOW)
    assert (first.epoch, first.revision, first.parent) == (1, 1, b"")
    assert (second.epoch, second.revision, second.parent) == (1, 2, first.stamp)
    assert second.stamp > first.stamp
    assert registry.endpoint("e") == EndpointValue(route="/y")


def test_a_late_write_is_refused_and_names_the_current_record() -> None:
    registry = Registry(A)
    first = registry.write(KEY, value(), None, NOW)
    second = registry.write(KEY, value("/y"), first.stamp, NOW)
    with pytest.raises(ConflictError, match=f"revision 2, stamp {second.stamp.hex()}"):
        registry.write(KEY, value("/z"), first.stamp, NOW)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        registry.write(KEY, value("/z"), None, NOW)
    with pytest.raises(ConflictError, match="does not exist"):
        registry.write("endpoint/other", value(), first.stamp, NOW)
    assert registry.get(KEY) == second


def test_deleting_leaves_a_tombstone_and_creating_again_begins_an_epoch() -> None:
    registry = Registry(A)
    first = registry.write(KEY, value(), None, NOW)
    gone = registry.write(KEY, None, first.stamp, NOW)
    assert registry.endpoint("e") is None
    assert registry.endpoints() == {}
    assert registry.get(KEY) == gone
    again = registry.write(KEY, value("/new"), None, NOW)
    assert (again.epoch, again.parent, again.revision) == (2, gone.stamp, 3)


def test_deleting_nothing_is_a_key_error() -> None:
    registry = Registry(A)
    with pytest.raises(KeyError, match="does not exist"):
        registry.write(KEY, None, None, NOW)
    first = registry.write(KEY, value(), None, NOW)
    gone = registry.write(KEY, None, first.stamp, NOW)
    with pytest.raises(KeyError):
        registry.write(KEY, None, gone.stamp, NOW)


def test_an_invalid_write_changes_nothing() -> None:
    registry = Registry(A)
    digest = registry.digest()
    with pytest.raises(ValueError, match="endpoint/e: traffic"):
        registry.write(KEY, b'{"traffic": {"b": 0.4}}', None, NOW)
    with pytest.raises(ValueError, match="more than"):
        registry.write(KEY, bytes(MAX_VALUE_BYTES + 1), None, NOW)
    assert (registry.digest(), registry.take_changes(), registry.generation) == (digest, [], 0)


def test_the_registry_is_bounded() -> None:
    registry = Registry(A, max_records=1)
    registry.write(KEY, value(), None, NOW)
    with pytest.raises(ValueError, match="full"):
        registry.write("endpoint/f", value(), None, NOW)
    assert Registry(B).merge(registry.records()[0], NOW).applied
    other = Registry(B).write("endpoint/f", value(), None, NOW)
    assert "full" in registry.merge(other, NOW).reason


# --- merging ----------------------------------------------------------------------------------------------------------


def test_verdicts() -> None:
    here, there, first = pair()
    assert there.merge(first, NOW).kind == "equal"
    second = here.write(KEY, value("/y"), first.stamp, NOW)
    assert there.merge(second, NOW).kind == "applied"
    assert there.merge(first, NOW).kind == "older"
    assert there.digest() == here.digest()
    assert there.conflicts() == here.conflicts() == []


def test_a_missed_write_is_not_a_conflict() -> None:
    here, there, record = pair()
    for number in range(5):
        record = here.write(KEY, value(f"/{number}"), record.stamp, NOW)
    assert there.merge(record, NOW).kind == "applied"
    assert there.conflicts() == []


def test_concurrent_writes_resolve_alike_and_the_loser_is_kept() -> None:
    here, there, first = pair()
    mine = here.write(KEY, value("/mine"), first.stamp, NOW + 1)
    theirs = there.write(KEY, value("/theirs"), first.stamp, NOW + 2)
    theirs = there.write(KEY, value("/theirs2"), theirs.stamp, NOW + 3)
    won, lost = here.merge(theirs, NOW + 4), there.merge(mine, NOW + 4)
    assert (won.kind, won.applied, lost.kind, lost.applied) == ("conflict", True, "conflict", False)
    assert here.endpoint("e") == there.endpoint("e") == EndpointValue(route="/theirs2")
    for registry in (here, there):
        (conflict,) = registry.conflicts()
        assert (conflict.key, conflict.loser, conflict.winner) == (KEY, mine, theirs.stamp)
    there.merge(mine, NOW + 5)
    assert len(there.conflicts()) == 1


def test_a_delete_that_loses_to_a_concurrent_write_is_reported() -> None:
    here, there, first = pair()
    gone = here.write(KEY, None, first.stamp, NOW + 1)
    there.write(KEY, value("/kept"), first.stamp, NOW + 2)
    assert there.merge(gone, NOW + 3).kind == "conflict"
    assert there.conflicts()[0].loser == gone
    assert there.endpoint("e") == EndpointValue(route="/kept")


def test_conflicts_are_bounded_and_end_after_a_day() -> None:
    registry, strangers = Registry(A), Registry(B)
    for number in range(MAX_CONFLICTS + 10):
        key = f"endpoint/{number}"
        strangers.write(key, value("/old"), None, NOW)
        registry.write(key, value(), None, NOW + 1)
    for record in strangers.records():
        assert registry.merge(record, NOW).kind == "conflict"
    assert len(registry.conflicts()) == MAX_CONFLICTS
    registry.expire(NOW + CONFLICT_MS - 1)
    assert len(registry.conflicts()) == MAX_CONFLICTS
    registry.expire(NOW + CONFLICT_MS + 1)
    assert registry.conflicts() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hlc": (NOW + 61_000) << 16}, "future"),
        ({"value": b"not json"}, "endpoint/e"),
        ({"value": b'{"traffic": {"b": 2.0}}'}, "sum to 1"),
        ({"value": b'{"schema": 99}'}, "schema 99"),
        ({"value": bytes(MAX_VALUE_BYTES + 1)}, "more than"),
        ({"writer": b"x"}, "writer"),
        ({"epoch": -1}, "epoch"),
        ({"key": "unheard/e"}, "unknown kind"),
        ({"key": "unheard/e", "value": None}, "unknown kind"),
        ({"key": "endpoint/"}, "name"),
    ],
)
def test_what_must_not_be_applied_is_refused_and_the_good_record_stays(change: dict[str, Any], reason: str) -> None:
    here, there, first = pair()
    clock = there.clock.last
    bad = msgspec.structs.replace(here.write(KEY, value("/new"), first.stamp, NOW + 1), **change)
    verdict = there.merge(bad, NOW)
    assert verdict.kind == "refused"
    assert reason in verdict.reason
    assert there.get(KEY) == first
    assert there.refused == 1
    assert reason in there.refusals[0][1]
    if "hlc" in change:
        assert there.clock.last == clock


def test_a_record_from_the_future_is_taken_once_its_time_has_come() -> None:
    here, there, first = pair()
    early = here.write(KEY, value("/y"), first.stamp, NOW + 120_000)
    assert there.merge(early, NOW).kind == "refused"
    assert there.merge(early, NOW + 90_000).kind == "applied"


def test_one_stamp_with_two_contents_resolves_alike() -> None:
    here, there, first = pair()
    one = here.write(KEY, value("/one"), first.stamp, NOW)
    other = msgspec.structs.replace(one, value=value("/other"))
    assert there.merge(other, NOW).applied
    assert here.digest() != there.digest()
    here.merge(other, NOW)
    there.merge(one, NOW)
    assert here.get(KEY) == there.get(KEY)
    assert here.digest() == there.digest()
    assert len(here.conflicts()) == len(there.conflicts()) == 1


def test_a_stale_tombstone_of_an_unknown_key_is_not_taken() -> None:
    here, there, first = pair()
    gone = here.write(KEY, None, first.stamp, NOW)
    assert Registry(C).merge(gone, NOW + TOMBSTONE_MS + 1).kind == "older"
    assert there.merge(gone, NOW + TOMBSTONE_MS + 1).kind == "applied"


def test_tombstones_are_kept_for_their_time() -> None:
    registry = Registry(A)
    first = registry.write(KEY, value(), None, NOW)
    registry.write(KEY, None, first.stamp, NOW)
    registry.take_changes()
    assert registry.expire(NOW + TOMBSTONE_MS - 1) == []
    assert registry.expire(NOW + TOMBSTONE_MS + 1) == [KEY]
    assert registry.take_changes() == [KEY]
    assert (len(registry), registry.digest()) == (0, bytes(16))


def test_restoring_believes_what_was_believed_before() -> None:
    registry = Registry(A)
    record = registry.write(KEY, value(), None, NOW + 3_600_000)
    back = Registry(A)
    bad = msgspec.structs.replace(record, key="endpoint/bad", value=b"[]")
    assert [key for key, _ in back.restore([record, bad], NOW)] == ["endpoint/bad"]
    assert back.get(KEY) == record
    # The clock was set back by an hour: a new write must nevertheless come after.
    assert back.write(KEY, value("/y"), record.stamp, NOW).stamp > record.stamp


# --- digests and differences ------------------------------------------------------------------------------------------


def test_the_digest_depends_on_the_records_only() -> None:
    source = Registry(A)
    records = [source.write(f"endpoint/{number}", value(), None, NOW) for number in range(4)]
    digests = set()
    for order in itertools.permutations(records):
        registry = Registry(B)
        for record in order:
            registry.merge(record, NOW)
        digests.add(registry.digest())
    assert digests == {source.digest()}
    assert len(source.digest()) == 16
    before = source.digest()
    source.write("endpoint/0", value("/y"), records[0].stamp, NOW)
    assert source.digest() != before


def test_the_difference_goes_both_ways() -> None:
    here, there, first = pair()
    newer_here = here.write(KEY, value("/y"), first.stamp, NOW)
    only_here = here.write("endpoint/here", value(), None, NOW)
    only_there = there.write("endpoint/there", value(), None, NOW)
    newer, wanted = here.difference(there.summary())
    assert {record.key: record for record in newer} == {KEY: newer_here, "endpoint/here": only_here}
    assert wanted == [only_there.key]
    assert here.difference(here.summary()) == ([], [])
    assert here.difference([("endpoint/x", b"")])[1] == ["endpoint/x"]


def test_changes_are_named_once_in_order() -> None:
    registry = Registry(A)
    first = registry.write("endpoint/b", value(), None, NOW)
    registry.write("endpoint/a", value(), None, NOW)
    registry.write("endpoint/b", value("/y"), first.stamp, NOW)
    assert registry.generation == 3
    assert registry.take_changes() == ["endpoint/b", "endpoint/a"]
    assert registry.take_changes() == []


def test_applied_means_this_record_or_a_later_one() -> None:
    here, there, first = pair()
    second = here.write(KEY, value("/y"), first.stamp, NOW)
    assert not there.applied(KEY, second.stamp)
    assert not there.applied("endpoint/none", first.stamp)
    there.merge(second, NOW)
    assert there.applied(KEY, first.stamp)
    assert there.applied(KEY, second.stamp)


# --- properties -------------------------------------------------------------------------------------------------------

_STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans(), st.booleans()), max_size=30)


def history(steps: list[tuple[int, int, bool, bool]]) -> list[Record]:
    """Records that three writers make, some of them without having heard of each other."""
    registries = [Registry(writer) for writer in (A, B, C)]
    made: list[Record] = []
    for number, (who, key_number, delete, listen) in enumerate(steps):
        registry = registries[who]
        if listen:
            for record in made:
                registry.merge(record, NOW + number)
        key = f"endpoint/{key_number}"
        current = registry.get(key)
        live = current is not None and current.value is not None
        text = None if delete and live else value(f"/{number}")
        made.append(registry.write(key, text, current.stamp if current else None, NOW + number))
    return made


@settings(max_examples=150, deadline=None)
@given(_STEPS, st.randoms(use_true_random=False), st.integers(0, 30))
def test_merging_is_commutative_associative_and_idempotent(
    steps: list[tuple[int, int, bool, bool]], rng: Any, cut: int
) -> None:
    records = history(steps)
    forward = Registry(A)
    for record in records:
        forward.merge(record, NOW + 100)
    shuffled = [*records, *records[:cut]]
    rng.shuffle(shuffled)
    backward = Registry(B)
    for record in shuffled:
        backward.merge(record, NOW + 100)
    # Associative: merging two merged halves is merging everything.
    left, right = Registry(C), Registry(C)
    for record in records[:cut]:
        left.merge(record, NOW + 100)
    for record in records[cut:]:
        right.merge(record, NOW + 100)
    for record in right.records():
        left.merge(record, NOW + 100)
    assert forward.records() == backward.records() == left.records()
    assert forward.digest() == backward.digest() == left.digest()
    for record in forward.records():
        assert record.mark == max(other.mark for other in records if other.key == record.key)
    losers = {conflict.loser.mark for conflict in forward.conflicts()}
    heads = {record.mark for record in forward.records()}
    for record in records:
        superseded = any(other.descends_from(record) for other in records if other.key == record.key)
        assert superseded or record.mark in losers | heads


@settings(max_examples=100, deadline=None)
@given(_STEPS, st.randoms(use_true_random=False))
def test_a_delete_seen_by_its_successors_never_comes_back(
    steps: list[tuple[int, int, bool, bool]], rng: Any
) -> None:
    records = [*history(steps)]
    everything = Registry(A)
    for record in records:
        everything.merge(record, NOW + 100)
    deletes: list[Record] = []
    for key in list(everything.endpoints()):
        current = everything.get(f"endpoint/{key}")
        assert current is not None
        deletes.append(everything.write(current.key, None, current.stamp, NOW + 200))
    late = [*records, *deletes, *records]
    rng.shuffle(late)
    other = Registry(B)
    for record in late:
        other.merge(record, NOW + 300)
    for record in records:
        other.merge(record, NOW + 300)
    assert other.endpoints() == {}

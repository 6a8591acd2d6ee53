"""The memory of answers."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from zserve.handler.recent import RecentAnswers
from zserve.http.answers import KIND_TEXT, ORIGIN_CODE, Answer


def answer(body: bytes) -> Answer:
    return 200, KIND_TEXT, b"", body, ORIGIN_CODE


def test_the_oldest_are_forgotten_first() -> None:
    recent = RecentAnswers(max_entries=2)
    for name in (b"a", b"b", b"c"):
        recent.put(name, answer(name), 0.0)
    assert [name in recent for name in (b"a", b"b", b"c")] == [False, True, True]
    assert recent.get(b"c") == answer(b"c")
    assert recent.get(b"a") is None


def test_the_first_answer_stays() -> None:
    recent = RecentAnswers()
    recent.put(b"a", answer(b"first"), 0.0)
    recent.put(b"a", answer(b"second"), 0.0)
    assert recent.get(b"a") == answer(b"first")
    assert len(recent) == 1


def test_bytes_are_bounded() -> None:
    recent = RecentAnswers(max_bytes=10_000)
    for number in range(100):
        recent.put(b"%d" % number, answer(b"x" * 1000), 0.0)
    assert recent.held_bytes <= 10_000
    assert len(recent) == 7


def test_of_a_large_answer_only_the_id_is_kept() -> None:
    recent = RecentAnswers(max_bytes=10_000)
    recent.put(b"a", answer(b"x" * 5000), 0.0)
    assert b"a" in recent
    assert recent.get(b"a") is None
    assert recent.held_bytes < 1000


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=60))
def test_never_beyond_its_limits(entries: list[tuple[int, int]]) -> None:
    recent = RecentAnswers(max_entries=5, max_bytes=6000)
    for name, size in entries:
        recent.put(b"%d" % name, answer(b"x" * size), 0.0)
        assert len(recent) <= 5
        assert recent.held_bytes <= 6000
        assert b"%d" % name in recent


def test_what_is_too_old_is_forgotten_and_said_to_be() -> None:
    recent = RecentAnswers(keep_s=60.0)
    recent.put(b"a", answer(b"a"), 5.0)
    recent.put(b"b", answer(b"b"), 6.0)
    assert recent.forgotten_at < 0
    recent.expire(65.5)
    assert (b"a" in recent, b"b" in recent) == (False, True)
    assert recent.forgotten_at == 5.0
    recent.expire(100.0)
    assert (len(recent), recent.held_bytes, recent.forgotten_at) == (0, 0, 6.0)


def test_so_is_what_there_was_no_room_for() -> None:
    recent = RecentAnswers(max_entries=2)
    for number in range(4):
        recent.put(b"%d" % number, answer(b""), float(number))
    assert recent.forgotten_at == 1.0


def test_a_small_body_is_kept_without_the_block_that_it_was_written_into() -> None:
    recent = RecentAnswers()
    body = orjson.dumps({"n": 1})
    recent.put(b"id", (200, 2, b"", body, 0), 0.0)
    kept = recent.get(b"id")
    assert kept == (200, 2, b"", body, 0)
    assert kept is not None
    assert kept[3] is not body

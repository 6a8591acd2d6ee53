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


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4), st.booleans()), max_size=8), max_size=20),
    st.sampled_from([5, 200, 65_536]),
)
def test_together_is_as_one_by_one(groups: list[list[tuple[int, int, bool]]], max_entries: int) -> None:
    """But for when those that came together go, where there is no room."""
    together, single = RecentAnswers(max_entries), RecentAnswers(max_entries)
    for now, group in enumerate(groups):
        ids = [b"%d" % name for name, _, _ in group]
        answers = [
            (500 if failed else 200, KIND_TEXT, b"h" * (size == 3), b"%d" % name * (1000 if size == 4 else size), 0)
            for name, size, failed in group
        ]
        together.put_all(ids, answers, float(now))
        for one, given_answer in zip(ids, answers, strict=True):
            single.put(one, given_answer, float(now))
        assert len(together) <= max_entries
    if max_entries > 40:
        assert together.held_bytes == single.held_bytes
        assert len(together) == len(single)
    for name in range(41):
        key = b"%d" % name
        if key in together:
            assert together.get(key) == single.get(key)
        assert key in single or key not in together
    together.expire(1e9)
    assert (len(together), together.held_bytes) == (0, 0)


def test_of_those_that_came_together_few_enough_go_at_a_time() -> None:
    recent = RecentAnswers(max_entries=1000)
    for number in range(40):
        recent.put_all([b"%d" % name for name in range(30 * number, 30 * number + 30)], [answer(b"x")] * 30, 0.0)
    assert len(recent) > 980


def test_small_ones_that_came_together_are_one_piece() -> None:
    recent = RecentAnswers()
    bodies = [orjson.dumps({"n": number}) for number in range(8)]
    recent.put_all([b"%d" % number for number in range(8)], [answer(body) for body in bodies], 0.0)
    assert [recent.get(b"%d" % number) for number in range(8)] == [answer(body) for body in bodies]
    assert len(set(map(id, recent.known.values()))) == 1

from __future__ import annotations

import random

from zserve.channel.attempts import Attempts

A, B = "tcp://a:1", "tcp://b:1"


def test_the_pause_grows_to_a_limit_and_is_short_again_after_a_link() -> None:
    attempts = Attempts(random.Random(1))
    assert 0.02 <= attempts.pause_s(A) <= 0.3
    pauses = []
    for _ in range(100):
        attempts.failed(A)
        pauses.append(attempts.pause_s(A))
    assert max(pauses[:2]) <= 0.3
    assert max(pauses[50:]) > 1.0
    assert max(pauses) <= 3.0
    assert attempts.pause_s(B) <= 0.3
    attempts.succeeded(A)
    assert max(attempts.pause_s(A) for _ in range(50)) <= 0.3


def test_somebody_is_told_once_when_every_way_has_failed_twice() -> None:
    attempts = Attempts(random.Random(1))
    assert [attempts.failed(A, 3) for _ in range(20)] == [number == 6 for number in range(1, 21)]
    attempts.succeeded(A)
    assert [attempts.failed(A) for _ in range(4)] == [False, True, False, False]


def test_all_ways_are_tried_before_it_gets_slower() -> None:
    attempts = Attempts(random.Random(1))
    for _ in range(3 * 10 - 1):
        attempts.failed(A, 10)
    assert attempts.pause_s(A, 10) <= 0.3

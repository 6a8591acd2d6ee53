"""What a replica says of requests that another router may have sent it, and that it keeps to it."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.config import BackendConfig
from zserve.cores.recollection import CLAIM_S, MAX_CLAIMS, Recollection
from zserve.handler.recent import RecentAnswers
from zserve.handler.streams import StreamBegin
from zserve.http.answers import KIND_TEXT, ORIGIN_CODE
from zserve.wire.messages import FLAG_STREAMS, VERSION, Cancel, Hello, NodeInfo, Recall, Recalled

from .test_replica import A, B, call, request_id
from .test_replica import Bench as ReplicaBench

C = b"router-c"
OK = (200, KIND_TEXT, b"", b"ok", ORIGIN_CODE)


class Bench(ReplicaBench):
    """A replica with three routers, each of its own node."""

    def __init__(self, config: BackendConfig | None = None, **options: Any) -> None:
        super().__init__(config, (), **options)
        for peer in (A, B, C):
            self.link(peer, peer[-1:])

    def link(self, peer: bytes, node: bytes) -> None:
        self.core.link_up(peer, Hello(VERSION, VERSION, NodeInfo(node * 16, b"b" * 8, "router")), self.now)
        self.take()

    def down(self, peer: bytes) -> None:
        self.core.link_down(peer, "killed", self.now)
        self.take()

    def recall(self, *numbers: int, peer: bytes = B, age_s: float = 1.0) -> Recalled:
        message = Recall([request_id(number) for number in numbers], int(age_s * 1e6))
        self.core.receive(peer, [(message, b"", b"")], self.now)
        self.take()
        return self.said.pop()

    def take(self) -> None:
        pending = self.core.out.take()
        self.said = [message for parcels in pending.values() for message, _, _ in parcels if type(message) is Recalled]
        for peer, parcels in pending.items():
            for message, head, body in parcels:
                self.core.out.send(peer, message, head, body)
        super().take()

    @property
    def outstanding(self) -> int:
        """Credits that are in use."""
        found: Any = self.core.statistics()["credits"]
        running: int = found["running"]
        return running


def slow(bench: Bench) -> Bench:
    """Runs are long, so that only one is given to the executor at a time."""
    bench.core._pace.threads = 1
    bench.core._pace.run_s = 1.0
    return bench


def test_what_it_does_not_know_it_takes_from_nobody_but_the_one_that_asked() -> None:
    bench = Bench()
    assert bench.recall(1) == Recalled([request_id(1)])
    bench.receive(call(1), peer=A)
    assert bench.statuses == [(1, 499)]
    assert bench.runs == []
    bench.receive(call(1), peer=B)
    assert len(bench.runs) == 1
    bench.finish(bench.runs[0])
    assert bench.statuses == [(1, 499), (1, 200)]
    assert bench.outstanding == 0


def test_a_router_is_the_same_on_a_new_link() -> None:
    bench = Bench()
    bench.recall(1)
    bench.down(B)
    bench.link(b"router-b-again", b"b")
    bench.receive(call(1), peer=b"router-b-again")
    assert len(bench.runs) == 1


def test_the_last_one_that_asks_has_it() -> None:
    bench = Bench()
    bench.recall(1, peer=B)
    assert bench.recall(1, peer=C) == Recalled([request_id(1)])
    bench.receive(call(1), peer=B)
    assert bench.runs == []
    bench.receive(call(1), peer=C)
    assert len(bench.runs) == 1


def test_what_runs_is_answered_to_the_one_that_asked() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    bench.start(bench.runs[0])
    bench.down(A)
    assert bench.recall(1) == Recalled([], [request_id(1)])
    bench.tick(30.0)
    assert bench.core.exits == []
    bench.finish(bench.runs[0], OK)
    assert [(peer, result.status) for peer, result, _ in bench.results] == [(B, 200)]
    assert bench.outstanding == 0
    assert bench.core._replies.guests == set()


def test_and_to_the_one_that_sent_it_if_that_still_lives() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    bench.start(bench.runs[0])
    assert bench.recall(1) == Recalled([], [request_id(1)])
    bench.finish(bench.runs[0], OK)
    assert sorted(peer for peer, _, _ in bench.results) == [A, B]
    assert bench.outstanding == 0


def test_a_router_that_had_cancelled_it_gets_one_answer() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    bench.start(bench.runs[0])
    bench.receive(Cancel([request_id(1)]), peer=A)
    assert bench.recall(1, peer=A) == Recalled([], [request_id(1)])
    bench.finish(bench.runs[0], OK)
    assert [(peer, result.status) for peer, result, _ in bench.results] == [(A, 200)]
    assert bench.outstanding == 0


def test_one_that_asked_and_died_uses_no_credit_either() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    bench.start(bench.runs[0])
    bench.recall(1)
    bench.down(B)
    bench.finish(bench.runs[0], OK)
    assert [peer for peer, _, _ in bench.results] == [A]
    assert bench.outstanding == 0
    assert bench.core._replies.guests == set()


def test_what_has_run_is_answered_from_memory() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    bench.finish(bench.runs[0], (201, KIND_TEXT, b"", b"made", ORIGIN_CODE))
    bench.down(A)
    assert bench.recall(1) == Recalled([], [request_id(1)])
    assert [(peer, result.status, body) for peer, result, body in bench.results[1:]] == [(B, 201, b"made")]
    assert bench.outstanding == 0


def test_what_has_not_started_is_given_up() -> None:
    bench = slow(Bench(BackendConfig(max_concurrent_queries=8)))
    bench.receive(call(1), call(2), peer=A)
    bench.start(bench.runs[0])
    assert bench.recall(1, 2) == Recalled([request_id(2)], [request_id(1)])
    assert bench.statuses == [(2, 499)], "the router that sent it has its answer, and its credit"
    bench.finish(bench.runs[0], OK)
    assert len(bench.runs) == 1
    assert bench.outstanding == 0
    bench.receive(call(2), peer=B)
    assert len(bench.runs) == 2


def test_what_was_given_back_before_it_started_is_given_back_to_the_one_that_asked() -> None:
    bench = Bench()
    bench.receive(call(1), peer=A)
    assert bench.recall(1) == Recalled([], [request_id(1)])
    bench.core.drain(bench.now)
    bench.take()
    assert bench.returned == [1, 1]
    assert bench.outstanding == 0


@pytest.mark.parametrize("begun", [True, False])
def test_a_stream_goes_to_the_one_that_asked_if_it_has_not_begun(begun: bool) -> None:
    bench = Bench()
    bench.receive(call(1, flags=FLAG_STREAMS), peer=A)
    run = bench.runs[0]
    bench.start(run)
    if begun:
        bench.core.finished([(run, StreamBegin(OK))], bench.now)
        bench.take()
        assert bench.recall(1) == Recalled([], [], [request_id(1)]), "its beginning went to another one"
        return
    bench.down(A)
    assert bench.recall(1) == Recalled([], [request_id(1)])
    bench.core.finished([(run, StreamBegin(OK))], bench.now)
    bench.take()
    assert [(peer, result.status, result.streams) for peer, result, _ in bench.results] == [(B, 200, True)]


def test_a_coroutine_that_is_being_stopped_has_no_answer_to_give() -> None:
    bench = Bench(asynchronous=True)
    bench.receive(call(1), peer=A)
    bench.start(bench.runs[0])
    bench.receive(Cancel([request_id(1)]), peer=A)
    assert bench.recall(1) == Recalled([], [], [request_id(1)])


def test_an_answer_that_was_too_large_to_keep_is_lost() -> None:
    bench = Bench(recent=RecentAnswers(max_bytes=8000))
    bench.receive(call(1), peer=A)
    bench.finish(bench.runs[0], (200, KIND_TEXT, b"", b"x" * 2000, ORIGIN_CODE))
    assert bench.recall(1) == Recalled([], [], [request_id(1)])


def test_it_does_not_say_of_what_it_may_have_forgotten_that_it_has_not_run() -> None:
    bench = Bench(recent=RecentAnswers(max_entries=1))
    for number in (1, 2):
        bench.receive(call(number), peer=A)
        bench.finish(bench.runs[-1], OK)
    bench.now += 100.0
    assert bench.recall(1, age_s=120.0) == Recalled([], [], [request_id(1)])
    assert bench.recall(3, age_s=120.0) == Recalled([], [], [request_id(3)])
    assert bench.recall(3, age_s=1.0) == Recalled([request_id(3)]), "nothing so young was forgotten"


def test_claims_end() -> None:
    bench = Bench()
    bench.recall(1)
    bench.tick(CLAIM_S + 1.0)
    bench.receive(call(1), peer=A)
    assert len(bench.runs) == 1


def test_claims_are_bounded() -> None:
    bench = Bench()
    recollection: Recollection = bench.core._recollection
    ids = [request_id(number) for number in range(MAX_CLAIMS + 10)]
    recollection.recall(B, Recall(ids, 0), bench.now)
    assert len(recollection.claims) == MAX_CLAIMS
    assert ids[0] not in recollection.claims
    assert ids[-1] in recollection.claims


def test_only_routers_may_ask() -> None:
    bench = Bench()
    bench.core.receive(b"stranger", [(Recall([request_id(1)], 0), b"", b"")], bench.now)
    assert bench.core.out.take() == {}

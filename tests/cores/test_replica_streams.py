"""Streamed answers at the replica's core, and classes that mix sync and async methods."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.config import BackendConfig
from zserve.handler.flow import Flow
from zserve.handler.runs import Run
from zserve.handler.streams import StreamBegin, StreamEnd, StreamPiece
from zserve.http.answers import KIND_TEXT, ORIGIN_CODE
from zserve.wire.messages import FLAG_IDEMPOTENT, STREAM_BROKEN, STREAM_DONE, STREAM_MORE, Cancel, Chunk, Consumed

from .test_replica import A, B, Bench, call, numbers, request_id


class StreamBench(Bench):
    """One call that is streamed, and the chunks that were sent."""

    def __init__(self, config: BackendConfig | None = None, **options: Any) -> None:
        self.chunks: list[tuple[bytes, Chunk, bytes]] = []
        super().__init__(config, **options)

    def take(self) -> None:
        for peer, parcels in self.core.out.pending.items():
            self.chunks += [(peer, message, body) for message, _, body in parcels if isinstance(message, Chunk)]
        super().take()

    def tell(self, run: Run, what: Any) -> None:
        self.start(run)
        run.ended = self.now
        self.core.finished([(run, what)], self.now)
        self.take()

    def begin(self, run: Run, body: bytes = b"first") -> None:
        run.flow = Flow()
        self.tell(run, StreamBegin((200, KIND_TEXT, b"", body, ORIGIN_CODE)))

    @property
    def sent(self) -> list[tuple[int, int, bytes]]:
        return [(chunk.seq, chunk.end, body) for _, chunk, body in self.chunks]


@pytest.fixture
def bench() -> StreamBench:
    bench = StreamBench(BackendConfig(max_concurrent_queries=1), routers=(A, B))
    bench.receive(call(1, budget_s=5.0))
    return bench


def test_a_result_and_chunks_behind_it(bench: StreamBench) -> None:
    run = bench.runs[0]

    def granted() -> int:
        return sum(grant.limit for grant in bench.grants.values())

    before = granted()
    bench.begin(run)
    assert [(peer, result.status, result.streams, body) for peer, result, body in bench.results] == [
        (A, 200, True, b"first")
    ]
    bench.tell(run, StreamPiece(b"second"))
    assert bench.core.held == 1
    assert granted() == before, "the slot is taken until the end"
    bench.tell(run, StreamEnd(True))
    assert bench.sent == [(1, STREAM_MORE, b"second"), (2, STREAM_DONE, b"")]
    assert bench.core.held == 0
    assert granted() > before
    assert bench.core.statistics()["streamed"] == 1


def test_a_stream_that_breaks_off(bench: StreamBench) -> None:
    bench.begin(bench.runs[0])
    bench.tell(bench.runs[0], StreamEnd(False))
    assert bench.sent == [(1, STREAM_BROKEN, b"")]


def test_the_deadline_is_for_the_beginning(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.begin(run)
    bench.tick(60.0)
    bench.tick(60.0)
    assert not bench.core.aborts
    assert not bench.core.exits
    bench.tell(run, StreamEnd(True))
    assert bench.sent == [(1, STREAM_DONE, b"")]


def test_a_generator_that_is_late_with_its_first_item_is_stopped(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.start(run)
    run.flow = Flow()
    bench.tick(6.0)
    assert run.aborted
    assert bench.core.aborts == [run]


def test_cancel_stops_it_and_its_last_chunk_still_comes(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.begin(run)
    bench.receive(Cancel([request_id(1)]))
    assert bench.core.aborts == [run]
    bench.tell(run, StreamEnd(False))
    assert bench.sent == [(1, STREAM_BROKEN, b"")], "the router frees the credit with it"
    assert bench.core.held == 0


def test_cancelled_before_it_begins(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.start(run)
    bench.receive(Cancel([request_id(1)]))
    bench.begin(run)
    assert run.aborted
    assert bench.results == []
    bench.tell(run, StreamPiece(b"x"))
    bench.tell(run, StreamEnd(False))
    assert bench.statuses == [(1, 499)]
    assert bench.sent == []


def test_what_the_client_has_taken_reaches_the_run(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.receive(Consumed(request_id(1), 10))  # before it has begun
    bench.begin(run)
    bench.receive(Consumed(request_id(1), 500), Consumed(request_id(9), 1))
    bench.receive(Consumed(request_id(1), 700), peer=B)  # it is not B's
    assert bench.core.streams.consumed == [(run, 500)]


def test_the_router_dies_midway(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.begin(run)
    bench.core.link_down(A, "died", bench.now)
    bench.take()
    assert bench.core.aborts == [run], "at once: what was streamed can not be streamed again"
    bench.tell(run, StreamPiece(b"x"))
    bench.tell(run, StreamEnd(False))
    assert bench.sent == []
    assert bench.core.held == 0


def test_the_router_dies_before_it_begins(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.start(run)
    bench.core.link_down(A, "died", bench.now)
    bench.take()
    assert not run.aborted, "it may be asked for through another router"
    bench.receive(call(1), peer=B)
    bench.begin(run)
    assert [(peer, result.streams) for peer, result, _ in bench.results] == [(B, True)]


def test_nobody_left_when_it_begins(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.start(run)
    bench.core.link_down(A, "died", bench.now)
    bench.begin(run)
    assert bench.core.aborts == [run]
    bench.receive(call(1), peer=B)
    assert bench.statuses == [(1, 502)]
    bench.tell(run, StreamEnd(False))
    assert bench.core.held == 0


def test_asked_for_twice_it_goes_to_the_last_who_asked(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.receive(call(1), peer=B)
    bench.begin(run)
    assert [(peer, result.status, result.streams) for peer, result, _ in bench.results] == [
        (A, 502, False),
        (B, 200, True),
    ]
    bench.receive(call(1))  # and once more, too late
    assert [(peer, result.status) for peer, result, _ in bench.results][2:] == [(A, 502)]
    bench.tell(run, StreamEnd(True))
    assert [(peer, chunk.end) for peer, chunk, _ in bench.chunks] == [(B, STREAM_DONE)]


def test_asked_for_again_after_it_was_streamed(bench: StreamBench) -> None:
    bench.begin(bench.runs[0])
    bench.tell(bench.runs[0], StreamEnd(True))
    bench.receive(call(1), peer=B)
    assert bench.statuses[1:] == [(1, 502)], "it has run"
    bench.receive(call(1, flags=FLAG_IDEMPOTENT), peer=B)
    assert len(bench.runs) == 2, "and may run again"


def test_a_drain_waits_for_the_end_of_a_stream(bench: StreamBench) -> None:
    run = bench.runs[0]
    bench.begin(run)
    bench.core.drain(bench.now)
    bench.take()
    assert not bench.core.drained
    bench.tell(run, StreamEnd(True))
    bench.settle(1)
    assert bench.core.drained


# --- sync and async methods in one class ------------------------------------------------------------------------------


def mixed(config: BackendConfig | None = None, *, asynchronous: bool) -> StreamBench:
    """ "other" is the method of the other kind."""
    return StreamBench(config, asynchronous=asynchronous, is_other=lambda method: method == "other")


def test_sync_methods_beside_an_async_main_run_one_at_a_time() -> None:
    bench = mixed(asynchronous=True)
    bench.receive(*(call(n) for n in range(1, 6)), *(call(n, method="other") for n in range(6, 9)))
    assert [numbers(run)[0] for run in bench.runs] == [1, 2, 3, 4, 5, 6]
    bench.finish(bench.runs[0])
    assert len(bench.runs) == 6, "an async one that ends makes no room for a sync one"
    bench.finish(bench.runs[5])
    assert numbers(bench.runs[6]) == [7]


def test_async_methods_beside_a_sync_main_do_not_wait_for_it() -> None:
    bench = mixed(asynchronous=False)
    bench.receive(call(1), call(2), *(call(n, method="other") for n in range(3, 9)))
    assert [numbers(run)[0] for run in bench.runs] == [1, 3, 4, 5, 6, 7, 8]
    bench.finish(bench.runs[0])
    assert numbers(bench.runs[7]) == [2]


def test_max_concurrent_queries_is_for_both_kinds_together() -> None:
    bench = mixed(BackendConfig(max_concurrent_queries=4), asynchronous=True)
    assert bench.core.capacity == 4
    assert bench.core.threads == 4
    bench.receive(*(call(n, method="other") for n in range(1, 5)))
    assert len(bench.runs) == 4


def test_cancel_stops_async_runs_of_a_mixed_class_only() -> None:
    bench = mixed(asynchronous=False)
    bench.receive(call(1), call(2, method="other"))
    for run in bench.runs:
        bench.start(run)
    bench.receive(Cancel([request_id(1), request_id(2)]))
    assert [numbers(run) for run in bench.core.aborts] == [[2]]


def test_waiting_calls_of_both_kinds_expire_and_are_sent_back() -> None:
    bench = mixed(asynchronous=True)
    bench.receive(*(call(n, method="other", budget_s=1.0) for n in range(1, 4)))
    bench.start(bench.runs[0])
    bench.tick(2.0)
    assert sorted(bench.statuses) == [(2, 504), (3, 504)]
    bench.receive(call(4, method="other"))
    bench.core.drain(bench.now)
    bench.take()
    assert bench.returned == [4]

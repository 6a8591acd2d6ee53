"""The window of a streamed answer, from the producer's side."""

from __future__ import annotations

import asyncio
import threading

from zserve.handler.flow import Flow
from zserve.wire.flow import PIECE_COST, WINDOW


def full() -> Flow:
    flow = Flow()
    flow.sent(WINDOW)
    return flow


def test_there_is_room_until_the_window_is_full() -> None:
    flow = Flow()
    pieces = 0
    while flow.ahead < WINDOW:
        assert flow.wait()
        flow.sent(1000)
        pieces += 1
    assert pieces == -(-WINDOW // (1000 + PIECE_COST))


def test_a_thread_waits_for_the_client() -> None:
    flow = full()
    went_on = threading.Event()
    thread = threading.Thread(target=lambda: flow.wait() and went_on.set())
    thread.start()
    assert not went_on.is_set()
    flow.consumed(PIECE_COST + 1)
    thread.join(10)
    assert went_on.is_set()


def test_a_thread_that_waits_is_told_that_nobody_wants_more() -> None:
    flow = full()
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(flow.wait()))
    thread.start()
    flow.cancel()
    thread.join(10)
    assert outcome == [False]
    assert not flow.wait()


def test_a_coroutine_waits_for_the_client() -> None:
    async def main() -> list[bool]:
        flow = full()
        waiting = asyncio.create_task(flow.wait_async())
        await asyncio.sleep(0)
        assert not waiting.done()
        flow.consumed(WINDOW)
        first = await asyncio.wait_for(waiting, 10)
        flow.sent(WINDOW)
        waiting = asyncio.create_task(flow.wait_async())
        await asyncio.sleep(0)
        flow.cancel()
        return [first, await asyncio.wait_for(waiting, 10)]

    assert asyncio.run(main()) == [True, False]


def test_what_the_client_can_not_have_taken_counts_for_nothing() -> None:
    flow = full()
    ahead = flow.ahead
    flow.consumed(ahead + 1)  # more than was sent
    assert flow.ahead == ahead
    flow.consumed(500)
    flow.consumed(400)  # late
    assert flow.ahead == ahead - 500

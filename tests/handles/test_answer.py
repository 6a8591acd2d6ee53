"""Waiting for an answer: in threads and coroutines, with and without patience."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from typing import Any

import pytest

from zserve.errors import DeadlineExceeded, NoSuchEndpoint, NoSuchMethod, Overloaded, ReplicaDied, ServeError
from zserve.handles.answer import ServeAnswer
from zserve.handles.faults import pack_fault
from zserve.handles.kinds import KIND_FAULT, KIND_VALUE
from zserve.handles.values import Packer
from zserve.http.answers import KIND_TEXT
from zserve.wire.messages import Result

ID = bytes(16)


def arrive(answer: ServeAnswer, value: Any) -> None:
    packer = Packer()
    [head], body = packer.finish([packer.pack(value, "x")])
    answer.arrived(Result(ID, 200, KIND_VALUE), head, body)


class Recorder:
    """Stands for the caller."""

    def __init__(self) -> None:
        self.cancelled: list[ServeAnswer] = []

    def cancel(self, answer: ServeAnswer) -> None:
        self.cancelled.append(answer)


def pending() -> tuple[ServeAnswer, Recorder]:
    answer, recorder = ServeAnswer(), Recorder()
    answer.caller = recorder  # type: ignore[assignment]
    return answer, recorder


def test_a_result_that_is_there() -> None:
    answer = ServeAnswer()
    assert (answer.done(), repr(answer)) == (False, "<ServeAnswer pending>")
    arrive(answer, (1, {2}))
    assert (answer.done(), repr(answer)) == (True, "<ServeAnswer done>")
    assert answer.result() == (1, {2})
    assert answer.result() is answer.result(0), "decoded once"
    arrive(answer, "later")
    assert answer.result() == (1, {2}), "the first answer counts"


def test_waiting_in_threads() -> None:
    answer = ServeAnswer()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(answer.result, 10) for _ in range(4)]
        arrive(answer, [5])
        assert [one.result(10) for one in waiting] == [[5]] * 4


def test_patience_ends_and_nothing_is_left_behind() -> None:
    answer = ServeAnswer()
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"no answer within 0.001 s"):
            answer.result(0.001)
        with pytest.raises(TimeoutError):
            answer.result(0)
        with pytest.raises(TimeoutError):
            answer.result(-1)
    assert answer._callbacks == []
    arrive(answer, 1)
    assert answer.result(0) == 1


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (True, TypeError), (float("nan"), ValueError)])
def test_bad_timeouts(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout must be a number of seconds or None"):
        ServeAnswer().result(timeout)


def test_awaiting_from_several_loops() -> None:
    answer = ServeAnswer()
    ready = threading.Barrier(3)
    found: list[Any] = []

    async def wait() -> None:
        tasks = [asyncio.ensure_future(one(answer)) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(ready.wait, 10)
        found.append(await asyncio.gather(*tasks, answer))

    async def one(answer: ServeAnswer) -> Any:
        return await answer

    threads = [threading.Thread(target=asyncio.run, args=(wait(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait(10)
    arrive(answer, "x")
    for thread in threads:
        thread.join(10)
    assert found == [["x"] * 6] * 2
    assert asyncio.run(one(answer)) == "x"


def test_a_burst_wakes_the_loop_once() -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        answers = [ServeAnswer() for _ in range(100)]
        tasks = [asyncio.ensure_future(_await(answer)) for answer in answers]
        await asyncio.sleep(0)
        wakes = 0
        wake = loop.call_soon_threadsafe

        def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return wake(*args, **kwargs)

        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        for number, answer in enumerate(answers):
            arrive(answer, number)
        assert await asyncio.gather(*tasks) == list(range(100))
        return wakes

    assert asyncio.run(run()) == 1


async def _await(answer: ServeAnswer) -> Any:
    return await answer


def test_errors_are_raised_for_everyone_who_asks() -> None:
    answer = ServeAnswer()
    head, body = pack_fault(ValueError("bad"), "trace")
    answer.arrived(Result(ID, 500, KIND_FAULT), head, body)
    assert repr(answer) == "<ServeAnswer done>"
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            answer.result()
    assert repr(answer) == "<ServeAnswer failed>"
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(_await(answer))


@pytest.mark.parametrize(
    ("status", "origin", "error"),
    [
        (429, 3, Overloaded),
        (503, 2, Overloaded),
        (504, 2, DeadlineExceeded),
        (504, 1, DeadlineExceeded),
        (502, 2, ReplicaDied),
        (404, 2, NoSuchEndpoint),
        (404, 1, NoSuchMethod),
        (400, 1, ServeError),
        (500, 1, ServeError),
        (777, 1, ServeError),
    ],
)
def test_refusals(status: int, origin: int, error: type[ServeError]) -> None:
    answer = ServeAnswer()
    answer.arrived(Result(ID, status, KIND_TEXT, origin, retry_after_us=1_500_000), b"", b"the reason\n")
    with pytest.raises(ServeError) as caught:
        answer.result()
    assert type(caught.value) is error
    assert str(caught.value) == "the reason"
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after_s == 1.5


def test_an_answer_that_cannot_be_read() -> None:
    answer = ServeAnswer()
    answer.arrived(Result(ID, 200, KIND_VALUE), b"\xc1", b"")
    for _ in range(2):
        with pytest.raises(ServeError, match="not a packed value"):
            answer.result()


def test_cancelling() -> None:
    answer, recorder = pending()
    assert answer.cancel()
    assert not answer.cancel()
    assert recorder.cancelled == [answer]
    with pytest.raises(concurrent.futures.CancelledError):
        answer.result()
    done, recorder = pending()
    arrive(done, 1)
    assert not done.cancel()
    assert (recorder.cancelled, done.result()) == ([], 1)


def test_who_cancels_the_last_one_that_awaits_it_cancels_the_call() -> None:
    answer, recorder = pending()

    async def run() -> None:
        tasks = [asyncio.ensure_future(_await(answer)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert recorder.cancelled == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tasks[1], 0.01)
        assert recorder.cancelled == [answer]

    asyncio.run(run())


def test_a_loop_that_is_closed_meanwhile_does_no_harm() -> None:
    answer, _ = pending()
    loop = asyncio.new_event_loop()
    task = loop.create_task(_await(answer))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    arrive(answer, 3)
    assert answer.result() == 3
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_it_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="an answer cannot be pickled"):
        pickle.dumps(ServeAnswer())

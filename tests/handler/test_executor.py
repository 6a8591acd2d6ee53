"""The bridge between the loop and user code, with real threads."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
import pytest

import zserve.context
from zserve.handler.executor import Done, Executor
from zserve.handler.invoke import Handler
from zserve.handler.runs import Run
from zserve.handles.kinds import KIND_VALUE

from .samples import held, run_of, value_of


class Bridge:
    """An executor, and what it reported."""

    def __init__(self, target: Any, threads: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended: list[Done] = []
        self.bursts = 0
        self.exits: list[str] = []
        self._news = asyncio.Event()
        self.executor = Executor(
            Handler(target, "b", loop=self.loop), self.loop, self._on_done, self.exits.append, threads=threads
        )

    def _on_done(self, ended: list[Done]) -> None:
        self.ended += ended
        self.bursts += 1
        self._news.set()

    async def wait(self, count: int) -> list[Any]:
        """Bodies of the first *count* runs that ended (None for one that was not started)."""
        while len(self.ended) < count:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)
        return [None if answers is None else text_of(answers[0]) for _, answers in self.ended]


def text_of(answer: Any) -> str:
    if answer[1] == KIND_VALUE:
        return str(orjson.dumps(value_of(answer)), "utf-8")
    return str(answer[3], "utf-8")


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@on_loop
async def test_runs_end_in_order_in_one_thread() -> None:
    seen: set[int] = set()

    def echo(request: Any) -> str:
        seen.add(threading.get_ident())
        return str(request.get_data(as_text=True))

    bridge = Bridge(echo)
    bridge.executor.submit([run_of(held(b"%d" % n)) for n in range(200)])
    assert await bridge.wait(200) == [str(n) for n in range(200)]
    assert len(seen) == 1
    assert threading.get_ident() not in seen
    assert bridge.bursts < 200  # the loop is woken for bursts
    run = bridge.ended[0][0]
    assert 0 < run.started <= run.ended <= time.monotonic()
    bridge.executor.close()


@on_loop
async def test_as_many_threads_as_are_allowed_and_needed() -> None:
    barrier = threading.Barrier(3)

    def meet() -> str:
        barrier.wait(10)
        return "met"

    bridge = Bridge(meet, threads=3)
    assert bridge.executor.threads == 0
    bridge.executor.submit([run_of() for _ in range(3)])
    assert await bridge.wait(3) == ["met"] * 3
    assert bridge.executor.threads == 3
    bridge.executor.resize(1)
    assert bridge.executor.threads == 1
    barrier.reset()
    bridge.executor.resize(4)
    bridge.executor.submit([run_of() for _ in range(3)])
    await bridge.wait(6)
    assert bridge.executor.threads == 3
    bridge.executor.close()


@on_loop
async def test_runs_taken_back_and_expired_ones_are_not_started() -> None:
    calls: list[int] = []
    bridge = Bridge(lambda: calls.append(1))
    taken, expired = run_of(), run_of(held(deadline=time.monotonic() - 1))
    assert taken.claim()
    bridge.executor.submit([taken, expired])
    assert await bridge.wait(2) == [None, None]
    assert not calls
    assert taken.started == 0.0
    bridge.executor.close()


@on_loop
async def test_after_close_nothing_is_started() -> None:
    bridge = Bridge(lambda: "x")
    bridge.executor.close()
    bridge.executor.submit([run_of()])
    assert await bridge.wait(1) == [None]


@on_loop
async def test_coroutines_run_on_the_loop_and_together() -> None:
    here = threading.get_ident()
    entered: list[int] = []
    all_in = asyncio.Event()

    async def meet() -> str:
        entered.append(threading.get_ident())
        if len(entered) == 5:
            all_in.set()
        await all_in.wait()
        return "met"

    bridge = Bridge(meet)
    bridge.executor.submit([run_of() for _ in range(5)])
    assert await bridge.wait(5) == ["met"] * 5
    assert set(entered) == {here}
    assert bridge.executor.threads == 0
    bridge.executor.close()


@on_loop
async def test_abort_cancels_a_coroutine() -> None:
    cleaned: list[bool] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    bridge = Bridge(forever)
    run = run_of()
    bridge.executor.submit([run])
    while not run.started:
        await asyncio.sleep(0)
    bridge.executor.abort(run)
    await bridge.wait(1)
    assert bridge.ended[0][1][0][0] == 499  # type: ignore[index]
    assert cleaned
    bridge.executor.abort(run)  # has ended: nothing happens
    bridge.executor.close()


@on_loop
async def test_a_task_may_be_taken_back_or_closed_before_its_first_step() -> None:
    async def never() -> str:
        return "ran"

    bridge = Bridge(never)
    first, second = run_of(), run_of()
    bridge.executor.submit([first, second])
    assert first.claim()
    bridge.executor.abort(first)
    bridge.executor.close()
    assert await bridge.wait(2) == [None, None]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_sys_exit_is_reported_after_its_answer(asynchronous: bool) -> None:
    logging.getLogger("zserve.handler").disabled = True

    def leave() -> None:
        raise SystemExit("enough")

    async def leave_later() -> None:
        raise SystemExit("enough")

    async def main() -> None:
        bridge = Bridge(leave_later if asynchronous else leave)
        bridge.executor.submit([run_of()])
        assert "sys.exit('enough')" in (await bridge.wait(1))[0]
        while not bridge.exits:
            await asyncio.sleep(0)
        assert "enough" in bridge.exits[0]
        bridge.executor.close()

    try:
        asyncio.run(main())
    finally:
        logging.getLogger("zserve.handler").disabled = False


@on_loop
async def test_adopted_thread_runs_what_comes() -> None:
    bridge = Bridge(lambda: str(threading.get_ident()))
    thread = threading.Thread(target=bridge.executor.adopt(), daemon=True)
    thread.start()
    bridge.executor.submit([run_of()])
    assert await bridge.wait(1) == [str(thread.ident)]
    assert bridge.executor.threads == 1
    bridge.executor.close()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


@on_loop
async def test_jobs_run_between_runs() -> None:
    order: list[str] = []
    bridge = Bridge(lambda: order.append("run"))
    bridge.executor.call(lambda: order.append("before"))
    bridge.executor.submit([run_of()])
    bridge.executor.call(lambda: order.append("after"))
    bridge.executor.submit([run_of()])
    await bridge.wait(2)
    assert order == ["before", "run", "after", "run"]
    bridge.executor.close()


# --- serve.context ----------------------------------------------------------------------------------------------------


def test_context_outside_of_a_handler() -> None:
    assert (zserve.context.web, zserve.context.batch_size) == (False, None)
    assert "web" in dir(zserve.context)
    with pytest.raises(AttributeError, match="no attribute 'weather'"):
        _ = zserve.context.weather  # type: ignore[attr-defined]


@on_loop
async def test_context_in_threads() -> None:
    barrier = threading.Barrier(2)

    def look(request: Any) -> Any:
        before = zserve.context.web
        barrier.wait(10)
        return [before, zserve.context.web, zserve.context.batch_size]

    bridge = Bridge(look, threads=2)
    bridge.executor.submit([run_of(held(web=True)), run_of(held(web=False))])
    assert sorted(await bridge.wait(2)) == ["[false,false,1]", "[true,true,1]"]
    assert (zserve.context.web, zserve.context.batch_size) == (False, None)
    bridge.executor.close()


@on_loop
async def test_context_in_coroutines_and_what_they_call() -> None:
    both = asyncio.Event()
    count = 0

    async def look() -> Any:
        nonlocal count
        count += 1
        if count == 2:
            both.set()
        await both.wait()
        inner: Awaitable[bool] = asyncio.create_task(_web())
        return [zserve.context.web, await inner, await asyncio.to_thread(lambda: zserve.context.web)]

    bridge = Bridge(look)
    bridge.executor.submit([run_of(held(web=True)), run_of(held(web=False))])
    assert sorted(await bridge.wait(2)) == ["[false,false,false]", "[true,true,true]"]
    bridge.executor.close()


async def _web() -> bool:
    return zserve.context.web


@on_loop
async def test_context_in_a_batch() -> None:
    def look(requests: list[Any]) -> list[Any]:
        return [[zserve.context.web, zserve.context.batch_size]] * len(requests)

    look.__zserve_accept_batch__ = True  # type: ignore[attr-defined]
    bridge = Bridge(look)
    bridge.executor.submit([run_of(held(), held()), run_of(held(), held(web=False), held())])
    assert await bridge.wait(2) == ["[true,2]", "[false,3]"]
    bridge.executor.close()


@on_loop
async def test_ten_thousand_runs_through_the_bridge_lose_none() -> None:
    """Submitted in bursts of all sizes while results come back: a lost wake-up would hang here."""
    bridge = Bridge(lambda: "x", threads=2)
    sent = 0
    for burst in range(1, 141):
        runs: list[Run] = [run_of() for _ in range(burst)]
        sent += burst
        bridge.executor.submit(runs)
        if burst % 7 == 0:
            await bridge.wait(sent)
        else:
            await asyncio.sleep(0)
    await bridge.wait(sent)
    assert len({run for run, _ in bridge.ended}) == sent == 9870
    bridge.executor.close()


@on_loop
async def test_batches_that_wait_are_prepared_and_those_that_do_not_are_not() -> None:
    gate = threading.Event()

    def count(requests: list[Any]) -> list[str]:
        gate.wait(10)
        return [str(request.json["n"]) for request in requests]

    count.__zserve_accept_batch__ = True  # type: ignore[attr-defined]
    bridge = Bridge(count)
    bridge.executor._handler.warm()
    headers = [(b"content-type", b"application/json")]
    gate.set()
    runs = [run_of(*[held(b'{"n": %d}' % n, headers=headers) for n in range(2)]) for _ in range(3)]
    bridge.executor.submit(runs[:1])
    await bridge.wait(1)
    assert runs[0].calls[0].request is None
    gate.clear()
    bridge.executor.submit(runs[1:])
    assert runs[1].calls[0].request is None, "its thread is free"
    assert runs[2].calls[1].request is not None
    gate.set()
    assert await bridge.wait(3) == ["0", "0", "0"]

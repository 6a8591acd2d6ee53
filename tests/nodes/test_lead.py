"""The handler's thread receives and answers by itself while calls are quick, and lets go when it must."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zserve.channel.hub import Hub
from zserve.wire.flow import PIECE_COST
from zserve.wire.messages import FLAG_STREAMS, Cancel, Chunk, Consumed, NodeInfo, Result

from .replica_process import Process, RouterStub, with_router

pytestmark = pytest.mark.integration

APP = """
import sys, threading, time

def leads():
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.endswith("lead.py"):
            return True
        frame = frame.f_back
    return False

def pieces():
    for number in range(20):
        yield bytes([number]) * 60_000

class Model:
    def __init__(self):
        self.thread = threading.get_ident()
        self.checks = 0

    def check_health(self):
        assert threading.get_ident() == self.thread
        self.checks += 1

    def __call__(self, request):
        what = request.get_data(as_text=True)
        if what.startswith("sleep"):
            print("in", flush=True)
            time.sleep(float(what.removeprefix("sleep")))
        if what == "exit":
            sys.exit("no more")
        if what == "raise":
            raise ValueError("not today")
        if what == "pieces":
            return pieces()
        return {"leads": leads(), "same": threading.get_ident() == self.thread, "checks": self.checks, "what": what}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    (tmp_path / "lead_app.py").write_text(APP)
    processes: list[Process] = []

    def start_one(**spec: Any) -> Process:
        processes.append(Process(tmp_path, code="lead_app:Model", **spec))
        return processes[-1]

    yield start_one
    for process in processes:
        process.close()


class Caller:
    """Calls one after the other."""

    def __init__(self, router: RouterStub) -> None:
        self.router = router
        self.count = 0

    def send(self, what: str, flags: int = 0) -> int:
        self.count += 1
        self.router.call(self.count, what.encode(), flags=flags)
        return self.count

    async def ask(self, what: str) -> tuple[int, bytes]:
        number = self.send(what)
        answer: tuple[int, bytes] = await self.router.until(lambda: self.router.answer(number))
        return answer

    async def value(self, what: str) -> dict[str, Any]:
        status, body = await self.ask(what)
        assert status == 200, body
        value: dict[str, Any] = json.loads(body)
        assert value["what"] == what
        assert value["same"]
        return value

    async def until_it_leads(self) -> None:
        """A machine that stalls may make single calls slow, so as many as it takes."""
        for number in range(2000):
            if (await self.value(f"call {number}"))["leads"]:
                return
        raise AssertionError("the handler's thread never had the lead")


def test_it_leads_while_calls_are_quick(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        assert not (await caller.value("first"))["leads"]
        await caller.until_it_leads()
        crowd = [caller.send(f"of many {number}") for number in range(12)]
        for place, number in enumerate(crowd):
            status, body = await router.until(lambda number=number: router.answer(number))
            assert status == 200
            assert json.loads(body)["what"] == f"of many {place}"
        await caller.until_it_leads()
        assert len(router.of(Result)) == caller.count, "one answer each"
        process.process.terminate()
        await router.until(lambda: router.ended)
        assert router.ended.startswith("goodbye")
        assert await asyncio.to_thread(process.wait) == 0

    with_router(start, run_base, script)


def test_what_comes_during_a_slow_call_is_heard(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        slow = caller.send("sleep3")
        assert process.process.stdout is not None
        assert await asyncio.to_thread(process.process.stdout.readline) == b"in\n"
        waits = caller.send("waits")
        router.out.send(router.replica, Cancel([waits.to_bytes(16, "big")]))
        status, _ = await router.until(lambda: router.answer(waits))
        assert status == 499
        assert router.answer(slow) is None
        assert (await router.until(lambda: router.answer(slow)))[0] == 200
        await caller.until_it_leads()

    with_router(start, run_base, script)


@pytest.mark.parametrize("second", ["sleep3", "pieces"])
def test_an_answer_does_not_wait_for_the_call_behind_it(
    start: Callable[..., Process], run_base: Path, second: str
) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        for _ in range(50):  # on a machine that stalls, the lead may end just now
            await caller.until_it_leads()
            router.received.clear()
            first = caller.send("first")  # both in one wire message
            behind = caller.send(second, FLAG_STREAMS)
            status, body = await router.until(lambda number=first: router.answer(number))
            assert status == 200
            if json.loads(body)["leads"]:
                break
            router.out.send(router.replica, Cancel([behind.to_bytes(16, "big")]))
        else:
            raise AssertionError("the handler's thread never had the lead when both came")
        assert not any(chunk.end for chunk in router.of(Chunk))
        if second == "sleep3":
            assert router.answer(behind) is None
        router.out.send(router.replica, Cancel([behind.to_bytes(16, "big")]))

    with_router(start, run_base, script)


def test_a_streamed_answer_goes_on_with_what_its_client_takes(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        router.received.clear()
        key = caller.send("pieces", FLAG_STREAMS).to_bytes(16, "big")
        count = 0
        while not any(chunk.end for chunk in router.of(Chunk)):
            count = len(await router.until(lambda count=count: router.of(Chunk)[count:])) + count
            pieces = router.of(bytes)
            router.out.send(router.replica, Consumed(key, sum(len(piece) + PIECE_COST for piece in pieces if piece)))
        assert [result.streams for result in router.of(Result)] == [True]
        assert b"".join(router.of(bytes)) == b"".join(bytes([number]) * 60_000 for number in range(20))
        await caller.until_it_leads()

    with_router(start, run_base, script)


def test_an_exception_is_answered(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        status, body = await caller.ask("raise")
        assert status == 500
        assert b"raised an exception" in body
        await caller.until_it_leads()

    with_router(start, run_base, script)


def test_sys_exit_is_answered_and_ends_the_process(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        assert (await caller.ask("exit"))[0] == 500
        report = await asyncio.to_thread(process.report)
        assert report["state"] == "exiting"
        assert "no more" in report["reason"]
        assert await asyncio.to_thread(process.wait) == 1

    with_router(start, run_base, script)


def test_sigterm_during_a_call_waits_for_it(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        slow = caller.send("sleep0.5")
        assert process.process.stdout is not None
        assert await asyncio.to_thread(process.process.stdout.readline) == b"in\n"
        process.process.send_signal(signal.SIGTERM)
        assert (await router.until(lambda: router.answer(slow)))[0] == 200
        assert await asyncio.to_thread(process.wait) == 0

    with_router(start, run_base, script)


def test_health_is_checked_in_the_same_thread(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        caller = Caller(router)
        await caller.until_it_leads()
        checks = (await caller.value("how many"))["checks"]
        async with asyncio.timeout(20):
            while (await caller.value("how many now"))["checks"] < checks + 3:
                pass
        await caller.until_it_leads()

    with_router(start, run_base, script, config={"health_check_period": 0.05})


def test_routers_that_come_and_go(start: Callable[..., Process], run_base: Path) -> None:
    """A socket is closed while the handler's thread waits for it, and another one is opened."""

    def router(core: RouterStub, name: bytes) -> Hub:
        letter = name.decode()
        info = NodeInfo(name * 16, b"b" * 8, "router")
        bind, publish = f"ipc://{run_base}/{letter}", f"ipc://{run_base}/{letter}p"
        hub = Hub(core, info, bind=bind, publish=publish)  # type: ignore[arg-type]
        hub.start()
        return hub

    async def main() -> None:
        run_base.mkdir(parents=True, exist_ok=True, mode=0o700)
        stays, goes = RouterStub(), RouterStub()
        hubs = [router(stays, b"s"), router(goes, b"g")]
        try:
            process = await asyncio.to_thread(start, routers=[hub.address for hub in hubs])
            assert (await asyncio.to_thread(process.report))["state"] == "ready"
            callers = Caller(stays), Caller(goes)
            for caller in callers:
                await caller.router.until(lambda caller=caller: caller.router.replica)
                await caller.until_it_leads()
            await hubs.pop().stop("goes")
            before = process.cpu_s()
            await asyncio.sleep(0.5)
            assert process.cpu_s() - before < 0.25, "it waits for a socket that is closed"
            await callers[0].until_it_leads()
            back = RouterStub()
            hubs.append(router(back, b"g"))
            await back.until(lambda: back.replica)
            await Caller(back).until_it_leads()
            await callers[0].until_it_leads()
        finally:
            for hub in hubs:
                await hub.stop("end of test")

    asyncio.run(main())

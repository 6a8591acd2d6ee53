"""The open-loop generator against a server that answers as it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.offered import offer
from benchmarks.openloop import Plan, Stream


class Server:
    """Answers POST /STATUS/SECONDS with STATUS after SECONDS; /close breaks the connection."""

    def __init__(self) -> None:
        self.requests = 0
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(10.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            try:
                runner.run(self._serve())
            except asyncio.CancelledError:
                pass

    async def _serve(self) -> None:
        self._main = asyncio.current_task()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.requests += 1
                path = head.split(b" ")[1].decode()
                if path == "/close":
                    break
                _, status, seconds = path.split("/")
                if float(seconds):
                    await asyncio.sleep(float(seconds))
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok".encode())
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(10.0)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def stream(name: str, path: str, *, rate: float = 100.0, deadline_ms: float = 500.0, **given) -> Stream:
    return Stream(name=name, path=path, body=b"{}", rate=rate, deadline_ms=deadline_ms, **given)


def plan(server: Server, *streams: Stream, **given) -> Plan:
    given = {"seconds": 1.0, "patience_s": 3.0, **given}
    return Plan(host="127.0.0.1", port=server.port, streams=list(streams), **given)


def test_answers_are_counted_by_what_they_mean_to_a_client(server):
    paths = {
        "good": "/200/0",
        "late": "/200/3.2",
        "refused": "/503/0",
        "shed": "/429/0",
        "expired": "/504/0",
        "failed": "/500/0",
        "broken": "/close",
        "gave_up": "/200/30",
    }
    streams = [stream(name, path, deadline_ms=3000.0) for name, path in paths.items()]  # a busy machine makes it
    found = offer(plan(server, *streams, patience_s=6.0)).streams
    for name in paths:
        outcome = found[name]
        fate = {"shed": "refused", "broken": "failed"}.get(name, name)
        assert outcome.offered > 50, name
        assert getattr(outcome, fate) == outcome.offered, (name, outcome)
    assert server.requests == sum(outcome.offered for outcome in found.values())


def test_a_latency_runs_from_the_intended_start_not_from_the_sending(server):
    # One connection and answers after 100 ms: the second of two requests at the same moment waits for the first.
    both = stream("two", "/200/0.1", arrivals="replay", moments=[0.0, 0.0, 0.9], deadline_ms=1000.0)
    outcome = offer(plan(server, both, connections=1)).streams["two"]
    assert outcome.offered == 3
    assert outcome.good == 3
    assert outcome.max_ms >= 200.0


def test_the_offered_load_does_not_depend_on_the_answers(server):
    quick = offer(plan(server, stream("s", "/200/0"), seed=4)).streams["s"]
    slow = offer(plan(server, stream("s", "/200/1"), seed=4)).streams["s"]
    assert quick.offered == slow.offered > 50


def test_good_answers_fall_into_windows_by_their_intended_start(server):
    outcome = offer(
        plan(server, stream("s", "/200/0", arrivals="replay", moments=[0.1, 0.2, 0.7, 0.95]), window_s=0.5)
    ).streams["s"]
    assert outcome.windows[:2] == [2, 2]
    assert sum(outcome.windows) == outcome.good == 4


def test_a_file_appears_when_the_plan_says_so(server, tmp_path):
    mark = tmp_path / "mark"
    began = time.time()
    offer(plan(server, stream("s", "/200/0"), touch=str(mark), touch_at_s=0.5))
    assert mark.stat().st_mtime - began >= 0.5


def test_the_generator_reports_its_own_lag_and_processor_share(server):
    found = offer(plan(server, stream("s", "/200/0", rate=500.0)))
    outcome = found.streams["s"]
    assert 0.0 <= outcome.lag_p50_ms <= outcome.lag_p99_ms <= outcome.lag_max_ms
    assert 0.0 < found.generator_cpu <= 110.0


def test_a_server_that_is_not_there_is_failure_not_an_exception():
    gone = Plan(host="127.0.0.1", port=1, seconds=0.5, patience_s=0.5, streams=[stream("s", "/200/0")])
    outcome = offer(gone).streams["s"]
    assert outcome.good == 0
    assert outcome.failed + outcome.gave_up == outcome.offered > 10

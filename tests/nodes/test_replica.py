"""The replica process as its worker node and a router see it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zserve.wire.messages import Result, Return

from .replica_process import Process, RouterStub, with_router

pytestmark = pytest.mark.integration

APP = """
import os, signal, sys, threading, time

def hello(request):
    return "hello " + request.get_data(as_text=True)

def quit():
    sys.exit("no more")

def slow(request):
    print("in", flush=True)
    time.sleep(float(request.get_data()))
    return "done"

def stdin():
    return repr(sys.stdin.read())

def thread():
    return f"{threading.get_ident()} {constructed}"

constructed = 0

class Model:
    def __init__(self, size, fail=False):
        global constructed
        constructed = threading.get_ident()
        if fail:
            raise RuntimeError("no weights")
        self.size = size
    def reconfigure(self, config):
        self.config = config
    def __call__(self):
        return {"size": self.size, "config": self.config, "same": threading.get_ident() == constructed}

async def later(request):
    return "later " + request.method

async def block():
    print("in", flush=True)
    time.sleep(100)

def linger():
    threading.Thread(target=time.sleep, args=(100,), daemon=False).start()
    return "lingers"
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    (tmp_path / "replica_app.py").write_text(APP)
    processes: list[Process] = []

    def start_one(code: str = "replica_app:hello", **spec: Any) -> Process:
        processes.append(Process(tmp_path, code=code, **spec))
        return processes[-1]

    yield start_one
    for process in processes:
        process.close()


def test_it_serves_and_drains_on_sigterm(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        assert router.hello is not None
        info = router.hello.info
        assert (info.role, info.node, info.backend, info.code) == ("replica", b"\xab" * 16, "b", "v7")
        assert (router.hello.backend, router.hello.code, info.worker) == ("b", "v7", b"\xcd" * 16)
        assert info.pid == process.process.pid
        router.call(1, b"you")
        await router.until(lambda: b"hello you" in router.received)
        process.process.send_signal(signal.SIGINT)  # Ctrl-C is the parent's business
        router.call(2, b"again")
        await router.until(lambda: b"hello again" in router.received)
        process.process.terminate()
        assert (await asyncio.to_thread(process.report))["state"] == "draining"
        await router.until(lambda: router.ended)
        assert router.ended.startswith("goodbye")
        assert await asyncio.to_thread(process.wait) == 0

    with_router(start, run_base, script, version="v7", worker="cd" * 16)


def test_sigterm_finishes_what_runs_and_returns_the_rest(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1, b"0.3")
        router.call(2, b"0")
        assert process.process.stdout is not None
        assert await asyncio.to_thread(process.process.stdout.readline) == b"in\n"
        process.process.terminate()
        await router.until(lambda: b"done" in router.received)
        await router.until(lambda: router.of(Return))
        assert router.of(Return)[0].ids == [(2).to_bytes(16, "big")]
        assert await asyncio.to_thread(process.wait) == 0

    with_router(start, run_base, script, code="replica_app:slow")


def test_a_handler_that_does_not_end_is_left_behind(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1, b"100")
        assert process.process.stdout is not None
        assert await asyncio.to_thread(process.process.stdout.readline) == b"in\n"
        process.process.terminate()
        assert await asyncio.to_thread(process.wait) == 0
        assert "1 calls unfinished" in await asyncio.to_thread(process.errors)

    with_router(start, run_base, script, code="replica_app:slow", config={"graceful_shutdown_timeout": 0.1})


def test_a_class_is_constructed_configured_and_called_in_one_thread(
    start: Callable[..., Process], run_base: Path
) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        answer = await router.until(lambda: [one for one in router.received if isinstance(one, bytes)])
        assert json.loads(answer[0]) == {"size": 3, "config": {"k": 1}, "same": True}

    config = {"user_config": {"k": 1}}
    with_router(start, run_base, script, code="replica_app:Model", init_args=[3], init_kwargs={}, config=config)


def test_coroutines(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        await router.until(lambda: b"later POST" in router.received)

    with_router(start, run_base, script, code="replica_app:later")


def test_standard_input_is_empty_for_user_code(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        await router.until(lambda: b"''" in router.received)

    with_router(start, run_base, script, code="replica_app:stdin")


def test_sys_exit_in_a_handler_is_answered_and_ends_the_process(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        await router.until(lambda: router.of(Result))
        assert router.of(Result)[0].status == 500
        report = await asyncio.to_thread(process.report)
        assert report["state"] == "exiting"
        assert "no more" in report["reason"]
        assert await asyncio.to_thread(process.wait) == 1

    with_router(start, run_base, script, code="replica_app:quit")


def test_it_ends_when_its_parent_does(start: Callable[..., Process]) -> None:
    process = start()
    assert process.report()["state"] == "ready"
    process.orphan()
    assert process.report()["state"] == "draining"
    assert process.wait() == 0


def test_it_ends_with_its_parent_even_when_user_code_blocks_the_loop(
    start: Callable[..., Process], run_base: Path
) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        assert process.process.stdout is not None
        assert await asyncio.to_thread(process.process.stdout.readline) == b"in\n"
        process.orphan()
        assert await asyncio.to_thread(process.wait) == 1

    with_router(start, run_base, script, code="replica_app:block")


def test_threads_of_user_code_do_not_keep_it_alive(start: Callable[..., Process], run_base: Path) -> None:
    async def script(router: RouterStub, process: Process) -> None:
        router.call(1)
        await router.until(lambda: b"lingers" in router.received)
        process.process.terminate()
        assert await asyncio.to_thread(process.wait) == 0

    with_router(start, run_base, script, code="replica_app:linger")


@pytest.mark.parametrize(
    ("code", "init_args", "said"),
    [
        ("replica_app:nothing", [], "has no attribute 'nothing'"),
        ("replica_app:hello", [1], "takes no constructor arguments"),
        ("replica_app:Model", [3, True], "no weights"),
        (f"file:{'a' * 64}.pkl", [], "embedded fabric"),
    ],
)
def test_code_that_cannot_start(start: Callable[..., Process], code: str, init_args: list[Any], said: str) -> None:
    process = start(code, init_args=init_args)
    report = process.report()
    assert report["state"] == "failed"
    assert said in report["reason"]
    assert process.report() == {}
    assert process.wait() == 3
    assert process.errors() == "", "its worker node says it in the log"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "ended before"),
        (b"{", "ended before"),
        (b"no json\n", "malformed replica spec"),
        (b"[]\n", "malformed replica spec"),
        (b'{"node": "ab", "backend": "b", "code": "a:b"}\n', "32 hexadecimal digits"),
        (b'{"node": "zz", "backend": "b", "code": "a:b"}\n', "malformed replica spec"),
        (
            b'{"node": "' + b"ab" * 16 + b'", "backend": "b", "code": "a:b", "config": {"no": 1}}\n',
            "unknown backend config",
        ),
        (b'{"node": "' + b"ab" * 16 + b'", "backend": "b", "code": "a:b", "log_level": "loud"}\n', "log_level 'loud'"),
    ],
)
def test_malformed_specs(tmp_path: Path, line: bytes, said: str) -> None:
    process = Process(tmp_path, line=line)
    try:
        process.orphan()
        assert process.wait() == 2
        assert said in process.errors()
    finally:
        process.close()

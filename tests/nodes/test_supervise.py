from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from zserve.nodes.supervise import Child, Exit, spawn

from zserve.errors import ServeError

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
LIMIT_S = 10.0

REPORTS = """
import json, os, sys
fd = int(sys.argv[1])
say = lambda **report: os.write(fd, json.dumps(report).encode() + b"\\n")
"""


def start(code: str) -> Child:
    return spawn("child", lambda fd: [sys.executable, "-S", "-c", REPORTS + code, str(fd)])


def run(main: Callable[[], Awaitable[Any]], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await main()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(limited())


async def started(child: Child) -> list[dict[str, Any]]:
    """Watch *child*; return once it has made its first report."""
    reports: list[dict[str, Any]] = []
    first = asyncio.Event()

    def on_status(report: dict[str, Any]) -> None:
        reports.append(report)
        first.set()

    child.watch(on_status)
    await first.wait()
    return reports


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_reports_and_exit_status_in_order(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> list[Any]:
        seen: list[Any] = []
        child = start("say(n=1); say(n=2, text='x' * 100000); sys.exit(3)")
        child.watch(seen.append, seen.append)
        await child.wait()
        return seen

    first, second, end = run(main, loop_factory)
    assert (first["n"], second["n"], len(second["text"])) == (1, 2, 100000)
    assert end == Exit(status=3)
    assert str(end) == "exited with status 3"


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_being_killed_is_told(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> Exit:
        child = start("say(ready=1); sys.stdin.read()")
        await started(child)
        os.kill(child.pid, signal.SIGKILL)
        return await child.wait()

    end = run(main, loop_factory)
    assert (end.status, end.signal, end.asked) == (-1, signal.SIGKILL, False)
    assert "killed by signal 9 (SIGKILL)" in str(end)
    assert "memory" in str(end)


def test_a_crash_in_native_code_is_told() -> None:
    async def main() -> Exit:
        child = start("os.kill(os.getpid(), 11)")
        child.watch()
        return await child.wait()

    assert str(run(main)) == "was killed by signal 11 (SIGSEGV): a crash in native code"


def test_stop_lets_a_child_finish() -> None:
    code = "import signal; signal.signal(15, lambda *_: sys.exit(0)); say(ready=1); sys.stdin.read()"

    async def main() -> Exit:
        child = start(code)
        await started(child)
        return await child.stop(LIMIT_S)

    end = run(main)
    assert end == Exit(status=0, asked=True)
    assert end.clean


def test_stop_kills_a_child_that_does_not_end() -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); say(ready=1); sys.stdin.read()"

    async def main() -> Exit:
        child = start(code)
        await started(child)
        return await child.stop(0.05)

    assert run(main).signal == signal.SIGKILL


def test_what_a_child_has_started_ends_with_it() -> None:
    code = "pid = os.fork()\nif pid == 0:\n    import time; time.sleep(60)\nelse: say(pid=pid); sys.stdin.read()"

    async def main() -> int:
        child = start(code)
        reports = await started(child)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        return int(reports[0]["pid"])

    grandchild = run(main)
    for _ in range(1000):
        try:
            with open(f"/proc/{grandchild}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":  # dead; nobody adopts it in a container
                    return
        except (FileNotFoundError, ProcessLookupError):
            return
        os.sched_yield()
    pytest.fail("the grandchild still runs")


def test_a_child_has_its_own_process_group_and_a_life_line() -> None:
    async def main() -> tuple[list[dict[str, Any]], Exit]:
        child = start("say(group=os.getpgid(0), pid=os.getpid()); say(line=sys.stdin.readline()); sys.stdin.read()")
        reports = await started(child)
        child.send_line(b"hello")
        os.close(child._lifeline)  # what happens when the parent dies
        child._lifeline = os.open(os.devnull, os.O_WRONLY)
        return reports, await child.wait()

    reports, end = run(main)
    assert reports[0]["group"] == reports[0]["pid"] != os.getpgid(0)
    assert reports[1]["line"] == "hello\n"
    assert end.clean


def test_nonsense_on_the_status_pipe_does_no_harm() -> None:
    async def main() -> list[Any]:
        reports: list[Any] = []
        child = start("os.write(fd, b'nonsense\\n[1]\\n\\xff\\n'); say(n=1); os.write(fd, b'cut off')")
        child.watch(reports.append)
        await child.wait()
        return reports

    assert run(main) == [{"n": 1}]


def test_a_program_that_does_not_exist() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ServeError, match=r"cannot start child: No such file.*/nowhere/python"):
        spawn("child", lambda fd: ["/nowhere/python"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_is_left_open() -> None:
    async def main() -> None:
        child = start("say(n=1)")
        child.watch()
        await child.wait()

    run(main)
    before = len(os.listdir("/proc/self/fd"))
    run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_fork_runs_a_function_with_closed_descriptors() -> None:
    # In a process of its own: pytest's has threads and whatnot.
    code = """
import asyncio, json, os, sys
from zserve.nodes.supervise import fork
kept, secret = os.pipe(), os.pipe()
def role(status):
    is_open = lambda fd: os.path.exists(f"/proc/self/fd/{fd}")
    facts = {"kept": is_open(kept[1]), "secret": is_open(secret[1]), "leader": os.getpgid(0) == os.getpid()}
    os.write(status, json.dumps(facts).encode() + b"\\n")
    print("not to be mixed up with what the parent says")
    return 7
child = fork("role", role, keep=[kept[1]])
async def main():
    child.watch(lambda report: print(json.dumps(report)))
    print(await child.wait())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout.splitlines() == ['{"kept": true, "secret": false, "leader": true}', "exited with status 7"]
    assert done.stderr == "not to be mixed up with what the parent says\n"


def test_an_exception_in_a_fork_stays_there() -> None:
    code = """
import asyncio
from zserve.nodes.supervise import fork
def role(status): raise ValueError("told in the log")
child = fork("role", role)
async def main():
    child.watch()
    print(await child.wait())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout == "exited with status 1\n"
    assert "told in the log" in done.stderr


"""Calls from Python, past HTTP: a script that uses the system's own handles.

*one at a time*: each call waits for the one before; *64 at a time*: so many are under way.  The caller is a process of
its own, in the system's environment; its processor time for each call, all threads with sending, receiving and waiting,
is what a handle costs where it is used.  What its own thread spends of that until ``remote()`` has returned is a figure
of its own: so long is the caller kept from doing something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from ..child import run_child
from ..errors import NotRun
from ..site import Probe, Site
from ..systems import System
from ..systems.system import source
from .workload import Case, Found, Launch, Meter, Workload

__all__ = ["Handle"]

AT_A_TIME = 64

CALLS = source("""
    import collections, json, resource, sys, time

    plan = json.load(sys.stdin)
    call, wait = connect()
    for _ in range(50):
        wait(call({"n": 1}))

    def cpu():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    took, under_way, asked, calling = [], collections.deque(), 0, 0.0
    began, used = time.perf_counter(), cpu()
    end = began + plan["seconds"]
    while (now := time.perf_counter()) < end:
        thread = time.thread_time()
        answer = call({"n": asked})
        calling += time.thread_time() - thread
        under_way.append((now, asked, answer))
        asked += 1
        if len(under_way) >= plan["at_a_time"]:
            sent, number, answer = under_way.popleft()
            assert wait(answer) == {"n": number}, answer
            took.append(time.perf_counter() - sent)
    seconds, used = time.perf_counter() - began, cpu() - used
    for _, _, answer in under_way:
        wait(answer)
    took.sort()
    print(json.dumps({
        "calls": len(took), "asked": asked, "seconds": seconds, "cpu_s": used, "calling_s": calling,
        "p50_ms": 1e3 * took[len(took) // 2], "p99_ms": 1e3 * took[int(0.99 * len(took))],
    }))
    sys.stdout.flush()
    leave()
""")
"""The caller: reads a plan, calls, prints what it found.  Before it comes a ``connect()`` that gives (call, wait), and
``leave()``."""


class _CallsFound(msgspec.Struct):
    calls: int
    asked: int
    seconds: float
    cpu_s: float
    calling_s: float
    p50_ms: float
    p99_ms: float


class Handle(Workload):
    name = "handle"
    app = "echo"
    title = f"calls from Python through the system's own handles: one, and {AT_A_TIME} at a time"
    systems = ("zserve-apart", "zserve-together", "ray", "ray-fast")
    probes = (Probe("/echo", b'{"n": 1}', b'{"n":1}'),)
    figures = ("rate", "p50_ms", "p99_ms", "call_us", "caller_us", "cpu_s", "pss_mb", "elsewhere")
    needs_wrk = False

    def launches(self) -> Sequence[Launch]:
        return [Launch([
            Case("one at a time", partial(self._measure, 1)),
            Case(f"{AT_A_TIME} at a time", partial(self._measure, AT_A_TIME)),
        ])]  # fmt: skip

    def notes(self) -> Sequence[str]:
        return ["CPU for 10,000 is that of the system, without the caller's."]

    def warm_up(self, site: Site, system: System) -> None:
        return

    def _measure(self, at_a_time: int, site: Site, system: System) -> Found:
        command = system.caller(site, CALLS)
        plan = {"seconds": self.settings.seconds, "at_a_time": at_a_time}
        with Meter(site) as meter:
            printed = run_child("calls.py", plan, self.settings.seconds + 60.0, command, site.folder)
        try:
            found = msgspec.json.decode(printed.strip().splitlines()[-1], type=_CallsFound)
        except (IndexError, msgspec.MsgspecError) as error:
            raise NotRun(f"the caller printed {printed[-200:]!r} ({error})") from None
        return {
            "rate": found.calls / found.seconds,
            "p50_ms": found.p50_ms,
            "p99_ms": found.p99_ms,
            "call_us": 1e6 * found.calling_s / max(1, found.asked),
            "caller_us": 1e6 * found.cpu_s / max(1, found.calls),
            **meter.figures(found.calls),
        }

"""Rounds, and what happens when something cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks import environments, runner
from benchmarks.errors import NotRun
from benchmarks.site import Probe, Site
from benchmarks.systems import System
from benchmarks.workloads import Settings, Workload
from benchmarks.workloads.workload import Case, Found, Launch

SERVER = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Echoing(System):
    name = "echoing"
    title = "answers"
    sources = {"tiny": {"server.py": SERVER}}

    def start(self, site: Site) -> None:
        site.spawn([site.python, "server.py", str(site.port)])


class Ending(System):
    name = "ending"
    title = "does not start"
    sources = {"tiny": {"server.py": "raise SystemExit('broken app')"}}

    def start(self, site: Site) -> None:
        site.spawn([site.python, "server.py"])


class Missing(Echoing):
    name = "missing"
    environment = "missing"
    requirements = ("there-is-no-such-package",)


class Tiny(Workload):
    name = "tiny"
    title = "one question"
    systems = ("echoing",)
    probes = (Probe("/", b"[1]", b"[1]"),)
    needs_wrk = False
    order: list[str] = []

    def launches(self) -> Sequence[Launch]:
        return [Launch([Case("once", self._measure)])]

    def limits(self):
        return {"limit": lambda: {"once": {"rate": 4.0}}}

    def warm_up(self, site: Site, system: System) -> None:
        assert site.ask(self.probes[0]) is None

    def _measure(self, site: Site, system: System) -> Found:
        self.order.append(system.name)
        return {"rate": 2.0}

    def derive(self, cases: dict[str, Found]) -> None:
        cases["once"]["speedup"] = cases["once"]["rate"] / 2.0


class Second(Echoing):
    name = "second"


@pytest.fixture(autouse=True)
def no_installs(monkeypatch, tmp_path):
    def refuse(command):
        raise NotRun("cannot install: no such package")

    monkeypatch.setattr(environments, "FOLDER", tmp_path / "venvs")
    monkeypatch.setattr(environments, "_run", refuse)
    Tiny.order.clear()


def run(systems: Sequence[System], rounds: int = 2) -> runner.Results:
    return runner.run([Tiny], systems, Settings(rounds=rounds, seconds=0.1), {})


def test_rounds_are_interleaved():
    results = run([Echoing(), Second()])
    assert Tiny.order == ["echoing", "second", "echoing", "second"]
    assert results.values("tiny", "once", "second", "rate") == {0: 2.0, 1: 2.0}
    assert results.values("tiny", "once", "limit", "rate") == {0: 4.0, 1: 4.0}
    assert results.values("tiny", "once", "echoing", "speedup") == {0: 1.0, 1: 1.0}
    assert results.failures == []


def test_one_that_does_not_start_or_install_is_reported_and_the_others_are_measured():
    results = run([Ending(), Missing(), Echoing()], rounds=3)
    assert results.systems("tiny", "once") == ["limit", "echoing"]
    assert len(results.values("tiny", "once", "echoing", "rate")) == 3
    reasons = {failure["system"]: failure["reason"] for failure in results.failures}
    assert set(reasons) == {"ending", "missing"}
    assert "broken app" in reasons["ending"]
    assert "no such package" in reasons["missing"]


def test_a_failed_install_leaves_no_half_environment(tmp_path):
    run([Missing()], rounds=1)
    assert not (tmp_path / "venvs" / "missing").exists()


def test_an_interrupt_keeps_what_was_measured(monkeypatch):
    rounds = []

    def measure(self, site, system):
        rounds.append(system.name)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return {"rate": 1.0}

    monkeypatch.setattr(Tiny, "_measure", measure)
    results = run([Echoing(), Second()])
    assert results.interrupted
    assert results.values("tiny", "once", "second", "rate") == {0: 1.0}


def test_a_workload_without_its_load_generator_is_reported(monkeypatch):
    monkeypatch.setattr(Tiny, "needs_wrk", True)
    monkeypatch.setenv("PATH", "/nowhere")
    results = run([Echoing()])
    assert [failure["reason"] for failure in results.failures] == ["wrk is not installed (Debian: apt-get install wrk)"]


def test_a_disturbed_measurement_is_made_again_and_the_calmest_counts(monkeypatch):
    found = iter([{"rate": 1.0, "elsewhere": 90.0}, {"rate": 2.0, "elsewhere": 30.0}, {"rate": 3.0, "elsewhere": 60.0}])
    monkeypatch.setattr(Tiny, "_measure", lambda self, site, system: next(found))
    monkeypatch.setattr(runner, "wait_for_calm", lambda limit_s, site=None: True)
    results = runner.run([Tiny], [Echoing()], Settings(rounds=1, calm_s=1.0), {})
    assert results.values("tiny", "once", "echoing", "rate") == {0: 2.0}


def test_only_the_cases_that_were_asked_for_are_measured():
    results = runner.run([Tiny], [Echoing()], Settings(rounds=1, cases=("another",)), {})
    assert Tiny.order == []
    assert results.workloads == {}

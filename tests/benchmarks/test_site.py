"""Starting, measuring and ending what is under test."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import procfs
from benchmarks.errors import NotRun
from benchmarks.site import Probe, Site

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

SERVER = """
import http.server, json, os, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 500 if self.path == "/fails" else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given):
        pass

# A child in a session of its own that outlives its parent, as servers leave behind.
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("child", "w").write(str(child.pid))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

PROBE = Probe("/", b'{"a": [1, 2]}', b'{"a":[1,2]}')


def start(site: Site) -> None:
    site.spawn([site.python, "server.py", str(site.port)])


def test_a_site_answers_is_measured_and_leaves_nothing():
    with Site(Path(sys.executable), {"server.py": SERVER}, "echo") as site:
        start(site)
        site.wait_ready(PROBE, 20.0)
        child = int((site.folder / "child").read_text())
        folder = site.folder
        pids = {process.pid for process in site.processes()}
        assert child in pids
        assert os.getpid() not in pids
        assert site.first_answer_s > 0.0
        assert site.pss_mb() > 1.0
        assert site.cpu_seconds() > 0.0
    assert not folder.exists()
    end = time.monotonic() + 10.0  # what was killed may take a moment to be gone
    while left := [pid for pid in pids if pid in procfs.table() and procfs.table()[pid].state != "Z"]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def test_a_wrong_answer_is_told_from_a_right_one_and_white_space_does_not_matter():
    with Site(Path(sys.executable), {"server.py": SERVER}, "echo") as site:
        start(site)
        site.wait_ready(PROBE, 20.0)
        assert site.ask(Probe("/", b"[1,\n 2]", b"[1, 2]")) is None
        assert "wrong answer" in (site.ask(Probe("/", b"[1]", b"[2]")) or "")
        assert "status 500" in (site.ask(Probe("/fails", b"x", b"x")) or "")


def test_a_system_that_ends_at_once_is_reported_with_its_last_words():
    with Site(Path(sys.executable), {"server.py": "raise SystemExit('no such model')"}, "echo") as site:
        start(site)
        with pytest.raises(NotRun, match=r"ended with status 1.*no such model"):
            site.wait_ready(PROBE, 20.0)


def test_a_system_that_never_answers_is_given_up():
    with Site(Path(sys.executable), {"server.py": "import time; time.sleep(600)"}, "echo") as site:
        start(site)
        with pytest.raises(NotRun, match="not ready within 0 s"):
            site.wait_ready(PROBE, 0.2)


def test_what_the_user_has_set_does_not_reach_the_system(monkeypatch):
    monkeypatch.setenv("ZSERVE_PORT", "1")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    look = "import os, time; open('seen', 'w').write(','.join(sorted(os.environ))); os.rename('seen', 'done')"
    with Site(Path(sys.executable), {"look.py": look}, "echo", {"REPLICAS": "3"}) as site:
        site.spawn([site.python, "look.py"])
        end = time.monotonic() + 20.0
        while not (site.folder / "done").exists():
            assert time.monotonic() < end, site.log_tail()
            time.sleep(0.01)
        seen = (site.folder / "done").read_text().split(",")
    assert "REPLICAS" in seen
    assert "BENCHMARK_DOUBLED" in seen
    assert "ZSERVE_PORT" not in seen
    assert "PYTHONPATH" not in seen

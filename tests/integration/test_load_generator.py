"""A hundred thousand requests from a real load generator: as many answers, none of them 5xx."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .fabric import Fabric

pytestmark = pytest.mark.integration

TOTAL = 100_000


def test_a_hundred_thousand_requests_get_as_many_answers(fabric: Fabric) -> None:
    hey = shutil.which("hey")
    if hey is None:
        pytest.skip("hey is not installed (Debian: apt-get install hey)")
    fabric.start("router")
    fabric.start("gateway")
    fabric.start("worker")
    fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
    done = subprocess.run(
        [hey, "-n", str(TOTAL), "-c", "100", "-m", "POST", "-d", '{"a": 1}', fabric.gateways[0].http + "/echo"],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    statuses = {int(status): int(count) for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", done.stdout)}
    assert statuses == {200: TOTAL}, done.stdout
    assert "Error distribution" not in done.stdout, done.stdout
    counters = fabric.call("status")["backends"]["echo"]["counters"]
    assert counters["completed"] == TOTAL

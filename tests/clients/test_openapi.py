"""Requests that schemathesis draws from an OpenAPI description of the typed handler, good ones and bad ones.

``test_fuzz.py`` does much of this in every run of the tests.  schemathesis brings some twenty packages, one of them
binary, so it is not needed for these: ``make fuzz-api`` installs it and runs this.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..integration.running import RunningApp

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="`make fuzz-api` brings schemathesis"),
    pytest.mark.timeout(3600),
]

HERE = Path(__file__).parent
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method",
)  # fmt: skip


def test_answers_are_what_the_description_says(tmp_path: Path) -> None:
    with RunningApp("app_clients:typed", HERE) as app:
        command = [Path(sys.executable).with_name("schemathesis"), "run", HERE / "openapi.json", "--url", app.url]
        command += ["--checks", ",".join(CHECKS), "--request-timeout", "20", "--no-color"]
        command += ["--max-examples", os.environ.get("ZSERVE_FUZZ_EXAMPLES", "20")]
        command += ["--seed", os.environ.get("ZSERVE_FUZZ_SEED", "1")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout[done.stdout.index("SUMMARY") :])
    assert "Tested: 3" in done.stdout, done.stdout

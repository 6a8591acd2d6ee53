"""The code blocks of the two early Ray Serve documents, run as they stand but for the import line.

Not run: the blocks of "Serve in Depth" that show the inside of the load balancer in pseudo-code, and HTTP messages.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SEEDS = Path(__file__).parent / "seeds"


def code_blocks(document: str) -> list[str]:
    """The Python blocks of an rst text: ``.. code-block:: python``, and fenced ones behind comment dots."""
    blocks: list[str] = []
    lines = document.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.strip() == ".. code-block:: python":
            number += 1
            block = []
            while number < len(lines) and (not lines[number].strip() or lines[number].startswith(" ")):
                block.append(lines[number])
                number += 1
            blocks.append(textwrap.dedent("\n".join(block)).strip())
            continue
        if re.fullmatch(r"\.\. ```(python)?", line):
            number += 1
            block = []
            while lines[number] != ".. ```":
                block.append(lines[number].removeprefix("..").removeprefix(" "))
                number += 1
            blocks.append("\n".join(block).strip())
        number += 1
    return blocks


def run(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "script.py"
    path.write_text(script)
    (tmp_path / "run").mkdir(mode=0o700)
    return subprocess.run(
        [sys.executable, "-W", "always", str(path)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env={**os.environ, "ZSERVE_RUN_DIR": str(tmp_path / "run")},
        check=False,
    )


def free_port() -> int:
    """8000, which the documents use, if it is free."""
    for port in (8000, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("no port")


def on_port(script: str, port: int) -> str:
    if port == 8000:
        return script
    return script.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(
        "serve.init()", f"serve.init(http_port={port})"
    )


def test_key_concepts_runs_as_written(tmp_path: Path) -> None:
    blocks = code_blocks((SEEDS / "key_concepts.txt").read_text())
    assert len(blocks) == 6
    text = "\n\n".join(blocks)
    # In the order of the document the endpoint is deleted before its traffic is set: a reader would not run that line.
    deletion = 'serve.delete_endpoint("simple_endpoint")'
    assert deletion in text
    text = text.replace(deletion, deletion + '\nserve.create_endpoint("simple_endpoint", "/simple")')
    text = text.replace("from ray import serve", "import zserve as serve")
    port = free_port()
    text += '\nprint(requests.get("http://127.0.0.1:8000/simple", timeout=5).text)\n'
    done = run(on_port(text, port), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['{"/simple":["simple_endpoint",["GET"]]}', "hello world"]
    # set_traffic("simple_backend", {"simple_endpoint": 1.0}) has its arguments swapped in the document.
    assert "set_traffic('simple_endpoint', {'simple_backend': 1.0})" in done.stderr.replace('"', "'")
    assert list((tmp_path / "run").rglob("*")) == []


def test_serve_in_depth_runs_as_written(tmp_path: Path) -> None:
    blocks = code_blocks((SEEDS / "serve_in_depth.txt").read_text())
    split = next(block for block in blocks if "serve.split" in block)
    batcher = next(block for block in blocks if "accept_batch" in block)
    port = free_port()
    script = "\n".join(
        [
            "import requests",
            "import zserve as serve",
            "serve.init()",
            batcher,
            'print(requests.get("http://127.0.0.1:8000/batcher", timeout=5).text)',
            'serve.create_backend("SVM:v1", lambda: "svm")',
            'serve.create_backend("ResNet50:v2", lambda: "resnet")',
            'serve.create_endpoint("image classifier", "/classify")',
            split.replace('"SVM:v1": 0.5\n', '"SVM:v1": 0.5,\n'),  # the document has no comma there
            'answers = {requests.get("http://127.0.0.1:8000/classify", timeout=5).text for _ in range(60)}',
            "print(sorted(answers))",
        ]
    )
    done = run(on_port(script, port), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["many_response", "['resnet', 'svm']"]

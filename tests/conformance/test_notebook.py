"""``serve.init()`` in a notebook: cells run inside of an event loop, define what they serve, and are run again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

# What IPython does: each cell is compiled by itself, may await, and its names are those of __main__.
KERNEL = """
import ast, asyncio, inspect, pathlib, sys

async def kernel():
    for number, cell in enumerate(pathlib.Path(sys.argv[1]).read_text().split("#%%")):
        code = compile(cell, f"<cell {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, globals())
        if inspect.iscoroutine(result):
            await result

asyncio.run(kernel())
"""

CELLS = """
import urllib.request
import zserve as serve
serve.init(http_port=0)
first = serve.status()["address"]

#%%
serve.init(http_port=0)  # the cell above, run again
assert serve.status()["address"] == first

#%%
word = "one"

def say(request):
    return f"{word} {request.data}"

class Adder:
    def __init__(self, by):
        self.by = by

    async def __call__(self, request):
        return request.data + self.by

serve.create_backend("say", say)
serve.create_backend("adder", Adder, 2)
serve.create_backend("lambda", lambda request: request.data * 2)
for name in ("say", "adder", "lambda"):
    serve.create_endpoint(name, backend=name)

#%%
print(serve.get_handle("say").remote("a").result(30))
print(await serve.get_handle("adder").remote(serve.get_handle("lambda").remote(20)))

#%%
word = "two"
serve.update_backend("say", say)
print(await serve.get_handle("say").remote("b"))

#%%
@serve.route("/page")
def page():
    return "first"

#%%
@serve.route("/page")
def page():
    return "second"

#%%
(gateway,) = [node for node in serve.status()["nodes"] if node["role"] == "gateway"]
print(urllib.request.urlopen(gateway["http"] + "/page", timeout=20).read().decode(), page())
"""


def test_cells(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "cells.py").write_text(CELLS)
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(tmp_path / "kernel.py"), str(tmp_path / "cells.py")],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "ZSERVE_RUN_DIR": folder},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines() == ["one a", "42", "two b", "second second"]
        assert not list(Path(folder).rglob("*")), "all has ended with the kernel"

"""One embedded fabric for each module of this folder: the tests of a module share it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import httpx
import pytest

import zserve as serve
from zserve.control import declarations


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the module's fabric answers HTTP; ``serve`` speaks to the same one."""
    with tempfile.TemporaryDirectory(prefix="zs-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSERVE_RUN_DIR", folder)
        patch.delenv("ZSERVE_ADDRESS", raising=False)
        patch.delenv("ZSERVE_REPLICA", raising=False)
        patch.setattr(declarations, "_declared", {})  # init() would serve what the modules of other tests declare
        serve.init(http_port=0)
        try:
            (gateway,) = [node for node in serve.status()["nodes"] if node["role"] == "gateway"]
            yield gateway["http"]
        finally:
            serve.shutdown()


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30.0) as client:
        yield client

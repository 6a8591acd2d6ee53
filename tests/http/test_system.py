"""The page that leads from a gateway to the routers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson

from zserve.http.system import system_pages


def get(path: str, method: str = "GET") -> tuple[int, bytes]:
    core: Any = SimpleNamespace(routers_known=lambda: ["tcp://10.0.0.1:7700", "ipc:///x.sock"])
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(system_pages(core, lambda: b"")(scope, None, send))
    return sent[0]["status"], sent[1]["body"]


def test_a_gateway_tells_where_its_routers_are() -> None:
    status, body = get("/-/fabric")
    assert status == 200
    assert orjson.loads(body) == {"routers": ["tcp://10.0.0.1:7700", "ipc:///x.sock"]}


def test_it_can_only_be_read_and_is_listed() -> None:
    assert get("/-/fabric", "POST")[0] == 405
    status, body = get("/-/nothing")
    assert status == 404
    assert b"/-/fabric" in body

"""The system pages under ``/-/``, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from ..cores.gateway import GatewayCore

__all__ = ["system_pages"]

_Send = Callable[[dict[str, Any]], Awaitable[None]]
_TEXT = b"text/plain; charset=utf-8"


def system_pages(core: GatewayCore, metrics: Callable[[], bytes]) -> Callable[..., Awaitable[None]]:
    """routes, healthz, readyz, metrics and fabric (where its routers are) of one gateway."""

    def answer(path: str) -> tuple[int, bytes, bytes]:
        if path == "/-/routes":
            return 200, b"application/json", orjson.dumps(core.routes.listing())
        if path == "/-/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/-/readyz":
            ready, reason = core.readiness()
            return (200 if ready else 503), _TEXT, reason.encode() + b"\n"
        if path == "/-/fabric":
            return 200, b"application/json", orjson.dumps({"routers": list(core.routers_known())})
        if path == "/-/metrics":
            return 200, b"text/plain; version=0.0.4; charset=utf-8", metrics()
        pages = "/-/routes, /-/healthz, /-/readyz, /-/metrics and /-/fabric"
        return 404, _TEXT, f"no system page at {path[:200]}; there are {pages}\n".encode()

    async def application(scope: dict[str, Any], receive: object, send: _Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, _TEXT, b"system pages are read with GET\n"
        else:
            status, kind, body = answer(scope["path"])
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return application

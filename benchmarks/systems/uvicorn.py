"""Bare uvicorn with httptools and uvloop: the limit of an HTTP front in Python, with nothing behind it."""

from __future__ import annotations

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_ECHO = """
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        chunks = []
        more = True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(chunks)
        await send({
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        })
        await send({"type": "http.response.body", "body": body})
"""

_PAYLOAD = "    import json\n    from model import weigh\n" + _ECHO.replace(
    "        await send", "        body = json.dumps(weigh(body)).encode()\n        await send", 1
)


_STREAM = """
    import asyncio, json

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        asked = json.loads((await receive())["body"])
        await send({
            "type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")],
        })
        for number in range(asked["pieces"]):
            if number and asked["gap"]:
                await asyncio.sleep(asked["gap"])
            await send({"type": "http.response.body", "body": b"piece%d\\n" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
"""


class Uvicorn(System):
    name = "uvicorn"
    title = "bare uvicorn (ASGI, httptools, uvloop), one process: echoes bytes, no JSON"
    environment = "uvicorn"
    requirements = ("uvicorn", "httptools", "uvloop")
    packages = ("uvicorn", "httptools", "uvloop")
    sources = {
        name: {"app.py": source(text)} for name, text in {"echo": _ECHO, "payload": _PAYLOAD, "stream": _STREAM}.items()
    }

    def start(self, site: Site) -> None:
        given = ["--host", "127.0.0.1", "--port", str(site.port), "--loop", "uvloop", "--http", "httptools"]
        site.spawn([site.python, "-m", "uvicorn", "app:app", *given, "--no-access-log", "--log-level", "warning"])


SYSTEMS: tuple[System, ...] = (Uvicorn(),)

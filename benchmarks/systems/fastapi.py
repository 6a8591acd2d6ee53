"""FastAPI behind uvicorn (httptools, uvloop), in one process: no queue, no batches, no second process."""

from __future__ import annotations

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_ECHO = """
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/echo")
    async def echo(body: dict) -> dict:
        return body
"""

_PAYLOAD = """
    from fastapi import FastAPI, Request
    from model import weigh

    app = FastAPI()

    @app.post("/payload")
    async def payload(request: Request) -> dict:
        return weigh(await request.body())
"""


_STREAM = """
    import asyncio
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    async def pieces(count, gap):
        for number in range(count):
            if number and gap:
                await asyncio.sleep(gap)
            yield f"piece{number}\\n"

    @app.post("/stream")
    async def stream(body: dict):
        return StreamingResponse(pieces(body["pieces"], body["gap"]), media_type="text/plain")
"""


class FastApi(System):
    name = "fastapi"
    title = "FastAPI + uvicorn, one process"
    environment = "fastapi"
    requirements = ("fastapi", "uvicorn", "httptools", "uvloop")
    packages = ("fastapi", "starlette", "pydantic", "uvicorn", "httptools", "uvloop")
    sources = {
        name: {"app.py": source(text)} for name, text in {"echo": _ECHO, "payload": _PAYLOAD, "stream": _STREAM}.items()
    }

    def start(self, site: Site) -> None:
        given = ["--host", "127.0.0.1", "--port", str(site.port), "--loop", "uvloop", "--http", "httptools"]
        site.spawn([site.python, "-m", "uvicorn", "app:app", *given, "--no-access-log", "--log-level", "warning"])


SYSTEMS: tuple[System, ...] = (FastApi(),)

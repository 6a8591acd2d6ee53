"""BentoML: an ASGI front and a service in worker processes, adaptive batches.  https://github.com/bentoml/BentoML"""

from __future__ import annotations

from ..site import Probe, Site
from .system import System, source

__all__ = ["SYSTEMS"]

_HEAD = """
    from typing import Any
    import bentoml
    from model import *
"""

_ECHO = """
    @bentoml.service
    class App:
        @bentoml.api(route="/echo")
        def echo(self, body: dict[str, Any], /) -> dict[str, Any]:
            return body
"""

_BATCH = """
    @bentoml.service
    class App:
        @bentoml.api(route="/batch", batchable=True, max_batch_size=32)
        def batch(self, items: list[dict[str, Any]], /) -> list[dict[str, Any]]:
            return predict(items)
"""


class BentoMl(System):
    name = "bentoml"
    title = "BentoML as it comes"
    environment = "bentoml"
    requirements = ("bentoml",)
    packages = ("bentoml", "starlette", "uvicorn", "pydantic")
    start_s = 90.0
    sources = {
        name: {"app.py": source(_HEAD) + source(text)} for name, text in {"echo": _ECHO, "batch": _BATCH}.items()
    }

    def start(self, site: Site) -> None:
        here = {"BENTOML_HOME": str(site.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
        command = [site.python, "-m", "bentoml", "serve", "app:App", "--host", "127.0.0.1", "--port", str(site.port)]
        site.spawn([*command, "--quiet"], here)

    def probe(self, probe: Probe) -> Probe:
        """A batchable call takes a batch from the client, too: of one item."""
        if probe.path != "/batch":
            return probe
        return Probe(probe.path, b"[" + probe.body + b"]", probe.wanted, probe.content_type)


SYSTEMS: tuple[System, ...] = (BentoMl(),)

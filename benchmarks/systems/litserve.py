"""LitServe: FastAPI in front of worker processes.  https://github.com/Lightning-AI/LitServe"""

from __future__ import annotations

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_HEAD = """
    import os, sys, time
    import litserve as ls
    from model import *
"""

_ECHO = """
    class Echo(ls.LitAPI):
        def setup(self, device):
            pass

        def predict(self, body):
            return body

    apis = Echo(api_path="/echo")
    workers = 1
"""

_BATCH = """
    class Batch(ls.LitAPI):
        def setup(self, device):
            pass

        def batch(self, inputs):
            return inputs

        def predict(self, items):
            return predict(items)

        def unbatch(self, outputs):
            return outputs

    apis = Batch(api_path="/batch", max_batch_size=32, batch_timeout=0.0)
    workers = 1
"""

_MIX = """
    class Waiting(ls.LitAPI):
        seconds = 0.0

        def setup(self, device):
            pass

        def predict(self, body):
            wait(self.seconds)
            return {"waited": round(1000 * self.seconds)}

    class Fast(Waiting):
        seconds = 0.001

    class Medium(Waiting):
        seconds = 0.010

    class Slow(Waiting):
        seconds = 0.050

    apis = [Fast(api_path="/fast"), Medium(api_path="/medium"), Slow(api_path="/slow")]
    workers = 1
"""

_STREAM = """
    import asyncio

    class Stream(ls.LitAPI):
        def setup(self, device):
            pass

        async def predict(self, body):
            for number in range(body["pieces"]):
                if number and body["gap"]:
                    await asyncio.sleep(body["gap"])
                yield f"piece{number}\\n"

        async def encode_response(self, output):
            async for piece in output:
                yield piece

    apis = Stream(api_path="/stream", stream=True, enable_async=True)
    workers = 1
"""

_SCALE = """
    class Scale(ls.LitAPI):
        def setup(self, device):
            pass

        def predict(self, body):
            time.sleep(0.020)
            return {"slept": 20}

    apis = Scale(api_path="/scale")
    workers = int(os.environ["REPLICAS"])
"""

_TAIL = """
    if __name__ == "__main__":
        server = ls.LitServer(apis, accelerator="cpu", workers_per_device=workers)
        server.run(
            host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False, access_log=False
        )
"""


class LitServe(System):
    name = "litserve"
    title = "LitServe as it comes"
    environment = "litserve"
    requirements = ("litserve",)
    packages = ("litserve", "fastapi", "uvicorn", "uvloop")
    sources = {
        name: {"app.py": source(_HEAD) + source(text) + source(_TAIL)}
        for name, text in {"echo": _ECHO, "batch": _BATCH, "mix": _MIX, "scale": _SCALE, "stream": _STREAM}.items()
    }

    def start(self, site: Site) -> None:
        site.spawn([site.python, "app.py", str(site.port)], {"LIT_SERVER_DISABLE_TELEMETRY": "1"})


SYSTEMS: tuple[System, ...] = (LitServe(),)

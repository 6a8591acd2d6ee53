"""Ray Serve: proxies, routers and replicas as Ray actors.  https://docs.ray.io/en/latest/serve/

The fast configuration sets what its documentation names for throughput: RAY_SERVE_ENABLE_HA_PROXY (HAProxy, in C, in
place of the Python proxy; it comes with ``ray[serve]``), RAY_SERVE_THROUGHPUT_OPTIMIZED (user code and router in the
main loops, gRPC between actors, buffered logs), and no access log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_HEAD = """
    import os, signal, sys, time
    import ray
    from ray import serve
    from model import *
"""

_ECHO = """
    @serve.deployment
    class Echo:
        async def __call__(self, request):
            return await request.json()

        async def called(self, value):
            return value

    apps = {"/echo": Echo.bind()}
"""

_BATCH = """
    @serve.deployment(max_ongoing_requests=128)
    class Batch:
        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
        async def answer(self, items):
            return predict(items)

        async def __call__(self, request):
            return await self.answer(await request.json())

    apps = {"/batch": Batch.bind()}
"""

_SCALE = """
    @serve.deployment(num_replicas=int(os.environ["REPLICAS"]), ray_actor_options={"num_cpus": 0})
    class Scale:
        def __call__(self, request):
            time.sleep(0.020)
            return {"slept": 20}

    apps = {"/scale": Scale.bind()}
"""

_STREAM = """
    import asyncio
    from starlette.responses import StreamingResponse

    async def pieces(count, gap):
        for number in range(count):
            if number and gap:
                await asyncio.sleep(gap)
            yield f"piece{number}\\n"

    @serve.deployment(max_ongoing_requests=128)
    class Stream:
        async def __call__(self, request):
            asked = await request.json()
            return StreamingResponse(pieces(asked["pieces"], asked["gap"]), media_type="text/plain")

    apps = {"/stream": Stream.bind()}
"""

_CALLER = """
    import os
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from ray import serve

    def connect():
        ray.init(address=open("address").read(), logging_level="error")
        handle = serve.get_app_handle("echo").called
        return handle.remote, lambda answer: answer.result(timeout_s=10.0)

    def leave():
        pass
"""

_TAIL = """
    if __name__ == "__main__":
        ray.init(num_cpus=8, include_dashboard=False, _temp_dir=sys.argv[2], logging_level="error")
        with open("address", "w") as file:
            file.write(ray.get_runtime_context().gcs_address)
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=QUIET)
        for route, app in apps.items():
            serve.run(app, name=route.strip("/"), route_prefix=route, logging_config=QUIET)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            time.sleep(3600)
"""


class RayServe(System):
    name = "ray"
    title = "Ray Serve as it comes"
    environment = "ray"
    requirements = ("ray[serve]",)
    packages = ("ray", "uvicorn", "starlette")
    start_s = 120.0
    quiet = "QUIET = None\n"
    sources = {
        name: {"app.py": source(_HEAD) + source(text) + source(_TAIL)}
        for name, text in {"echo": _ECHO, "batch": _BATCH, "scale": _SCALE, "stream": _STREAM}.items()
    }

    def start(self, site: Site) -> None:
        app = site.folder / "app.py"
        app.write_text(self.quiet + app.read_text())
        site.spawn([site.python, "app.py", str(site.port), str(site.folder / "ray")])

    def caller(self, site: Site, calls: str) -> Sequence[str]:
        (site.folder / "calls.py").write_text(source(_CALLER) + calls)
        return [str(site.python), "calls.py"]

    def settings(self, workload: str) -> Mapping[str, str]:
        # A caller of its own could not know the token that a cluster makes up for itself.
        return {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


class Fast(RayServe):
    name = "ray-fast"
    title = "Ray Serve with its documented settings for throughput"
    quiet = 'QUIET = {"enable_access_log": False}\n'

    def settings(self, workload: str) -> Mapping[str, str]:
        return {
            **super().settings(workload),
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        }


SYSTEMS: tuple[System, ...] = (RayServe(), Fast())

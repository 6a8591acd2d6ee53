"""zserve itself: as ``zserve run`` starts it, and as three nodes started by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..site import Site, free_port
from .system import Sources, System, source

__all__ = ["SYSTEMS"]

_ECHO = """
    import zserve as serve

    @serve.route("/echo", methods=["POST"])
    def echo(request):
        return request.json
"""

_BATCH = """
    import zserve as serve
    from model import predict

    @serve.route("/batch", methods=["POST"], config={"max_batch_size": 32})
    @serve.accept_batch
    def batch(requests):
        return predict([request.json for request in requests])
"""

_PAYLOAD = """
    import zserve as serve
    from model import weigh

    @serve.route("/payload", methods=["POST"])
    def payload(request):
        return weigh(request.data)
"""

_MIX = """
    import zserve as serve
    from model import wait

    @serve.route("/fast", methods=["POST"])
    def fast(request):
        wait(0.001)
        return {"waited": 1}

    @serve.route("/medium", methods=["POST"])
    def medium(request):
        wait(0.010)
        return {"waited": 10}

    @serve.route("/slow", methods=["POST"])
    def slow(request):
        wait(0.050)
        return {"waited": 50}
"""

_SCALE = """
    import os, time
    import zserve as serve

    @serve.route("/scale", methods=["POST"], config={"num_replicas": int(os.environ["REPLICAS"])})
    def scale(request):
        time.sleep(0.020)
        return {"slept": 20}
"""

_DIGITS = """
    import zserve as serve
    from digits import SVM

    serve.declare_endpoint("svm", "/digits", methods=["POST"], backends={"SVM": SVM}, config={"max_batch_size": 32})
"""

_EXAMPLES = Path(__file__).parents[2] / "examples"


def _sources() -> Sources:
    apps = {
        "echo": _ECHO, "batch": _BATCH, "payload": _PAYLOAD, "mix": _MIX, "scale": _SCALE, "digits": _DIGITS,
        "stream": _STREAM,
    }  # fmt: skip
    files = {workload: {"app.py": source(text)} for workload, text in apps.items()}
    if (_EXAMPLES / "digits.py").exists():
        for name in ("digits.py", "digits.html"):
            files["digits"][name] = (_EXAMPLES / name).read_text(encoding="utf-8")
    return files


_STREAM = """
    import asyncio
    import zserve as serve

    @serve.route("/stream", methods=["POST"])
    async def stream(request):
        asked = request.json
        for number in range(asked["pieces"]):
            if number and asked["gap"]:
                await asyncio.sleep(asked["gap"])
            yield f"piece{number}\\n"
"""

_CALLER = source("""
    import sys
    import zserve as serve

    def connect():
        serve.init(sys.argv[1])
        handle = serve.get_handle("echo")
        return handle.remote, lambda answer: answer.result(timeout=10.0)

    leave = serve.shutdown
""")

_JOIN = source("""
    import sys, time
    import zserve as serve

    until = time.monotonic() + 30.0
    while True:
        try:
            serve.init(sys.argv[1])
            break
        except serve.FabricUnreachable:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    import app
""")


class _Zserve(System):
    packages = ("zserve", "pyzmq", "uvicorn", "httptools", "uvloop", "msgspec", "orjson")
    sources = _sources()

    def with_deadline(self, path: str, milliseconds: float) -> str:
        return f"{path}?relative_slo_ms={milliseconds:g}"

    def passes_on(self, command_line: str) -> bool:
        return "zserve" in command_line and "replica" not in command_line


class Run(_Zserve):
    name = "zserve"
    title = "zserve run: everything that it starts by itself on one machine"

    def start(self, site: Site) -> None:
        command = [site.python, "-m", "zserve", "run", "app", "--port", str(site.port), "--app-dir", site.folder]
        site.spawn(command, {"ZSERVE_RUN_DIR": _run_directory(site)})


class Apart(_Zserve):
    name = "zserve-apart"
    title = "zserve node: gateway, router and worker as processes of their own"

    def start(self, site: Site) -> None:
        _spawn_apart(site, _address(site))

    def caller(self, site: Site, calls: str) -> Sequence[str]:
        return _caller(site, calls)


class Tcp(_Zserve):
    name = "zserve-tcp"
    title = "zserve node: the same three, joined over tcp in place of ipc"

    def start(self, site: Site) -> None:
        _spawn_apart(site, f"tcp://127.0.0.1:{free_port()}")


class Together(_Zserve):
    name = "zserve-together"
    title = "zserve node: gateway and router in one process, worker in another"

    def caller(self, site: Site, calls: str) -> Sequence[str]:
        return _caller(site, calls)

    def start(self, site: Site) -> None:
        address = _address(site)
        _spawn_nodes(
            site, address,
            ["--role", "gateway", "--role", "router", "--bind", address, "--http", site.host],
            ["--role", "worker", "--join", address, "--app-dir", site.folder],
        )  # fmt: skip


def _spawn_apart(site: Site, address: str) -> None:
    _spawn_nodes(
        site, address,
        ["--role", "router", "--bind", address],
        ["--role", "worker", "--join", address, "--app-dir", site.folder],
        ["--role", "gateway", "--join", address, "--http", site.host],
    )  # fmt: skip


def _caller(site: Site, calls: str) -> list[str]:
    (site.folder / "calls.py").write_text(_CALLER + calls)
    return [str(site.python), "calls.py", _address(site)]


def _address(site: Site) -> str:
    return f"ipc://{site.folder}/router"


def _spawn_nodes(site: Site, address: str, *nodes: list[object]) -> None:
    """Nodes with these options, and a client that declares the app to the router at *address*."""
    (site.folder / "join.py").write_text(_JOIN)
    commands: list[list[object]] = [[site.python, "-m", "zserve", "node", *node] for node in nodes]
    site.spawn_together([*commands, [site.python, "join.py", address]], {"ZSERVE_RUN_DIR": _run_directory(site)})


def _run_directory(site: Site) -> str:
    folder = site.folder / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder)


SYSTEMS: tuple[System, ...] = (Run(), Apart(), Together(), Tcp())

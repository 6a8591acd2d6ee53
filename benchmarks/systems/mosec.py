"""mosec: an HTTP front and a batching queue in Rust, Python workers behind a socket.  https://github.com/mosecorg/mosec"""

from __future__ import annotations

from pathlib import Path

from ..site import Site
from .system import Sources, System, source

__all__ = ["SYSTEMS"]

_END = """
    if __name__ == "__main__":
        server = Server()
        {workers}
        server.run()
"""


def _app(classes: str, *workers: str) -> str:
    lines = "\n    ".join(f"server.append_worker({worker})" for worker in workers)
    return (
        source("import os, random, time\nfrom mosec import Server, Worker\nfrom model import *\n")
        + source(classes)
        + source(_END).replace("{workers}", lines)
    )


_ECHO = """
    class Echo(Worker):
        def forward(self, data):
            return data
"""

_BATCH = """
    class Batch(Worker):
        def forward(self, data):
            return predict(data)
"""

_PAYLOAD = """
    class Payload(Worker):
        def deserialize(self, data):
            return data

        def forward(self, data):
            return weigh(data)
"""

_MIX = """
    class Fast(Worker):
        def forward(self, data):
            wait(0.001)
            return {"waited": 1}

    class Medium(Worker):
        def forward(self, data):
            wait(0.010)
            return {"waited": 10}

    class Slow(Worker):
        def forward(self, data):
            wait(0.050)
            return {"waited": 50}
"""

_SCALE = """
    class Scale(Worker):
        def forward(self, data):
            time.sleep(0.020)
            return {"slept": 20}
"""

# The example's model, with stand-ins for the parts of zserve that its module names.
_DIGITS = """
    from types import SimpleNamespace
    from digits import SVM

    class Digits(Worker):
        def __init__(self):
            self.model = SVM()

        def deserialize(self, data):
            return SimpleNamespace(data=bytes(data))

        def forward(self, requests):
            return self.model(requests)
"""
_STAND_IN = source("""
    def route(*given, **named):
        return lambda target: target

    def accept_batch(target):
        return target

    def declare_endpoint(*given, **named):
        pass
""")
_EXAMPLES = Path(__file__).parents[2] / "examples"


def _sources() -> Sources:
    apps = {
        "echo": {"app.py": _app(_ECHO, "Echo, route='/echo'")},
        "batch": {"app.py": _app(_BATCH, "Batch, max_batch_size=32, route='/batch'")},
        "payload": {"app.py": _app(_PAYLOAD, "Payload, route='/payload'")},
        "mix": {"app.py": _app(_MIX, *(f"{name}, route='/{name.lower()}'" for name in ("Fast", "Medium", "Slow")))},
        "scale": {"app.py": _app(_SCALE, "Scale, num=int(os.environ['REPLICAS']), route='/scale'")},
    }
    if (_EXAMPLES / "digits.py").exists():
        apps["digits"] = {
            "app.py": _app(_DIGITS, "Digits, max_batch_size=32, route='/digits'"),
            "zserve.py": _STAND_IN,
            **{name: (_EXAMPLES / name).read_text(encoding="utf-8") for name in ("digits.py", "digits.html")},
        }
    return apps


class Mosec(System):
    name = "mosec"
    title = "mosec as it comes (--capacity 1024)"
    environment = "mosec"
    requirements = ("mosec",)
    extras = {"digits": ("scikit-learn", "numpy", "orjson", "werkzeug")}
    packages = ("mosec", "msgspec")
    sources = _sources()
    arguments: tuple[str, ...] = ()

    def start(self, site: Site) -> None:
        given = ["--address", "127.0.0.1", "--port", str(site.port), "--path", str(site.folder / "ipc")]
        site.spawn([site.python, "app.py", *given, "--log-level", "error", *self.arguments])


class Tuned(Mosec):
    """--capacity bounds the queue; behind so many a request just meets 100 ms: best of a sweep (docs/benchmarks.md)."""

    name = "mosec-tuned"
    title = "mosec with --capacity set by hand for the overload workload"
    arguments = ("--capacity", "256")
    sources = {name: files for name, files in Mosec.sources.items() if name in ("batch",)}


SYSTEMS: tuple[System, ...] = (Mosec(), Tuned())

"""An application for the tests of ``zserve.testing.cluster``."""

from __future__ import annotations

import asyncio
from typing import Any

import zserve as serve


@serve.route("/hello/{name}", methods=["GET", "POST"], config={"num_replicas": 2})
def hello(request: Any, name: str) -> dict[str, Any]:
    return {"hello": name, "json": request.get_json(silent=True), "q": request.args.get("q")}


@serve.route("/sleepy")
async def sleepy() -> str:
    await asyncio.sleep(5)
    return "slept"


@serve.route("/count", methods=["POST"])
class Count:
    calls = 0

    def __call__(self) -> dict[str, int]:
        Count.calls += 1
        return {"calls": Count.calls}


@serve.route("/fails")
def fails() -> None:
    raise RuntimeError("on purpose")


def pieces() -> Any:
    yield "a"
    yield "b"


@serve.accept_batch
def sizes(requests: list[Any]) -> list[int]:
    return [len(requests)] * len(requests)


class Scaled:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, request: Any) -> int:
        return int(request.args["n"]) * self.factor


serve.declare_endpoint("pieces", "/pieces", backends={"pieces": pieces})
serve.declare_endpoint(
    "sizes", "/sizes", backends={"sizes": serve.backend(sizes, config={"max_batch_size": 4, "batch_wait_timeout": 0.1})}
)
serve.declare_endpoint(
    "scaled",
    "/scaled",
    backends={"twice": serve.backend(Scaled, 2), "thrice": serve.backend(Scaled, 3)},
    traffic={"twice": 1.0, "thrice": 0.0},
)

"""POST requests while routers are killed: each is answered, and none is run twice."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import httpx
import pytest

from .fabric import Fabric, Node, eventually

CLIENTS = 8
KILLS = 4


class Posts:
    """Threads that post numbers, each once, and note what came of it."""

    def __init__(self, base: str) -> None:
        self.answers: dict[str, str] = {}
        self._base = base
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def _run(self) -> None:
        with httpx.Client(timeout=60.0) as client:
            while not self._stop.is_set():
                name = str(next(self._numbers))
                try:
                    answer = client.post(f"{self._base}/mark", content=name.encode())
                    self.answers[name] = f"{answer.status_code} {answer.text}"
                except httpx.HTTPError as error:
                    self.answers[name] = repr(error)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive()

    def wait_for(self, more: int) -> None:
        wanted = len(self.answers) + more
        eventually(lambda: len(self.answers) >= wanted, f"{more} more answers", 60.0)


def linked(fabric: Fabric, router: int) -> bool:
    """Whether the gateway and all replicas have a link with this router."""
    found = fabric.call("status", router)
    if "gateway" not in {node["role"] for node in found["nodes"]} or "mark" not in found["backends"]:
        return False
    fabric.call("wait_backend", router, name="mark", timeout_s=60.0)
    return True


@pytest.mark.timeout(240)
def test_no_post_is_lost_or_run_twice_when_routers_are_killed(
    fabric: Fabric, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [f"ipc://{fabric.folder}/router-{number}" for number in range(2)]
    fabric.start("router", "--bind", addresses[0])
    fabric.start("router", "--bind", addresses[1])
    fabric.start("worker", env={"MARKS": str(tmp_path)})
    gateway = fabric.start("gateway")
    fabric.serve("mark", "app_once:mark", methods=("POST",), config={"num_replicas": 3})
    posts = Posts(gateway.http)
    posts.start()
    gaps = []
    try:
        posts.wait_for(100)
        for kill in range(KILLS):
            number = kill % 2
            victim: Node = fabric.routers[number]
            victim.kill()
            begin = time.monotonic()
            posts.wait_for(1)
            gaps.append(time.monotonic() - begin)
            posts.wait_for(100)
            other = addresses[1 - number]
            again = fabric.start("router", "--bind", addresses[number], "--join", other)
            fabric.routers.remove(again)
            fabric.routers[number] = again
            eventually(lambda number=number: linked(fabric, number), "gateway and replicas have a link with it", 60.0)
            posts.wait_for(50)
    finally:
        posts.end()
    wrong = {name: text for name, text in posts.answers.items() if text != f"200 {name}"}
    assert not wrong, f"{len(wrong)} of {len(posts.answers)}: {dict(list(wrong.items())[:5])}"
    runs = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {name for name, marks in runs.items() if marks != "x"} == set()
    assert runs.keys() == posts.answers.keys()
    with capsys.disabled():
        print(f" {len(runs)} POSTs, {KILLS} routers killed, the next answer within {max(gaps):.2f} s ", end="")

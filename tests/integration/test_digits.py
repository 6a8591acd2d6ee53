"""The example as a user runs it: ``zserve run digits``, then digits that the models have not seen."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from zserve.control.client import ControlClient

from ..clients.browser import Browser
from ..examples.test_digits_page import STROKES
from .fabric import eventually
from .running import RunningApp

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    pytest.importorskip("sklearn")
    with RunningApp("digits", app_dir=EXAMPLES) as app:
        yield app


@pytest.fixture(scope="module")
def held_out() -> tuple[list[list[float]], list[int]]:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import digits
    finally:
        sys.path.remove(str(EXAMPLES))
    data = digits.load()[1]
    return data.pixels.tolist(), data.labels.tolist()


def test_accuracy_split_and_batches_through_http(
    app: RunningApp, held_out: tuple[list[list[float]], list[int]]
) -> None:
    pixels, labels = held_out
    total = 2000

    def ask(number: int) -> tuple[bool, str]:
        at = number % len(labels)
        answer = client.post("/digits", json=pixels[at])
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert 0.0 <= found["probability"] <= 1.0
        return found["digit"] == labels[at], found["backend"]

    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=app.url, timeout=30.0, limits=limits) as client, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(total)))
    assert sum(right for right, _ in answers) / total > 0.95
    split = Counter(backend for _, backend in answers)
    assert set(split) == {"SVM:v1", "RandomForest:v2"}
    assert all(0.45 * total <= count <= 0.55 * total for count in split.values()), split
    with ControlClient(app.address) as control:
        backends = control.call("status")["backends"]
    assert max(backend["counters"]["batch_size"]["max"] for backend in backends.values()) > 1


def test_the_page_is_served(app: RunningApp) -> None:
    answer = httpx.get(app.url + "/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "<canvas" in answer.text


@pytest.mark.parametrize("body", [b"[1, 2, 3]", b"{", b'{"a": 1}', b"[" + b"NaN," * 63 + b"NaN]"])
def test_bad_input_is_the_clients_fault(app: RunningApp, body: bytes) -> None:
    answer = httpx.post(app.url + "/digits", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_the_printed_curl_line_works_when_pasted(app: RunningApp) -> None:
    import subprocess

    line = next(line for line in app.output().splitlines() if "curl" in line)
    command = line[line.index("curl") :]
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=True).stdout
    assert '"digit"' in answer


@pytest.mark.parametrize(("width", "height", "touch"), [(1000, 800, False), (360, 740, True)])
def test_the_page_is_drawn_on(app: RunningApp, tmp_path: Path, width: int, height: int, touch: bool) -> None:
    """With a mouse on a desktop, with a finger on a phone."""

    def text(name: str) -> str:
        return str(page.run(f"document.getElementById('{name}').textContent"))

    def middle(name: str) -> list[float]:
        rectangle = f"document.getElementById('{name}').getBoundingClientRect()"
        found: list[float] = page.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({rectangle})")
        return found

    with Browser(tmp_path, width=width, height=height, touch=touch) as page:
        page.open(app.url + "/")
        x, y = middle("pad")
        size = page.run("document.getElementById('pad').getBoundingClientRect().width")
        for digit in (3, 7):
            for stroke in STROKES[digit]:
                page.draw([(x + (right - 0.5) * size, y + (down - 0.5) * size) for right, down in stroke])
            eventually(lambda digit=digit: text("digit") == str(digit), f"the page says {digit}")
            page.screenshot(tmp_path / f"{digit}.png")  # for people: the path is in the output of --basetemp
            assert float(text("probability").removesuffix("%")) > 50
            assert text("backend") in ("SVM:v1", "RandomForest:v2")
            assert text("error") == ""
            page.click(*middle("clear"))
            eventually(lambda: text("backend") not in ("SVM:v1", "RandomForest:v2"), "it is cleared")
        assert page.run("document.documentElement.scrollWidth") <= width, "nothing is cut off, or to be scrolled to"

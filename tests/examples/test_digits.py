from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import pytest

from zserve.control.declarations import collect

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


class FakeRequest:
    def __init__(self, data: Any) -> None:
        self.data = data


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return load_example("digits")


@pytest.fixture(scope="module", params=["SVM", "Forest"])
def model(digits, request):
    return getattr(digits, request.param)()


def test_what_is_declared(digits):
    page, endpoint = collect(digits)
    assert (page.name, page.route, page.methods) == ("page", "/", ["GET"])
    assert (endpoint.name, endpoint.route, endpoint.methods) == ("digits", "/digits", ["POST"])
    assert endpoint.traffic == {"SVM:v1": 0.5, "RandomForest:v2": 0.5}
    assert all(spec.target.__zserve_accept_batch__ for spec in endpoint.backends.values())
    assert all(spec.config["max_batch_size"] > 1 for spec in endpoint.backends.values())


def test_the_split_is_fixed_and_holds_out_a_fifth(digits):
    train, held_out = digits.load()
    assert (len(train.labels), len(held_out.labels)) == (1438, 359)
    rows = {row.tobytes() for row in train.pixels}
    assert not any(row.tobytes() in rows for row in held_out.pixels)
    assert digits.HELD_OUT is held_out
    assert set(np.unique(held_out.labels)) == set(range(10))
    [sample] = [i for i, row in enumerate(held_out.pixels) if row.tolist() == digits.SAMPLE]
    assert held_out.labels[sample] == digits.SAMPLE_LABEL


def test_accuracy_on_what_was_held_out(digits, model):
    pixels, labels = digits.HELD_OUT
    answers = model([FakeRequest(orjson.dumps(row.tolist())) for row in pixels])
    right = np.array([answer["digit"] for answer in answers]) == labels
    assert right.mean() > 0.95
    assert {answer["backend"] for answer in answers} == {model.backend}
    # Probabilities mean something: on average as high as the share that is right, and lower where it is wrong.
    sure = np.array([answer["probability"] for answer in answers])
    assert ((sure > 0) & (sure <= 1)).all()
    assert abs(sure.mean() - right.mean()) < 0.03
    assert sure[~right].mean() < sure[right].mean() - 0.2


def test_probabilities_sum_to_one(digits, model):
    probabilities = model.predict(digits.HELD_OUT.pixels)
    assert probabilities.shape == (359, 10)
    assert np.allclose(probabilities.sum(axis=1), 1)


BAD = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"null", "a list of 64 numbers, the rows of an 8x8 picture, not NoneType"),
    (b'{"pixels": []}', "not dict"),
    (b"[]", "not a list of 0"),
    (orjson.dumps([0] * 63), "not a list of 63"),
    (orjson.dumps([0] * 65), "not a list of 65"),
    (orjson.dumps([[0] * 8] * 8), "not a list of 8"),
    (orjson.dumps([0] * 63 + ["1"]), "pixel 63 must be a number from 0"),
    (orjson.dumps([True] + [0] * 63), "pixel 0 must be"),
    (orjson.dumps([None] + [0] * 63), "pixel 0 must be"),
    (orjson.dumps([0, 16.5] + [0] * 62), "pixel 1 must be .* not 16.5"),
    (orjson.dumps([0, -1] + [0] * 62), "pixel 1 must be .* not -1"),
    (b"[NaN" + b",0" * 63 + b"]", "not JSON"),
    (b"[1e400" + b",0" * 63 + b"]", "not JSON|pixel 0 must be"),
    (b"[9" + b"9" * 1000 + b",0" * 63 + b"]", "not JSON|pixel 0 must be"),
    ([float("nan")] * 64, "pixel 0 must be .* not nan"),
]


def test_a_bad_item_is_a_400_for_itself_alone(digits, model):
    good = FakeRequest(orjson.dumps(digits.SAMPLE))
    batch = [good, *(FakeRequest(data) for data, _ in BAD), good]
    answers = model(batch)
    assert len(answers) == len(batch)
    assert answers[0] == answers[-1]
    assert answers[0]["digit"] == digits.SAMPLE_LABEL
    for (_data, text), (body, status) in zip(BAD, answers[1:-1], strict=True):
        assert status == 400
        assert re.search(text, body["error"])
        assert len(body["error"]) < 200


def test_a_batch_of_bad_items_only(model):
    assert [status for _, status in model([FakeRequest(b"{"), FakeRequest(b"[]")])] == [400, 400]


def test_the_hint_is_a_command_with_the_sample(digits):
    command = digits.__serve_hint__.replace("{url}", "http://127.0.0.1:8000").splitlines()[-1]
    assert command.startswith("curl ")
    assert "http://127.0.0.1:8000/digits" in command
    found = re.search(r"-d '(.*)'$", command)
    assert found is not None
    assert orjson.loads(found[1]) == digits.SAMPLE


def test_the_page_is_html_and_needs_nothing_else(digits):
    response = digits.page()
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    text = response.get_data(as_text=True)
    assert text.startswith("<!doctype html>")
    assert not re.search(r"""(src|href)=["'](?!data:)|https?://|@import|url\(""", text)
    for part in ("<canvas", "/digits", "pointerdown", "touch-action: none", "probability", "backend", "latency"):
        assert part in text


def test_hello():
    from werkzeug.test import EnvironBuilder
    from werkzeug.wrappers import Request

    hello = load_example("hello")
    [declaration] = collect(hello)
    assert declaration.route == "/"
    assert hello.hello(Request(EnvironBuilder("/").get_environ())) == "Hello, world!\n"
    assert hello.hello(Request(EnvironBuilder("/?name=you").get_environ())) == "Hello, you!\n"

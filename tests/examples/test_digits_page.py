"""What the page makes of strokes, run by node: the digits drawn there must look like the ones that were learned."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from .test_digits import load_example

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


def arc(x, y, width, height, start, end):
    """Points of an ellipse's arc; degrees, 0 to the right, clockwise."""
    turns = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [[x + width * math.cos(turn), y + height * math.sin(turn)] for turn in turns]


STROKES = {
    0: [arc(0.5, 0.5, 0.22, 0.35, -90, 270)],
    1: [[[0.4, 0.3], [0.52, 0.15], [0.52, 0.85]]],
    2: [[*arc(0.5, 0.32, 0.2, 0.18, 180, 380), [0.3, 0.85], [0.72, 0.85]]],
    3: [arc(0.48, 0.32, 0.2, 0.17, -150, 90) + arc(0.48, 0.68, 0.22, 0.19, -90, 150)],
    4: [[[0.5, 0.15], [0.25, 0.6], [0.75, 0.6]], [[0.6, 0.4], [0.6, 0.88]]],
    5: [[[0.7, 0.15], [0.35, 0.15], [0.33, 0.45], *arc(0.48, 0.64, 0.22, 0.22, -120, 140)]],
    6: [[[0.6, 0.12], [0.42, 0.35], [0.32, 0.6], *arc(0.5, 0.66, 0.18, 0.2, 180, 540)]],
    7: [[[0.28, 0.15], [0.72, 0.15], [0.42, 0.88]], [[0.36, 0.5], [0.66, 0.5]]],
    9: [[*arc(0.5, 0.34, 0.18, 0.19, 0, -360), [0.68, 0.34], [0.64, 0.6], [0.55, 0.88]]],
}


@pytest.fixture(scope="module")
def digits():
    return load_example("digits")


@pytest.fixture(scope="module")
def to_pixels(digits):
    found = re.search(r'<script id="pixels">(.*?)</script>', digits.PAGE, re.DOTALL)
    assert found is not None

    def run(drawings) -> np.ndarray:
        script = f"{found[1]}; console.log(JSON.stringify({json.dumps(drawings)}.map(toPixels)))"
        done = subprocess.run([NODE, "-e", script], capture_output=True, text=True, check=True, timeout=20)
        return np.array(json.loads(done.stdout), dtype=float)

    return run


def test_both_models_read_what_is_drawn(digits, to_pixels):
    pixels = to_pixels(list(STROKES.values()))
    for model in (digits.SVM(), digits.Forest()):
        assert [answer["digit"] for answer in model.answer(pixels)] == list(STROKES)


def test_size_and_place_on_the_canvas_make_no_difference(to_pixels):
    def moved(strokes, scale, x, y):
        return [[[scale * p[0] + x, scale * p[1] + y] for p in stroke] for stroke in strokes]

    plain, small, corner = (
        to_pixels([moved(strokes, *how) for strokes in STROKES.values()])
        for how in ((1, 0, 0), (0.3, 0, 0), (0.5, 0.5, 0.5))
    )
    # Rounding at the rim of the pen may move single cells of the 32x32 bitmap.
    assert abs(plain - small).max() <= 1
    assert abs(plain - corner).max() <= 1


def test_pixels_look_like_the_data(to_pixels):
    pixels = to_pixels(list(STROKES.values()))
    assert pixels.shape == (9, 64)
    assert pixels.min() == 0
    assert pixels.max() == 16
    assert (pixels == pixels.round()).all()
    assert (abs(pixels.sum(axis=1) / 16 - 19.5) < 1).all()  # cells of ink, as in all classes of the data
    rows = pixels.reshape(-1, 8, 8).sum(axis=2)
    assert (rows > 0).all()  # the full height


@pytest.mark.parametrize("drawing", [[], [[]], [[[0.5, 0.5]]], [[[0.1, 0.1], [0.1, 0.1]]], [[[0, 0.5], [1, 0.5]]]])
def test_odd_drawings_are_pixels_too(to_pixels, drawing):
    [pixels] = to_pixels([drawing])
    assert len(pixels) == 64
    assert ((pixels >= 0) & (pixels <= 16)).all()
    assert pixels.any() == any(stroke for stroke in drawing)

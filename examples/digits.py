"""Two models that read handwritten digits, behind one endpoint: ``zserve run digits --app-dir examples``.

``POST /digits`` takes JSON of 64 pixels, an 8x8 picture row by row, each 0 (paper) to 16 (ink), and answers
``{"digit": 4, "probability": 0.98, "backend": "SVM:v1"}``.  Half of the requests go to a support vector machine and
half to a random forest.  ``/`` is a page to draw on.

The data are the 1,797 digits that come with scikit-learn (Alpaydin and Kaynak, "Optical recognition of handwritten
digits", UCI 1998).  Each replica trains its own model when it starts, on the 80% that is not :data:`HELD_OUT`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from werkzeug.wrappers import Response

import zserve as serve

PIXELS = 64
INK = 16
HELD_OUT_SHARE = 0.2
SEED = 1  # the accuracies of other splits: SVM 0.987 +- 0.005, forest 0.967 +- 0.013 (eight of them)

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")


# --- the page ---------------------------------------------------------------------------------------------------------


@serve.route("/")
def page():
    return Response(PAGE, mimetype="text/html")


# --- the data ---------------------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """pixels: (n, 64) floats 0..16.  labels: (n,) ints 0..9."""

    pixels: np.ndarray
    labels: np.ndarray


@lru_cache(maxsize=1)
def load() -> tuple[Digits, Digits]:
    """(to train with, held out): always the same split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(SEED).permutation(len(labels))  # RandomState: the same numbers in every NumPy
    cut = round(len(order) * HELD_OUT_SHARE)
    held_out, rest = order[:cut], order[cut:]
    return Digits(pixels[rest], labels[rest]), Digits(pixels[held_out], labels[held_out])


def __getattr__(name: str):
    # Loaded when asked for: the process that only declares what is served needs neither data nor scikit-learn.
    if name == "HELD_OUT":
        return load()[1]
    raise AttributeError(name)


# --- the models -------------------------------------------------------------------------------------------------------


@serve.accept_batch
class Model:
    """Answers a batch of requests with one call of the model.  Subclasses have ``backend`` and ``fit``."""

    backend: str

    def __init__(self):
        train, _ = load()
        scores, labels = self.fit(train)
        self.temperature = fit_temperature(scores, labels)

    def __call__(self, requests):
        rows = [read_pixels(request.data) for request in requests]
        good = [row for row in rows if not isinstance(row, str)]
        answers = iter(self.answer(np.array(good, dtype=np.float64))) if good else iter(())
        # One bad request spoils nothing for the others of its batch.
        return [({"error": row}, 400) if isinstance(row, str) else next(answers) for row in rows]

    def answer(self, pixels: np.ndarray) -> list[dict]:
        probabilities = self.predict(pixels)
        digits = probabilities.argmax(axis=1)
        return [
            {"digit": int(digit), "probability": round(float(row[digit]), 4), "backend": self.backend}
            for digit, row in zip(digits, probabilities, strict=True)
        ]

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 64) pixels to (n, 10) probabilities."""
        return softmax(self.scores(pixels) / self.temperature)

    def fit(self, train: Digits) -> tuple[np.ndarray, np.ndarray]:
        """Train, and return (n, 10) scores and labels of digits that the scoring model had not seen."""
        raise NotImplementedError

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 64) pixels to (n, 10) scores: the larger, the likelier."""
        raise NotImplementedError


class SVM(Model):
    """A support vector machine with a Gaussian kernel: one border for each pair of digits."""

    backend = "SVM:v1"

    def fit(self, train):
        from sklearn.model_selection import cross_val_predict
        from sklearn.svm import SVC

        self.model = SVC(gamma=0.001, C=10.0, decision_function_shape="ovo")
        unseen = cross_val_predict(self.model, train.pixels, train.labels, cv=3, method="decision_function")
        self.model.fit(train.pixels, train.labels)
        return closest_rival(unseen), train.labels

    def scores(self, pixels):
        return closest_rival(self.model.decision_function(pixels))


class Forest(Model):
    """A random forest, small enough to answer in two or three milliseconds."""

    backend = "RandomForest:v2"

    def fit(self, train):
        from sklearn.ensemble import RandomForestClassifier

        self.model = RandomForestClassifier(n_estimators=64, oob_score=True, n_jobs=1, random_state=SEED)
        self.model.fit(train.pixels, train.labels)
        # Each digit as the trees voted that were grown without it (out of bag).
        return log(self.model.oob_decision_function_), train.labels

    def scores(self, pixels):
        return log(self.model.predict_proba(pixels))


# --- probabilities ----------------------------------------------------------------------------------------------------


def closest_rival(margins: np.ndarray) -> np.ndarray:
    """(n, 45) margins of the pairs 0-1, 0-2 ... 8-9 to (n, 10): by how much each digit beats its strongest rival."""
    first, second = np.triu_indices(10, 1)
    against = np.full((len(margins), 10, 10), np.inf)
    against[:, first, second] = margins
    against[:, second, first] = -margins
    return against.min(axis=2)


def log(votes: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(votes, 1e-3))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of the scores that makes their softmax honest: the highest likelihood of *labels*.

    Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017): a forest is too modest,
    and a machine's margins are no probabilities at all; afterwards "0.9" is right nine times in ten.
    """
    rows = np.arange(len(labels))
    temperatures = np.geomspace(0.02, 20.0, 121)
    losses = [-np.log(np.maximum(softmax(scores / t)[rows, labels], 1e-12)).mean() for t in temperatures]
    return float(temperatures[int(np.argmin(losses))])


# --- requests ---------------------------------------------------------------------------------------------------------


def read_pixels(data: bytes | list[float]) -> list[float] | str:
    """The 64 pixels of one request (a body over HTTP, a list from a handle), or in words what is wrong with it."""
    try:
        pixels = orjson.loads(data) if isinstance(data, bytes) else data
    except ValueError:
        return "the body is not JSON; send a list of 64 numbers from 0 to 16"
    if not isinstance(pixels, list) or len(pixels) != PIXELS:
        found = f"a list of {len(pixels)}" if isinstance(pixels, list) else f"{type(pixels).__name__}"
        return f"expected a list of {PIXELS} numbers, the rows of an 8x8 picture, not {found}"
    for index, pixel in enumerate(pixels):
        if type(pixel) not in (int, float) or not 0 <= pixel <= INK:
            return f"pixel {index} must be a number from 0 (paper) to {INK} (ink), not {str(pixel)[:40]}"
    return pixels


# --- what is served ---------------------------------------------------------------------------------------------------

serve.declare_endpoint(
    "digits",
    "/digits",
    methods=["POST"],
    backends={SVM.backend: SVM, Forest.backend: Forest},
    traffic={SVM.backend: 0.5, Forest.backend: 0.5},
    config={"max_batch_size": 32},
)

# A held-out digit (a 7), row by row, to try the service with.
SAMPLE = [
    *(0, 0, 2, 9, 14, 16, 15, 0),
    *(0, 3, 16, 13, 8, 10, 16, 0),
    *(0, 1, 2, 0, 0, 11, 9, 0),
    *(0, 0, 3, 11, 12, 16, 11, 0),
    *(0, 0, 12, 14, 16, 12, 2, 0),
    *(0, 0, 0, 3, 16, 3, 0, 0),
    *(0, 0, 0, 7, 10, 0, 0, 0),
    *(0, 0, 0, 14, 5, 0, 0, 0),
]
SAMPLE_LABEL = 7

# What `zserve run` prints once this answers; {url} stands for where.
__serve_hint__ = (
    "draw a digit at {url}/ or paste this:\n"
    "curl -s {url}/digits -H 'Content-Type: application/json' -d '[" + ",".join(map(str, SAMPLE)) + "]'"
)

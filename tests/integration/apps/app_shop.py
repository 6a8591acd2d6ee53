"""Two versions of a greeting, and one that does not start."""

from __future__ import annotations

import zserve as serve


class Greeting:
    def __init__(self, text="hello"):
        self.text = text

    def __call__(self):
        return self.text


def new():
    return "new"


def fails():
    raise RuntimeError("this handler fails")


@serve.accept_batch
def batched(requests):
    return [str(len(requests)) for _ in requests]


class NoModel:
    def __init__(self):
        raise ValueError("no such model file")

    def __call__(self):
        return "never"

"""Backends that tell their name, one that waits, and traffic policies."""

from __future__ import annotations

import os
import time

import zserve as serve


class Held:
    """Answers once the file *until* exists."""

    def __init__(self, until):
        self.until = until

    def __call__(self):
        while not os.path.exists(self.until):
            time.sleep(0.005)
        return "held"


def free():
    return "free"


def old():
    return "old"


serve.declare_endpoint("shared", "/shared", backends={"free": free, "old": old})


class Moody:
    """Raises for the second of three requests, and names a stranger for the third."""

    def __init__(self, weights, rng, backlog):
        self.asked = 0

    def choose(self, shard):
        self.asked += 1
        if self.asked % 3 == 2:
            raise LookupError("not in the mood")
        return "free" if self.asked % 3 else "stranger"


class Only:
    def __init__(self, weights, rng, backlog, name):
        self.name = name

    def choose(self, shard):
        return self.name

"""Two backends for the lab."""

from __future__ import annotations


def one():
    return "one"


def two():
    return "two"

"""The kinds of result that answer a handle call, beside those of :mod:`zserve.http.answers` (one range of numbers)."""

from __future__ import annotations

__all__ = ["KIND_FAULT", "KIND_VALUE"]

KIND_VALUE = 32
"""The result as a packed value: the skeleton is the head of the result."""
KIND_FAULT = 33
"""The handler's exception, packed in the same way."""

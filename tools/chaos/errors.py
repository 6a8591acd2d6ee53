"""What may be wrong with a run of the tool itself."""

from __future__ import annotations

__all__ = ["ChaosError"]


class ChaosError(Exception):
    """The fabric could not be built, or does not come back; the text says what and where to look."""

"""When the client wants its answer."""

from __future__ import annotations

import math
from urllib.parse import parse_qsl

__all__ = ["BadDeadline", "read_budget_s"]

_MAX_S = 7 * 86_400.0


class BadDeadline(ValueError):
    """The request states no usable deadline."""


def read_budget_s(query: bytes, header: bytes | None, wall_s: float) -> float | None:
    """Seconds that the client gives, from its arrival; None when it does not say.

    *query* may have ``relative_slo_ms=`` (from arrival) or ``absolute_slo_ms=`` (Unix epoch), both in milliseconds, as
    in early Ray Serve; *header* is ``X-Request-Timeout-Seconds``.  *wall_s* is the time of day, seconds since the
    epoch.  Raises BadDeadline for more than one of them and for what is not a positive number of at most a week.  An
    absolute deadline that has passed gives 0.0.
    """
    stated: list[tuple[str, str, float]] = []
    if header is not None:
        stated.append(("X-Request-Timeout-Seconds", header.decode("latin-1"), 1.0))
    if b"slo_ms" in query:
        if b"%" in query or b"+" in query:
            pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        else:  # nothing to unquote: a tenth of the time
            pairs = [part.partition("=")[::2] for part in query.decode("latin-1").split("&")]
        for name, value in pairs:
            if name in ("relative_slo_ms", "absolute_slo_ms"):
                stated.append((name, value, 0.001))
    if not stated:
        return None
    if len(stated) > 1:
        raise BadDeadline(f"more than one deadline: {', '.join(name for name, _, _ in stated)}; give one")
    name, text, unit = stated[0]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise BadDeadline(f"{name} must be a positive number, not {text[:80]!r}")
    seconds = number * unit
    if name == "absolute_slo_ms":
        seconds = max(seconds - wall_s, 0.0)
    if seconds > _MAX_S:
        raise BadDeadline(f"{name}={text[:80]} is more than a week away")
    return seconds

"""Under which circumstances a call is made: what is left of the time, and which request it is a part of.

A call that a handler makes belongs to the request that the handler is working on: it ends with that request's deadline,
and carries its id and its trace context (W3C Trace Context) on.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..context import current_run
from ..http.head import decode_head
from ..wire.messages import FLAG_DEFAULT_DEADLINE

if TYPE_CHECKING:
    from ..handler.runs import HeldCall

__all__ = ["Circumstances", "Headers", "circumstances"]

Headers = tuple[tuple[bytes, bytes], ...]

DEFAULT_TIMEOUT_S = float(os.environ.get("ZSERVE_DEFAULT_TIMEOUT_S") or 30.0)
"""The deadline of a call for which nobody states one (seconds, 0 for none; ZSERVE_DEFAULT_TIMEOUT_S), like that of an
HTTP request."""

_PASSED_ON = frozenset((b"traceparent", b"tracestate", b"x-request-id"))


class Circumstances(NamedTuple):
    """deadline: seconds of ``time.monotonic``.  flags: FLAG_DEFAULT_DEADLINE or 0.  headers: to be passed on."""

    deadline: float
    flags: int
    headers: Headers


def circumstances(relative_slo_ms: float | None, absolute_slo_ms: float | None, now: float) -> Circumstances:
    """Those of a call made now; the deadlines in milliseconds, the absolute one since the epoch."""
    own = None
    if relative_slo_ms is not None:
        own = now + relative_slo_ms * 0.001
    elif absolute_slo_ms is not None:
        own = now + (absolute_slo_ms * 0.001 - time.time())
    run = current_run.get()
    if run is None:
        if own is None:
            return Circumstances(now + (DEFAULT_TIMEOUT_S or math.inf), FLAG_DEFAULT_DEADLINE, ())
        return Circumstances(own, 0, ())
    calls = run.calls
    headers = _of_call(calls[0]) if len(calls) == 1 else ()
    # Something that the handler has left running behind it has the handler's request no more, but still belongs to it.
    limit = run.last_deadline if not run.ended else math.inf
    if own is not None:
        return Circumstances(min(own, limit), 0, headers)
    if limit == math.inf:
        return Circumstances(now + (DEFAULT_TIMEOUT_S or math.inf), FLAG_DEFAULT_DEADLINE, headers)
    by_default = all(call.flags & FLAG_DEFAULT_DEADLINE for call in calls)
    return Circumstances(limit, FLAG_DEFAULT_DEADLINE if by_default else 0, headers)


def _of_call(call: HeldCall) -> Headers:
    try:
        given = decode_head(call.head).headers
    except msgspec.MsgspecError:
        given = []
    headers = tuple((name, value) for name, value in given if name in _PASSED_ON)
    if not any(name == b"x-request-id" for name, _ in headers):
        headers = ((b"x-request-id", call.id.hex().encode()), *headers)
    return headers

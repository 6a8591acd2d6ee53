"""What is asked, and what came of each request."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KINDS", "Kind", "Record", "draw", "request_bytes", "write_down"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind.  lane: which service they are for.  once: must not run twice.  share: of all requests."""

    name: str
    lane: str
    method: str
    share: float
    once: bool = False
    keyed: bool = False
    streams: bool = False


KINDS = (
    Kind("look", "look", "GET", 0.33),
    Kind("mark", "mark", "POST", 0.30, once=True),
    Kind("mark with a key", "mark", "POST", 0.07, keyed=True),
    Kind("batch", "batch", "GET", 0.12),
    Kind("batch by POST", "batch", "POST", 0.12, once=True),
    Kind("stream", "stream", "GET", 0.06, streams=True),
)

_DEADLINES_S = (0.0, 10.0, 3.0, 1.0)
"""0: none is said, so it is the gateway's own."""
DEFAULT_DEADLINE_S = 30.0


@dataclass(slots=True)
class Record:
    """One request.  Times are those of ``time.monotonic``.

    status: 0 until there is an answer, and where the connection ended without one; ``trouble`` says how then.
    whole: the answer came to its end.  right: it is the answer to this request.  served_by: process id of the gateway.
    fresh: its connection was made for it.
    """

    key: str
    kind: Kind
    deadline_s: float
    sent_s: float = 0.0
    begun_s: float = 0.0
    ended_s: float = 0.0
    gateway: str = ""
    served_by: int = 0
    status: int = 0
    whole: bool = False
    right: bool = False
    fresh: bool = False
    trouble: str = ""
    text: str = ""


def draw(rng: random.Random, number: int, salt: str) -> Record:
    """The next request: kind and deadline by chance, the key never used before."""
    kind = rng.choices(KINDS, [kind.share for kind in KINDS])[0]
    deadline_s = rng.choices(_DEADLINES_S, (4, 3, 2, 1))[0]
    return Record(f"{salt}-{number}", kind, deadline_s or DEFAULT_DEADLINE_S)


def request_bytes(record: Record, port: int) -> bytes:
    """The request as it is sent."""
    kind, key = record.kind, record.key
    query = "" if kind.method == "POST" else f"?id={key}"
    lines = [f"{kind.method} /{kind.lane}{query} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"X-Request-Id: {key}"]
    if record.deadline_s != DEFAULT_DEADLINE_S:
        lines.append(f"X-Request-Timeout-Seconds: {record.deadline_s:g}")
    if kind.keyed:
        lines.append(f"Idempotency-Key: {key}")
    body = key if kind.method == "POST" else ""
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", body]).encode()


def write_down(records: Iterable[Record], file: Path) -> None:
    """All of them as a table, with times as the logs of the nodes have them."""
    wall_s = time.time() - time.monotonic()
    with file.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("sent", "seconds", "status", "kind", "key", "gateway", "trouble", "text"))
        for one in records:
            took_s = f"{(one.begun_s or one.ended_s) - one.sent_s:.3f}"
            sent = f"{one.sent_s + wall_s:.3f}"
            text = one.text.strip()
            writer.writerow((sent, took_s, one.status, one.kind.name, one.key, one.gateway, one.trouble, text))

"""Every request, its answers and its runs: whether they fit together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .nodes import Life
from .requests import Record

__all__ = ["HONEST", "check", "read_ledger"]

HONEST = frozenset((429, 502, 503, 504))
"""Answers other than 200 that a fabric may give while parts of it are gone."""
LATE_S = 3.0
"""How long after its deadline an answer may come; what the gateway was stopped meanwhile is not counted."""


def read_ledger(folder: Path) -> Counter[str]:
    """How often each request was run."""
    runs: Counter[str] = Counter()
    for file in folder.glob("*.ledger"):
        runs.update(file.read_text().split())
    return runs


def check(
    records: Sequence[Record],
    runs: Mapping[str, int],
    lives: Mapping[int, Life],
    *,
    faults: Sequence[tuple[float, float]] = (),
    held_up_s: float = 0.0,
) -> list[str]:
    """What is wrong, one line each; [] if nothing is.

    lives: of the gateways, by process id.  faults: spans in which something was wrong with the fabric; outside of them
    no stream breaks off.  held_up_s: for how long the client itself did not get to run, at the most.
    """
    wrong = []
    for record in records:
        wrong += [f"{_name(record)}: {text}" for text in _check_one(record, runs.get(record.key, 0), lives, held_up_s)]
        if record.status == 200 and record.kind.streams and not record.whole and not _within(record, faults):
            wrong.append(f"{_name(record)}: its stream broke off although nothing was wrong ({record.trouble})")
    strangers = runs.keys() - {record.key for record in records}
    if strangers:
        wrong.append(f"{len(strangers)} runs of requests that were never sent: {sorted(strangers)[:3]}")
    return wrong


def _name(record: Record) -> str:
    return f"{record.kind.name} {record.key} through {record.gateway or 'no gateway'}"


def _within(record: Record, spans: Iterable[tuple[float, float]]) -> bool:
    return any(begin <= record.ended_s and record.sent_s <= end for begin, end in spans)


def _check_one(record: Record, runs: int, lives: Mapping[int, Life], held_up_s: float) -> list[str]:
    wrong = []
    if record.kind.once and runs > 1:
        wrong.append(f"ran {runs} times (answer {record.status} {record.trouble})")
    if not record.sent_s:
        return [*wrong, record.trouble or "was not sent"]
    life = lives.get(record.served_by)
    if record.status == 0:
        if life is None:
            wrong.append("no answer, from a gateway that is not known")
        elif life.killed and record.ended_s >= life.end_s and (record.sent_s <= life.end_s or runs == 0):
            pass  # the client sees a closed connection, maybe only once it has sent, and knows as much as it can
        elif life.leaving_s < math.inf and not record.fresh and runs == 0:
            pass  # a connection that was idle was closed while this was on its way; it was never read
        else:
            wrong.append(f"no answer, ran {runs} times: {record.trouble}")
        return wrong
    if record.status == 200:
        if runs == 0:
            wrong.append("was answered with 200 and never run")
        if record.whole and not record.right:
            wrong.append(f"200 with the answer to something else: {record.text!r}")
        if not record.whole and not record.kind.streams:
            wrong.append(f"200 that was cut short ({record.trouble})")
    elif record.status not in HONEST:
        wrong.append(f"{record.status} {record.text!r}")
    elif not record.whole and not (life is not None and life.killed):
        wrong.append(f"{record.status} that was cut short ({record.trouble})")
    late_s = record.begun_s - record.sent_s - record.deadline_s - held_up_s
    if life is not None:
        late_s -= life.stopped_between(record.sent_s, record.begun_s)
    if late_s > LATE_S:
        wrong.append(f"{record.status} came {late_s:.1f} s after its deadline of {record.deadline_s:g} s")
    return wrong

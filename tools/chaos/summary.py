"""What a run shows, for people and as data."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from .gaps import Gap
from .run import Outcome

__all__ = ["as_data", "worst_by_kind", "written_out"]


def worst_by_kind(gaps: list[Gap]) -> dict[str, list[Gap]]:
    """The gaps of each kind of fault that came alone, the worst first; of the kinds that have a bar at the top."""
    found: dict[str, list[Gap]] = {}
    for gap in sorted(gaps, key=lambda gap: -gap.seconds):
        if gap.alone:
            found.setdefault(gap.event.fault.title, []).append(gap)
    return dict(sorted(found.items(), key=lambda item: (item[1][0].bar_s, -item[1][0].seconds)))


def _answers(outcome: Outcome) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for record in outcome.records:
        what = str(record.status) if record.status else "connection lost with its gateway"
        if record.status == 200 and not record.whole:
            what = "200, broken off"
        counts.setdefault(record.kind.name, Counter())[what] += 1
    return {kind: dict(sorted(found.items())) for kind, found in counts.items()}


def _reasons(outcome: Outcome) -> list[tuple[str, int]]:
    """What answers other than 200 say, with names and numbers left out; the most frequent first."""
    texts: Counter[str] = Counter()
    for record in outcome.records:
        if record.status not in (0, 200):
            text = re.sub(r"'[^']*'", "...", re.sub(r"[0-9]+(\.[0-9]+)?", "#", record.text.strip()))
            texts[f"{record.status} {text}"] += 1
    return texts.most_common()


def _runs(outcome: Outcome) -> dict[str, int]:
    repeats = [outcome.runs[record.key] for record in outcome.records if not record.kind.once]
    once = [outcome.runs[record.key] for record in outcome.records if record.kind.once]
    return {
        "once_kinds_run": sum(once),
        "once_kinds_run_twice": sum(count > 1 for count in once),
        "idempotent_run": sum(repeats),
        "idempotent_run_again": sum(count > 1 for count in repeats),
    }


def written_out(outcome: Outcome) -> str:
    """The summary as text."""
    setting, requests = outcome.setting, len(outcome.records)
    head = (
        f"seed {setting.seed}: {requests} requests in {outcome.end_s - outcome.begin_s:.0f} s, "
        f"{len(outcome.events)} faults, {outcome.writes['acknowledged']} changes of the config acknowledged "
        f"({outcome.writes['not acknowledged']} not); at rest {outcome.settled_s:.1f} s after the last answer"
    )
    lines = [head, "", f"{'requests':<18}answers"]
    for kind, counts in _answers(outcome).items():
        lines.append(f"  {kind:<16}" + ", ".join(f"{count} x {what}" for what, count in counts.items()))
    runs = _runs(outcome)
    lines.append(
        f"  of {runs['once_kinds_run']} that must run once, {runs['once_kinds_run_twice']} ran twice; of "
        f"{runs['idempotent_run']} others {runs['idempotent_run_again']} did"
    )
    reasons = _reasons(outcome)
    lines += [f"  {count:>5} x {text}" for text, count in reasons[:8]]
    if len(reasons) > 8:
        lines.append(f"  {sum(count for _, count in reasons[8:]):>5} x others")
    lines += ["", f"{'fault (alone)':<20}{'times':>6}{'worst gap':>12}{'bar':>8}{'slowest 200':>14}   service"]
    for title, gaps in worst_by_kind(outcome.gaps).items():
        worst = gaps[0]
        bar = f"{worst.bar_s:g} s" if math.isfinite(worst.bar_s) else "-"
        slowest = max(gap.slowest_s for gap in gaps)
        mark = "  TOO LONG" if any(gap.too_long for gap in gaps) else ""
        figures = f"{len(gaps):>6}{worst.seconds:>10.2f} s{bar:>8}{slowest:>12.2f} s"
        lines.append(f"  {title:<18}{figures}   {worst.lane}{mark}")
    together = [gap for gap in outcome.gaps if not gap.alone]
    if together:
        worst = max(together, key=lambda gap: gap.seconds)
        lines.append(f"  {'with others':<18}{len(together):>6}{worst.seconds:>10.2f} s{'-':>8}")
    if outcome.held_up_s > 0.25:
        lines.append(f"  (the client itself was held up, for {outcome.held_up_s:.2f} s at the longest: a busy machine)")
    lines.append("")
    lines += [f"VIOLATION: {text}" for text in outcome.violations[:20]]
    if len(outcome.violations) > 20:
        lines.append(f"... and {len(outcome.violations) - 20} more")
    if not outcome.violations:
        lines.append(f"{requests} requests, each with one answer; no violation")
    for gap in outcome.over_bar:
        lines.append(f"OVER THE BAR: {gap.event.what}: no answer from {gap.lane} for {gap.seconds:.2f} s")
    return "\n".join(lines)


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The same for programs."""
    return {
        "seed": outcome.setting.seed,
        "seconds": outcome.setting.seconds,
        "requests": len(outcome.records),
        "answers": _answers(outcome),
        "reasons": dict(_reasons(outcome)),
        "runs": _runs(outcome),
        "writes": dict(outcome.writes),
        "violations": outcome.violations,
        "over_bar": len(outcome.over_bar),
        "held_up_s": round(outcome.held_up_s, 3),
        "settled_s": round(outcome.settled_s, 2),
        "connect_failures": outcome.connect_failures,
        "faults": [
            {
                "what": gap.event.what,
                "kind": gap.event.fault.title,
                "alone": gap.alone,
                "at_s": round(gap.event.begin_s - outcome.begin_s, 2),
                "until_s": round(gap.event.end_s - outcome.begin_s, 2) if math.isfinite(gap.event.end_s) else None,
                "gap_s": round(gap.seconds, 3),
                "service": gap.lane,
                "slowest_s": round(gap.slowest_s, 3),
                "held_up_s": round(gap.held_up_s, 3),
            }
            for gap in outcome.gaps
        ],
    }

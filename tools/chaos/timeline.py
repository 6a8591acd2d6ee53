"""A run as a picture, where matplotlib is installed: answers a second by kind, and what went wrong when."""

from __future__ import annotations

import math
from pathlib import Path

from .errors import ChaosError
from .run import Outcome

__all__ = ["draw_timeline"]

_BIN_S = 0.25
_COLOURS = {"kill": "#c0392b", "stop": "#8e44ad", "restart": "#2980b9", "partition": "#d35400", "break": "#f39c12"}


def draw_timeline(outcome: Outcome, file: Path) -> str:
    """What has become of it, one line.  Raises ChaosError where *file* cannot be written."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return "no timeline was drawn: it needs matplotlib (pip install '.[plots]')"
    length_s = outcome.end_s - outcome.begin_s
    count = max(1, math.ceil(length_s / _BIN_S))
    good, refused, lost = ([0.0] * count for _ in range(3))
    waits: list[tuple[float, float]] = []
    for record in outcome.records:
        at_s = (record.begun_s or record.ended_s) - outcome.begin_s
        place = int(at_s / _BIN_S)
        if not 0 <= place < count:
            continue
        (good if record.status == 200 else refused if record.status else lost)[place] += 1 / _BIN_S
        if record.status == 200:
            waits.append((at_s, (record.begun_s - record.sent_s) * 1e3))
    times = [(place + 0.5) * _BIN_S for place in range(count)]
    figure, (rate, wait, what) = plt.subplots(
        3, 1, figsize=(15, 9), sharex=True, layout="constrained", height_ratios=(3, 2, 2)
    )
    rate.stackplot(times, good, refused, lost, labels=("200", "429, 502, 503, 504", "connection lost"),
                   colors=("#7fb77e", "#f5c26b", "#c0392b"))  # fmt: skip
    rate.set_ylabel("answers a second")
    rate.legend(loc="upper right", fontsize=8, ncols=3)
    wait.semilogy([at for at, _ in waits], [max(took, 0.1) for _, took in waits], ".", markersize=2, color="#34495e")
    wait.set_ylabel("time to 200, ms")
    rows = list(dict.fromkeys(event.fault.title for event in outcome.events))
    for event in outcome.events:
        begin = event.begin_s - outcome.begin_s
        end = min(event.end_s - outcome.begin_s, length_s)
        colour = _COLOURS.get(event.fault.kind.split()[0], "#555555")
        row = rows.index(event.fault.title)
        what.barh(row, max(end - begin, 0.3), left=begin, color=colour, height=0.7)
        for axis in (rate, wait):
            axis.axvspan(begin, max(end, begin + 0.1), color=colour, alpha=0.12, linewidth=0)
    what.set_yticks(range(len(rows)), rows, fontsize=8)
    what.invert_yaxis()
    what.set_xlabel("seconds")
    what.set_xlim(0, length_s)
    gap = max((gap.seconds for gap in outcome.gaps), default=0.0)
    rate.set_title(
        f"seed {outcome.setting.seed}: {len(outcome.records)} requests, {len(outcome.events)} faults, "
        f"{len(outcome.violations)} violations, longest gap in a service {gap:.2f} s",
        fontsize=11,
    )
    try:
        figure.savefig(file, dpi=110)
    except (OSError, ValueError) as error:
        raise ChaosError(f"cannot write {file}: {error}") from None
    finally:
        plt.close(figure)
    return f"timeline: {file}"

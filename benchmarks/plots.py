"""Results as pictures, where matplotlib is installed: one PNG for each workload."""

from __future__ import annotations

from pathlib import Path

from .figures import FIGURES
from .results import Results

__all__ = ["draw"]


def draw(results: Results, folder: Path) -> list[Path]:
    """The files written; none, without a complaint, where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return []
    written = []
    for name, workload in results.workloads.items():
        cases = [case for case in workload["cases"] if results.systems(name, case)]
        if not cases:
            continue
        headline = workload["headline"]
        figure, axes = plt.subplots(
            1, len(cases), figsize=(3.2 * len(cases) + 1.5, 3.6), squeeze=False, sharey=False, layout="constrained"
        )
        for axis, case in zip(axes[0], cases, strict=True):
            systems = results.systems(name, case)
            spreads = [results.spread(name, case, system, headline) for system in systems]
            pairs = [(system, found) for system, found in zip(systems, spreads, strict=True) if found is not None]
            labels = [system for system, _ in pairs]
            medians = [found.median for _, found in pairs]
            errors = [
                [found.median - found.low for _, found in pairs],
                [found.high - found.median for _, found in pairs],
            ]
            colours = ["#c0392b" if label.startswith("zserve") else "#7f8c8d" for label in labels]
            axis.barh(labels[::-1], medians[::-1], xerr=[side[::-1] for side in errors], color=colours[::-1], capsize=2)
            axis.set_title(case, fontsize=9)
            axis.tick_params(labelsize=8)
            axis.set_xlim(left=0)
        title, unit, _ = FIGURES[headline]
        better = "less is better" if workload["lower_is_better"] else "more is better"
        figure.suptitle(f"{name}: {title}, {unit} ({better}; median, smallest to largest)", fontsize=10)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        written.append(path)
    return written

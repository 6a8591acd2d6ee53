"""A soak as a picture, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["draw"]


def draw(samples: Mapping[str, Sequence[tuple[float, float, int]]], file: Path) -> str:
    """By process: (seconds, megabytes, descriptors).  What has become of it, in one line."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return "no picture was drawn: it needs matplotlib (pip install '.[plots]')"
    figure, (memory, files) = plt.subplots(2, 1, figsize=(11, 7), sharex=True, layout="constrained")
    for name, seen in samples.items():
        times = [at_s / 60.0 for at_s, _, _ in seen]
        memory.plot(times, [megabytes for _, megabytes, _ in seen], label=name)
        files.plot(times, [count for _, _, count in seen], label=name)
    memory.set_ylabel("memory (RSS), MB")
    files.set_ylabel("descriptors")
    files.set_xlabel("minutes")
    for axis in (memory, files):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    memory.legend(fontsize=8, ncols=3)
    try:
        figure.savefig(file, dpi=120)
    except OSError as error:
        return f"cannot write {file}: {error.strerror}"
    finally:
        plt.close(figure)
    return f"picture: {file}"

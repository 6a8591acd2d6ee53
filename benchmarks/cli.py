"""The command line: ``python -m benchmarks run`` and ``list``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from .plots import draw
from .report import markdown
from .results import Results
from .runner import run
from .systems import SYSTEMS
from .workloads import WORKLOADS, Settings
from .wrk import wrk_version

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: something that was asked for could not be measured; 2: bad usage; 130: interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "list":
        _list()
        return 0
    if options.command == "report":
        return _report(options, parser)
    signal.signal(signal.SIGTERM, _terminated)
    for name in options.workloads:
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are: {', '.join(WORKLOADS)}")
    systems = None
    if options.systems:
        names = [name.strip() for name in options.systems.split(",") if name.strip()]
        for name in names:
            if name not in SYSTEMS:
                parser.error(f"no system {name!r}; there are: {', '.join(SYSTEMS)}")
        systems = [SYSTEMS[name] for name in names]
    workloads = [WORKLOADS[name] for name in options.workloads or WORKLOADS]
    settings = Settings(options.rounds, options.duration, options.quick, options.calm, options.case)
    known = [case.name for kind in workloads for launch in kind(Settings()).launches() for case in launch.cases]
    for name in options.case:
        if name not in known:
            parser.error(f"no case {name!r}; there are: {', '.join(known)}")
    results = run(workloads, systems, settings, SYSTEMS)
    folder = options.out or RESULTS / time.strftime("%Y%m%d-%H%M%S")
    _write(results, folder, options.json)
    if results.interrupted:
        return 130
    return 1 if results.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="zserve beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="workloads and systems")
    command = commands.add_parser("run", help="measure", description="Measure workloads; all of them by default.")
    command.add_argument("workloads", nargs="*", metavar="workload", help=", ".join(WORKLOADS))
    command.add_argument("--systems", metavar="A,B,...", help=f"of {', '.join(SYSTEMS)}; default: the workload's own")
    command.add_argument("--rounds", type=_positive(int), default=5, help="default: %(default)s")
    command.add_argument(
        "--duration", type=_positive(float), default=3.0, metavar="S", help="seconds each; default: %(default)s"
    )
    command.add_argument(
        "--case", action="append", default=[], metavar="NAME", help="only this one, as named in reports; repeatable"
    )
    command.add_argument("--quick", action="store_true", help="fewer cases of each workload")
    command.add_argument(
        "--calm", type=float, default=0.0, metavar="S", help="wait so long before each measurement for an idle machine"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder for results; default: benchmarks/results/TIME")
    command = commands.add_parser("report", help="write report and plots of results again")
    command.add_argument("json", type=Path, metavar="FILE", help="results.json of a run")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder; default: that of the file")
    return parser


def _positive(kind: type[int] | type[float]) -> type:
    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    parse.__name__ = kind.__name__
    return parse  # type: ignore[return-value]  # argparse calls it


def _list() -> None:
    print("workloads")
    for name, workload in WORKLOADS.items():
        print(f"  {name:<14} {workload.title}")
    print("systems")
    for name, system in SYSTEMS.items():
        print(f"  {name:<14} {system.title}")
    print(f"load generators\n  closed loop    {wrk_version()}\n  open loop      that of `zserve bench`")


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        results = Results.from_dict(json.loads(options.json.read_text()))
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"{options.json}: {error}")
    _write(results, options.out or options.json.parent, None)
    return 0


def _write(results: Results, folder: Path, extra: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.as_dict(), indent=1)
    for path in (folder / "results.json", extra):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    report = markdown(results)
    (folder / "report.md").write_text(report)
    pictures = draw(results, folder)
    print(report)
    also = f", {len(pictures)} plots" if pictures else " (no plots: matplotlib is not installed)"
    print(f"written to {os.path.relpath(folder)}: results.json, report.md{also}", file=sys.stderr)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

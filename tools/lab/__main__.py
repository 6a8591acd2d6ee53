"""Several hosts on one machine: ``make lab``, or ``python -m tools.lab [--json] [--keep-logs FOLDER]`` as root.

Builds four hosts as network namespaces, starts a fabric on them over tcp, cuts cables and mends them, and looks at what
becomes of requests and config.  Exit status 0: all as it should be, or not possible on this machine (it says so); 1: it
is not.  Whatever happens, it is over within two minutes and nothing is left.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TextIO

from .hosts import Hosts
from .network import PREFIX, LabError, Network, why_not_here
from .partition import HOSTS, Experiment

LIMIT_S = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lab", description="A fabric on several hosts, partitioned.")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on standard output")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="copy the nodes' logs there at the end")
    given = parser.parse_args()
    say = _teller(sys.stderr if given.json else sys.stdout)
    why = why_not_here()
    if why:
        say(f"lab skipped: {why}")
        if given.json:
            print(json.dumps({"skipped": why}))
        return 0
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    signal.alarm(LIMIT_S)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-{os.getpid()}-") as folder:
        try:
            return _run(given, Path(folder), say)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        except _Interrupted as reason:
            print(f"lab: {reason}; all of it has been removed", file=sys.stderr)
            return 1


def _run(given: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> int:
    with Network(HOSTS) as network, Hosts(network, folder) as hosts:
        experiment = Experiment(network, hosts, say)
        try:
            figures = experiment.run()
        except LabError:
            print(hosts.logs(), file=sys.stderr)
            raise
        finally:
            signal.alarm(0)
            if given.keep_logs is not None:
                shutil.copytree(folder, given.keep_logs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))
    if given.json:
        print(json.dumps(figures, indent=2))
    return 0


class _Interrupted(BaseException):
    """A signal came, or the time is up."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.alarm(0)
    for other in _SIGNALS:  # once is enough: cleaning up is bounded in time, and must not be interrupted
        signal.signal(other, signal.SIG_IGN)
    why = f"not over within {LIMIT_S} s" if number == signal.SIGALRM else signal.Signals(number).name
    raise _Interrupted(why)


def _teller(stream: TextIO) -> Callable[[str], None]:
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", file=stream, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())

"""Kill anything, lose nothing: ``make chaos``, or ``python -m tools.chaos [--seed N] [--seconds 180] [--png FILE]``.

Starts a fabric of 2 gateways, 2 routers and 3 worker nodes as processes, asks it all the time, changes its config, and
kills, stops, restarts and cuts off its nodes and replicas as the seed says.  Then it looks whether every request has
one answer, what was acknowledged was run, nothing ran twice that must not, and the config is what was written.

Exit status 0: all of it is so; 1: it is not, or a gap in the service was longer than it may be; 2: bad usage.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import ChaosError
from .plan import CALM_S
from .run import Outcome, Setting, chaos
from .running import whole_run
from .summary import as_data, written_out
from .timeline import draw_timeline


def main() -> int:
    given = _parse()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    setting = Setting(seed, given.seconds, given.rate, given.replicas, given.calm)
    again = (
        f"again: python -m tools.chaos --seed {seed} --seconds {given.seconds:g} --rate {given.rate:g} "
        f"--replicas {given.replicas} --calm {given.calm:g}"
    )

    async def run(folder: Path, say: Callable[[str], None], tick: Callable[[str], None]) -> Outcome:
        say(f"seed {seed}")
        return await chaos(folder, setting, say, tick)

    outcome = whole_run("chaos", int(given.seconds), given.keep_logs, run)
    if outcome is None:
        print(again, file=sys.stderr)
        return 1
    print(json.dumps(as_data(outcome), indent=2) if given.json else written_out(outcome))
    if given.png is not None:
        try:
            print(draw_timeline(outcome, given.png), file=sys.stderr)
        except ChaosError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 1
    if outcome.violations or (outcome.over_bar and not given.no_bars):
        print(again, file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description="Kill anything, lose nothing.")
    parser.add_argument("--seed", type=int, help="what goes wrong is drawn from it; default: a new one")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long it goes on (180)")
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second (150)")
    parser.add_argument("--replicas", type=int, default=3, help="of each of the five backends (3)")
    parser.add_argument("--calm", type=float, default=CALM_S, help=f"seconds from one fault to the next ({CALM_S:g})")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw throughput and faults (needs matplotlib)")
    parser.add_argument("--no-bars", action="store_true", help="gaps that are too long are told, and no failure")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="keep logs, ledgers and requests there")
    given = parser.parse_args()
    if given.seconds < 5.0 or given.rate <= 0.0 or given.calm < 0.0 or given.replicas < 1:
        parser.error("--seconds is 5 at the least, --rate more than 0, --calm 0, --replicas 1 at the least")
    if given.png is not None and not given.png.absolute().parent.is_dir():
        parser.error(f"--png: there is no folder {given.png.absolute().parent}")
    return given


if __name__ == "__main__":
    sys.exit(main())

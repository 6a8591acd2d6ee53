"""``zserve status``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from zserve.errors import ServeError

from ..status_view import render_status
from .options import address_option, debug_option
from .reach import connect

__all__ = ["command"]

_CLEAR = "\x1b[H\x1b[J"
_EVERY_S = 2.0


@click.command("status", short_help="show nodes, replicas, endpoints and backends")
@address_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs; with --watch one line each time.")
@click.option(
    "--watch",
    "every_s",
    type=click.FloatRange(0.1, 3600),
    is_flag=False,
    flag_value=_EVERY_S,
    metavar="[SECONDS]",
    help=f"Show it again every so many seconds ({_EVERY_S:g}), until Ctrl-C.",
)
@debug_option
def command(address: str | None, as_json: bool, every_s: float | None, debug: bool) -> None:
    """Show a fabric: nodes, endpoints with their traffic, backends with their counters, replicas with their state and
    why they are in it, writes that lost against others.

    Counters are those of all routers that answer, added up.

    \b
    Examples:
      zserve status
      zserve status --watch
      zserve status --address http://127.0.0.1:8000
      zserve status --json | jq '.replicas[] | select(.state != "ready")'
    """
    if every_s is None:
        status = _ask(address)
        click.echo(json.dumps(status, indent=2) if as_json else render_status(status))
        return
    try:
        while True:
            _show(address, as_json)
            sys.stdout.flush()
            time.sleep(every_s)
    except KeyboardInterrupt:
        pass


def _ask(address: str | None) -> dict[str, Any]:
    from ..status_sum import ask_all

    with connect(address) as client:
        return ask_all(client)


def _show(address: str | None, as_json: bool) -> None:
    """Once; a fabric that does not answer just now is no reason to stop watching."""
    try:
        status = _ask(address)
    except ServeError as error:
        text = json.dumps({"error": str(error)}) if as_json else f"{time.strftime('%H:%M:%S')}  {error}"
    else:
        text = json.dumps(status) if as_json else f"{time.strftime('%H:%M:%S')}  {render_status(status)}"
    if not as_json and sys.stdout.isatty():
        text = _CLEAR + text
    click.echo(text)

"""``zserve status``."""

from __future__ import annotations

import json

import click

from ..status_view import render_status
from .options import address_option, connect, debug_option

__all__ = ["command"]


@click.command("status", short_help="show nodes, replicas, endpoints and backends")
@address_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@debug_option
def command(address: str | None, as_json: bool, debug: bool) -> None:
    """Show a fabric as one of its routers sees it: nodes, endpoints with their traffic, backends with their counters,
    replicas with their state and why they are in it.

    \b
    Examples:
      zserve status
      zserve status --address tcp://127.0.0.1:7700
      zserve status --json | jq '.replicas[] | select(.state != "ready")'
    """
    with connect(address) as client:
        status = client.call("status")
    status.setdefault("address", client.address)
    click.echo(json.dumps(status, indent=2) if as_json else render_status(status))

"""``zserve shutdown``."""

from __future__ import annotations

import click

from .options import address_option, debug_option
from .reach import connect

__all__ = ["command"]


@click.command("shutdown", short_help="end a whole fabric")
@address_option
@debug_option
def command(address: str | None, debug: bool) -> None:
    """End every node of a fabric: gateways finish what runs, then all leave.

    \b
    Example:
      zserve shutdown --address tcp://127.0.0.1:7700
    """
    with connect(address) as client:
        client.call("shutdown")
    click.echo(f"the fabric at {client.address} is shutting down")

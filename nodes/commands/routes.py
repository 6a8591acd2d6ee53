"""``zserve routes``."""

from __future__ import annotations

import json

import click

from ..table import Table
from .options import address_option, debug_option
from .reach import connect

__all__ = ["command"]


@click.command("routes", short_help="list the routes of a fabric")
@address_option
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs: the same as GET /-/routes.")
@debug_option
def command(address: str | None, as_json: bool, debug: bool) -> None:
    """List which endpoint answers which path.

    \b
    Example:
      zserve routes
      zserve routes --json | jq keys
    """
    with connect(address) as client:
        endpoints = client.call("list_endpoints")
    routes = {value["route"]: (name, value["methods"]) for name, value in endpoints.items() if value["route"]}
    if as_json:
        click.echo(json.dumps({route: list(found) for route, found in sorted(routes.items())}, indent=2))
        return
    table = Table("ROUTE", "METHODS", "ENDPOINT")
    for route, (name, methods) in sorted(routes.items()):
        table.add(route, ",".join(methods), name)
    for name, value in sorted(endpoints.items()):
        if not value["route"]:
            table.add("(handle only)", "", name)
    click.echo(table.render() if table else "no endpoints yet")

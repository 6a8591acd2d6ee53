"""``zserve traffic``: show and set."""

from __future__ import annotations

from typing import Any

import click

from .options import address_option, debug_option, policy_kwargs_type
from .reach import connect

__all__ = ["command"]


@click.group("traffic", short_help="show or change how an endpoint's requests are shared")
def command() -> None:
    """Show or change which share of an endpoint's requests each backend gets."""


@command.command("set")
@click.argument("endpoint")
@click.argument("shares", nargs=-1, required=True, metavar="BACKEND=WEIGHT...")
@click.option("--policy", help="Another traffic policy, by its short name or as package.module:Class.")
@click.option("--policy-kwargs", type=policy_kwargs_type, help="Settings of the policy, as in '{\"packing_num\": 8}'.")
@address_option
@debug_option
def set_traffic(
    endpoint: str,
    shares: tuple[str, ...],
    policy: str | None,
    policy_kwargs: dict[str, Any] | None,
    address: str | None,
    debug: bool,
) -> None:
    """Share the requests of ENDPOINT among backends; the weights have to sum to 1.

    The next request on is shared in the new way, at every gateway; nothing is restarted.

    \b
    Example, a tenth of the traffic for a new model:
      zserve traffic set digits SVM:v1=0.9 RandomForest:v2=0.1
    """
    from zserve.control.operations import Operations

    weights = _parse(shares)
    with connect(address) as client:
        try:
            Operations(client).set_traffic(endpoint, weights, policy, policy_kwargs)
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(str(error.args[0] if error.args else error)) from None
    click.echo(f"{endpoint}: {_shares(weights)}")


@command.command("show")
@click.argument("endpoint", required=False)
@address_option
@debug_option
def show_traffic(endpoint: str | None, address: str | None, debug: bool) -> None:
    """Show how the requests of ENDPOINT, or of all endpoints, are shared."""
    with connect(address) as client:
        endpoints = client.call("list_endpoints")
    if endpoint is not None and endpoint not in endpoints:
        known = ", ".join(sorted(endpoints)) or "none yet"
        raise click.ClickException(f"no endpoint {endpoint!r}; the endpoints are: {known}")
    for name, value in sorted(endpoints.items()):
        if endpoint in (None, name):
            line = f"{name}: {_shares(value['traffic']) or 'no traffic'}"
            if shadows := _shares(value.get("shadows") or {}):
                line += f"; shadows {shadows}"
            click.echo(line)


def _parse(shares: tuple[str, ...]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for share in shares:
        backend, equals, weight = share.rpartition("=")
        try:
            weights[backend] = float(weight)
        except ValueError:
            equals = ""
        if not equals or not backend:
            raise click.BadArgumentUsage(f"{share!r} does not look like BACKEND=WEIGHT, as in SVM:v1=0.9")
    if len(weights) != len(shares):
        raise click.BadArgumentUsage("a backend is named twice")
    return weights


def _shares(weights: dict[str, float]) -> str:
    return " ".join(f"{backend}={weight:g}" for backend, weight in weights.items())

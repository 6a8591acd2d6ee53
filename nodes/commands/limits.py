"""Options of a gateway that say how much it takes from its HTTP clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from zserve.http.limits import HttpLimits

from ..settings import setting

__all__ = ["LIMIT_OPTIONS", "http_limits", "limit_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT = HttpLimits()
_COUNT = click.IntRange(1)
_SECONDS = click.FloatRange(0, min_open=True)

# By the name of the parameter: the option, the field of HttpLimits, and what it is.
_OPTIONS: dict[str, tuple[str, str, click.ParamType[Any], str]] = {
    "max_connections": ("--max-connections", "connections", _COUNT, "connections at a time; more get 503."),
    "max_connections_per_address": (
        "--max-connections-per-address",
        "connections_per_address",
        _COUNT,
        "connections of one client address (IPv6: /64 network) at a time; more get 429.",
    ),
    "max_body": ("--max-body-bytes", "body_bytes", _COUNT, "bytes of a request's body; larger ones get 413."),
    "max_held": (
        "--max-held-bytes",
        "held_bytes",
        _COUNT,
        "bytes of bodies in all, from their first byte until the answer; more get 429.",
    ),
    "max_headers": ("--max-header-bytes", "header_bytes", _COUNT, "bytes of a request's headers; larger ones get 431."),
    "header_timeout": ("--header-timeout", "header_s", _SECONDS, "seconds for a request's headers to come; then 408."),
    "keep_alive": ("--keep-alive-timeout", "keep_alive_s", _SECONDS, "seconds between two requests of a connection."),
}

LIMIT_OPTIONS = tuple(_OPTIONS)
"""The names of the parameters."""


def limit_options(command: Command) -> Command:
    """The command gets the parameters of :data:`LIMIT_OPTIONS`, for :func:`http_limits`."""
    for name, (option, field, kind, text) in reversed(_OPTIONS.items()):
        default = getattr(_DEFAULT, field)
        command = setting(
            option, name, type=kind, default=default, show_default=True, help=f"Gateway: at most so many {text}"
        )(command)
    return command


def http_limits(given: Mapping[str, Any]) -> HttpLimits:
    return HttpLimits(**{field: given[name] for name, (_, field, _, _) in _OPTIONS.items()})

"""Options for keys, tokens and certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from ..settings import setting

__all__ = ["check_tls", "client_key_options", "http_security_options", "key_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def key_options(command: Command) -> Command:
    """``--key`` and ``--known-keys`` of a node; the command gets ``key: str`` and ``known_keys: str``, absolute."""
    command = _file("--known-keys", "File with the public keys of the fabric, and what each may be.")(command)
    return _file("--key", "File with the key of this node: its tcp links are encrypted. See `zserve keygen`.")(command)


def http_security_options(command: Command) -> Command:
    """``--tokens``, ``--tls-cert`` and ``--tls-key``; the command gets ``tokens``, ``tls_cert``, ``tls_key``: str."""
    command = _file("--tls-key", "Gateway: the key of --tls-cert (PEM).")(command)
    command = _file("--tls-cert", "Gateway: serve HTTPS with this certificate chain (PEM).")(command)
    return _file("--tokens", "Gateway: let in only requests with a token from this file. See `zserve keygen`.")(command)


def check_tls(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Raises :class:`click.UsageError` for options of :func:`http_security_options` that do not go together."""
    if given["tls_key"] and not given["tls_cert"]:
        raise click.UsageError("--tls-key needs --tls-cert, the certificate that it belongs to", ctx)


def client_key_options(command: Command) -> Command:
    """``--key`` and ``--known-keys`` of a command that talks to a fabric; the command itself gets nothing."""
    command = _file("--known-keys", "File with the public keys of the fabric.", into_environment=True)(command)
    return _file("--key", "Your key file, for a fabric that uses keys. See `zserve keygen`.", into_environment=True)(
        command
    )


def _file(name: str, text: str, *, into_environment: bool = False) -> Callable[[Command], Command]:
    return setting(
        name,
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help=text,
        callback=_into_environment if into_environment else _absolute,
        expose_value=not into_environment,
    )


def _absolute(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str:
    # Links are not followed: a mounted secret is replaced by turning one, and is to be read again then.
    return os.path.abspath(value) if value else ""


def _into_environment(_ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    """Where every client of a fabric in this process looks."""
    if value and isinstance(option.envvar, str):
        os.environ[option.envvar] = os.path.abspath(value)

"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..logs import LEVELS
from ..settings import setting

__all__ = ["address_option", "app_dir_option", "debug_option", "log_level_option", "slots_option"]

Command = TypeVar("Command", bound=Callable[..., Any])


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    if value and isinstance(ctx.obj, dict):
        ctx.obj["debug"] = True
    return value


def debug_option(command: Command) -> Command:
    """``--debug``; the command gets ``debug: bool``."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        callback=_remember_debug,
        help="Show tracebacks; answers of failed requests carry them too.",
    )(command)


def log_level_option(default: str) -> Callable[[Command], Command]:
    """``--log-level``; the command gets ``log_level: str``."""
    return setting(
        "--log-level",
        type=click.Choice(LEVELS, case_sensitive=False),
        default=default,
        show_default=True,
        help="Least severe log lines to show.",
    )


def slots_option(command: Command) -> Command:
    """``--slots``; the command gets ``slots: int``."""
    return setting(
        "--slots",
        type=click.IntRange(1, 10_000),
        default=64,
        show_default=True,
        help="How many replicas a worker node may hold.",
    )(command)


def app_dir_option(command: Command) -> Command:
    """``--app-dir``; the command gets ``app_dir: Path``."""
    return setting(
        "--app-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
        default=".",
        show_default="the current folder",
        help="Folder that your modules are imported from.",
    )(command)


def address_option(command: Command) -> Command:
    """``--address``; the command gets ``address: str | None``, for :func:`reach.connect`."""
    return setting(
        "--address",
        metavar="ADDRESS",
        help="Any router of the fabric, as in tcp://host:7700, or any gateway, as in http://host:8000. "
        "Default: the only fabric of yours on this machine.",
    )(command)

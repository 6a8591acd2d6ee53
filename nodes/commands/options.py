"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..logs import LEVELS
from ..settings import setting

if TYPE_CHECKING:
    from zserve.control.client import ControlClient

__all__ = ["address_option", "app_dir_option", "connect", "debug_option", "log_level_option", "slots_option"]

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
    """``--address``; the command gets ``address: str | None``, for :func:`connect`."""
    return setting(
        "--address",
        metavar="ADDRESS",
        help="A router of the fabric, such as tcp://host:7700. Default: the only fabric of yours on this machine.",
    )(command)


def connect(address: str | None) -> ControlClient:
    """A client for *address*, or for the only fabric of this user on this machine."""
    from zserve.control.client import ControlClient, normal_address

    from ..run_directory import the_only_fabric

    if address is None:
        return ControlClient(the_only_fabric().address)
    try:
        return ControlClient(normal_address(address))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from None

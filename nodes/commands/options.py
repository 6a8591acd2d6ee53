"""Options that several commands have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ..logs import LEVELS
from ..settings import setting
from .security import client_key_options

__all__ = [
    "address_option",
    "app_dir_option",
    "busy_poll_option",
    "check_queueing_policy",
    "debug_option",
    "direct_answers_option",
    "gateways_option",
    "log_level_option",
    "policy_kwargs_type",
    "queueing_policy_options",
    "slots_option",
]

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


def gateways_option(command: Command) -> Command:
    """``--gateways``; the command gets ``gateways: int``."""
    return setting(
        "--gateways",
        type=click.IntRange(1, 256),
        default=1,
        show_default=True,
        help="Processes that answer HTTP, all on the one port.",
    )(command)


def busy_poll_option(command: Command) -> Command:
    """``--busy-poll``; the command gets ``busy_poll: bool``."""
    return setting(
        "--busy-poll/--no-busy-poll",
        default=True,
        show_default=True,
        help="Gateways and replicas may poll for up to 1 ms before they sleep, while requests come soon after each "
        "other: answers come sooner, for more processor time. Never where a cgroup rations that.",
    )(command)


def direct_answers_option(command: Command) -> Command:
    """``--direct-answers``; the command gets ``direct_answers: bool``."""
    return setting(
        "--direct-answers/--no-direct-answers",
        default=True,
        show_default=True,
        help="Gateway: replicas on its machine bring it their answers themselves, past the router.",
    )(command)


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


class _JsonObject(click.ParamType):  # type: ignore[type-arg]  # not generic in all versions of click
    """A JSON object; from a settings file, a table."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            given = value if isinstance(value, Mapping) else json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)
        if not isinstance(given, Mapping):
            self.fail(f"{value!r} is not a JSON object, as in '{{\"packing_num\": 8}}'", param, ctx)
        return dict(given)


policy_kwargs_type = _JsonObject()


def queueing_policy_options(command: Command) -> Command:
    """``--queueing-policy`` and ``--policy-kwargs``, of the same names as arguments of the command."""
    command = setting(
        "--policy-kwargs",
        type=policy_kwargs_type,
        default="{}",
        show_default=True,
        help="""Settings of --queueing-policy, as in '{"packing_num": 8}'.""",
    )(command)
    return setting(
        "--queueing-policy",
        default="random",
        show_default=True,
        metavar="POLICY",
        help="How endpoints that do not say otherwise choose a backend: random (by weight), round_robin, power_of_two, "
        "fixed_packing, or a class of yours, package.module:Class.",
    )(command)


def check_queueing_policy(queueing_policy: str, policy_kwargs: Mapping[str, Any]) -> None:
    """Raises :class:`click.BadParameter` for what can be seen to be wrong without importing it."""
    from zserve.control.checks import check_traffic_policy

    try:
        check_traffic_policy(queueing_policy, policy_kwargs, "--queueing-policy")
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def address_option(command: Command) -> Command:
    """``--address``; the command gets ``address: str | None``, for :func:`reach.connect`."""
    command = client_key_options(command)
    return setting(
        "--address",
        metavar="ADDRESS",
        help="Any router of the fabric, as in tcp://host:7700, or any gateway, as in http://host:8000. "
        "Default: the only fabric of yours on this machine.",
    )(command)

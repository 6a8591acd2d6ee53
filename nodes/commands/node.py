"""``zserve node``: one gateway, router or worker node."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from zserve.registry.neighbours import DEFAULT_MAX_ROUTERS
from zserve.scheduling.room import QUEUED_BYTES

from ..addresses import beyond_loopback, node_address, split_host_port
from ..options import GatewayOptions, RouterOptions, TogetherOptions, WorkerOptions
from ..roles import ROLES, run_role
from ..settings import setting
from .limits import LIMIT_OPTIONS, http_limits, limit_options
from .options import (
    app_dir_option,
    busy_poll_option,
    check_queueing_policy,
    debug_option,
    direct_answers_option,
    gateways_option,
    log_level_option,
    queueing_policy_options,
    slots_option,
)
from .security import check_tls, http_security_options, key_options

__all__ = ["command"]

# Options that mean something to some roles only.
_OF_ROLES = {
    "http": ("gateway",),
    "gateways": ("gateway",),
    **dict.fromkeys(LIMIT_OPTIONS, ("gateway",)),
    "bind": ("router",),
    "publish": ("router",),
    "advertise": ("router",),
    "state_dir": ("router",),
    "queueing_policy": ("router",),
    "policy_kwargs": ("router",),
    "max_queued_bytes": ("router",),
    "tokens": ("gateway",),
    "tls_cert": ("gateway",),
    "tls_key": ("gateway",),
    "slots": ("worker",),
    "busy_poll": ("gateway", "worker"),
    "direct_answers": ("gateway",),
    "resources": ("worker",),
    "app_dir": ("worker", "router"),
    "max_routers": ("gateway", "worker"),
}


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic in all versions of click
    """A value read by a function that raises ValueError with a text for people."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _resource(text: str) -> str:
    """Checked here and read in :func:`_resources`: a value may pass through twice (click converts defaults, too)."""
    label, _, amount = text.rpartition("=")
    try:
        number = float(amount)
    except ValueError:
        number = -1.0
    if not label or not 0.0 <= number < math.inf:
        raise ValueError(f"{text!r} is not LABEL=AMOUNT, as in gpu=1")
    return text


def _resources(texts: Sequence[str]) -> dict[str, float]:
    return {text.rpartition("=")[0]: float(text.rpartition("=")[2]) for text in texts}


def _http(text: str) -> str:
    split_host_port(text)
    return text


_ADDRESS = _Parsed("ADDRESS", node_address)


@click.command("node", short_help="run one gateway, router or worker node of a fabric")
@setting("--role", "roles", multiple=True, required=True, type=click.Choice(ROLES), help="What this node does.")
@setting(
    "--join",
    multiple=True,
    type=_ADDRESS,
    help="A router to join; repeatable. The others are learnt from it. A DNS name may stand for several.",
)
@setting(
    "--bind",
    type=_ADDRESS,
    default="tcp://127.0.0.1:7700",
    show_default=True,
    help="Router: where nodes reach it. Port 0 picks a free one.",
)
@setting("--publish", type=_ADDRESS, help="Router: its publications. Default: a free port beside --bind.")
@setting("--advertise", type=_ADDRESS, help="Router: the address that others are told, if it is not --bind.")
@setting(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    help="Router: folder that keeps endpoints, backends and traffic over a restart of all routers.",
)
@setting(
    "--http",
    type=_Parsed("HOST:PORT", _http),
    default="127.0.0.1:8000",
    show_default=True,
    help="Gateway: where it listens for HTTP. Port 0 picks a free one.",
)
@limit_options
@gateways_option
@slots_option
@busy_poll_option
@direct_answers_option
@setting(
    "--resource",
    "resources",
    multiple=True,
    type=_Parsed("LABEL=AMOUNT", _resource),
    help="Worker: what it offers to backends that ask for it, as in gpu=1; repeatable.",
)
@app_dir_option
@queueing_policy_options
@setting(
    "--max-queued-bytes",
    type=click.IntRange(1),
    default=QUEUED_BYTES,
    show_default=True,
    help="Router: bytes of requests that wait in its queues, all backends together; more get 429.",
)
@setting("--name", default="", help="A name for people, shown by `zserve status`. Default: role and process id.")
@key_options
@setting("--insecure", is_flag=True, help="Allow plain tcp beyond this machine: anyone who reaches it controls it.")
@http_security_options
@setting(
    "--join-timeout",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds until it is an error that no router of --join answers; 0: never.",
)
@setting(
    "--max-routers",
    type=click.IntRange(0),
    default=DEFAULT_MAX_ROUTERS,
    show_default=True,
    help="Gateway, worker: links with so many routers, where there are more; 0: with all.",
)
@setting(
    "--timeout-graceful-shutdown",
    "grace_s",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds that requests may take to finish when the node is stopped.",
)
@log_level_option("info")
@debug_option
@click.option("--lifeline", is_flag=True, hidden=True)
@click.option("--status-fd", type=int, default=-1, hidden=True)
@click.option("--http-fd", type=int, default=-1, hidden=True)
@click.pass_context
def command(ctx: click.Context, /, roles: Sequence[str], join: Sequence[str], **given: Any) -> int:
    """Run one node of a fabric until Ctrl-C (which drains; a second one forces).

    A router balances the load, and is where the other nodes meet: start one first, and give its address to all others
    with --join.  Any number of gateways, routers and workers may come and go.

    \b
    Three nodes in three shells:
      zserve node --role router --bind tcp://127.0.0.1:7700
      zserve node --role worker --join tcp://127.0.0.1:7700 --app-dir examples
      zserve node --role gateway --join tcp://127.0.0.1:7700 --http 127.0.0.1:8000

    \b
    A second router, which learns everything from the first:
      zserve node --role router --bind tcp://127.0.0.1:7701 --join tcp://127.0.0.1:7700

    \b
    A router that shares requests by a class of yours (docs/scheduling.md), of which every router needs the module:
      zserve node --role router --app-dir . --queueing-policy policies:Overflow --policy-kwargs '{"limit": 8}'

    \b
    A gateway and a router in one process, which answers sooner:
      zserve node --role gateway --role router --bind tcp://127.0.0.1:7700 --http 127.0.0.1:8000

    \b
    Between machines, with keys (`zserve keygen --help` shows how to make them) and HTTPS:
      zserve node --role router --bind tcp://10.0.0.1:7700 --key router.key --known-keys known-keys
      zserve node --role gateway --join tcp://10.0.0.1:7700 --key edge.key --known-keys known-keys \\
        --http 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem --tokens tokens
    """
    if len(set(roles)) > 1 and set(roles) != {"gateway", "router"}:
        raise click.UsageError(
            "a gateway and a router can share a process, a worker has one of its own; start another `zserve node`", ctx
        )
    role = "+".join(sorted(set(roles)))
    for name, owners in _OF_ROLES.items():
        if not set(owners) & set(roles) and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(max(option.opts, key=len) for option in ctx.command.params if option.name == name)
            raise click.UsageError(f"{option} is for a {' or a '.join(owners)}, not for a {role}", ctx)
    if "router" not in roles and not join:
        raise click.UsageError(
            f"a {role} needs --join with the address of a router, as in --join tcp://127.0.0.1:7700", ctx
        )
    _check_security(ctx, given)
    _refuse_open_network(ctx, roles, join, given)
    check_queueing_policy(given["queueing_policy"], given["policy_kwargs"])
    common: dict[str, Any] = {
        "join": list(join),
        "name": given["name"] or f"{role}-{os.getpid()}",
        "insecure": given["insecure"],
        "key": given["key"],
        "known_keys": given["known_keys"],
        "join_timeout_s": given["join_timeout"],
        "grace_s": given["grace_s"],
        "log_level": given["log_level"],
        "debug": given["debug"],
        "lifeline": given["lifeline"],
        "status_fd": given["status_fd"],
    }
    router = RouterOptions(
        bind=given["bind"],
        publish=given["publish"] or "",
        advertise=given["advertise"] or "",
        state_dir=str(given["state_dir"] or ""),
        policy=given["queueing_policy"],
        policy_kwargs=given["policy_kwargs"],
        app_dirs=[str(given["app_dir"])],
        max_queued_bytes=given["max_queued_bytes"],
        **common,
    )
    if role == "router":
        return run_role(router)
    if role != "worker":
        host, port = split_host_port(given["http"])
        gateway = GatewayOptions(
            max_routers=given["max_routers"],
            http_host=host,
            http_port=port,
            http_fd=given["http_fd"],
            limits=http_limits(given),
            tokens=given["tokens"],
            tls_cert=given["tls_cert"],
            tls_key=given["tls_key"],
            processes=given["gateways"],
            busy_poll=given["busy_poll"],
            direct_answers=given["direct_answers"],
            **common,
        )
        if role != "gateway" and gateway.processes > 1:
            raise click.UsageError(
                "--gateways is for gateways that have their processes to themselves; start the router as a node of its "
                "own",
                ctx,
            )
        return run_role(gateway if role == "gateway" else TogetherOptions(router=router, gateway=gateway, **common))
    return run_role(
        WorkerOptions(
            max_routers=given["max_routers"],
            slots=given["slots"],
            busy_poll=given["busy_poll"],
            resources=_resources(given["resources"]),
            app_dirs=[str(given["app_dir"])],
            **common,
        )
    )


def _check_security(ctx: click.Context, given: dict[str, Any]) -> None:
    if bool(given["key"]) != bool(given["known_keys"]):
        raise click.UsageError("--key and --known-keys go together; `zserve keygen --help` shows how to make both", ctx)
    check_tls(ctx, given)


def _refuse_open_network(ctx: click.Context, roles: Sequence[str], join: Sequence[str], given: dict[str, Any]) -> None:
    if given["insecure"] or given["key"]:
        return
    addresses = {"--join": list(join)}
    if "router" in roles:
        addresses["--bind"] = [given["bind"]]
        addresses["--publish"] = [given["publish"]] if given["publish"] else []
    for option, values in addresses.items():
        for address in values:
            if beyond_loopback(address):
                raise click.UsageError(
                    f"{option} {address} leaves this machine in plain tcp, open to everyone who reaches it; give "
                    "the nodes keys (`zserve keygen --help`), use a loopback or ipc address, or allow it with "
                    "--insecure on a network that you trust",
                    ctx,
                )

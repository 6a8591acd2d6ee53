"""``zserve deploy``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zserve.errors import ServeError

from ..settings import setting
from .options import address_option, debug_option
from .reach import connect

if TYPE_CHECKING:
    from zserve.control.client import ControlClient

    from ..deploy_file import DeployFile
    from ..deploy_plan import CodeFacts, Plan

__all__ = ["command"]


@click.command("deploy", short_help="make a fabric serve what a TOML file says")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@address_option
@click.option("--dry-run", is_flag=True, help="Show the difference, and check it against the fabric; write nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before writing.")
@click.option("--prune", is_flag=True, help="Remove endpoints and backends that the file does not name.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs; with --yes or --dry-run.")
@setting(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 86_400),
    default=300.0,
    show_default=True,
    help="Seconds until it is an error that replicas are not up.",
)
@setting(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
    show_default="the folder of FILE",
    help="Folder that the code is imported from here, to see what it is and whether it has changed.",
)
@debug_option
def command(
    file: Path,
    address: str | None,
    dry_run: bool,
    yes: bool,
    prune: bool,
    as_json: bool,
    timeout_s: float,
    app_dir: Path | None,
    debug: bool,
) -> None:
    """Make a fabric serve what FILE says: show the difference, ask, write it, and wait until it serves.

    What the file does not name stays, unless --prune is given; what it names gets exactly what it says, defaults where
    it says nothing.  Nothing is half applied: everything is checked first, and backends that do not start are taken
    back.  A second time there is nothing to do.

    \b
    Example, app.toml:
      [backends."SVM:v1"]
      code = "digits:SVM"
      config = { num_replicas = 2, max_batch_size = 32 }
    \b
      [endpoints.digits]
      route = "/digits"
      methods = ["POST"]
      traffic = { "SVM:v1" = 1.0 }

    \b
      zserve deploy app.toml
      zserve deploy app.toml --dry-run
      zserve deploy app.toml --yes --address http://127.0.0.1:8000
    """
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json does not ask: give --yes or --dry-run with it")
    from ..deploy import apply_plan, check_plan
    from ..deploy_file import read_deploy_file
    from ..deploy_view import plan_as_dict, render_plan

    began = time.monotonic()
    content = read_deploy_file(file)
    facts = _facts(content, app_dir or file.resolve().parent)
    with connect(address) as client:
        plan = _plan(client, content, facts, prune)
        check_plan(client, plan)
        result: dict[str, Any] = {"file": str(file), "fabric": client.address, **plan_as_dict(plan), "applied": False}
        if not as_json:
            click.echo(f"{file} and the fabric at {client.address}:")
            click.echo(render_plan(plan))
        if not (dry_run or yes or not plan.steps or _agreed()):
            raise ServeError("nothing was written")
        if not dry_run:
            apply_plan(client, plan, timeout_s=timeout_s, say=_tell(as_json))
            result["applied"] = True
            result["took_s"] = round(time.monotonic() - began, 3)
    click.echo(json.dumps(result, indent=2) if as_json else _last_line(plan, dry_run, time.monotonic() - began))


def _facts(content: DeployFile, app_dir: Path) -> dict[str, CodeFacts]:
    """What the code of each backend is: looked at here, unless the file states a version."""
    from zserve.control.checks import check_callable
    from zserve.control.code import CodeNamer, unwrap
    from zserve.control.declarations import check_batching

    from ..application import load_code
    from ..deploy_plan import CodeFacts

    facts: dict[str, CodeFacts] = {}
    for entry in content.backends:
        place = ("backends", entry.name)
        arguments = bool(entry.init_args or entry.init_kwargs)
        if entry.version is not None:
            if (entry.config.max_batch_size or 1) > 1 and not entry.batchable:
                raise content.error((*place, "config"), "has a max_batch_size: say batchable = true beside version")
            facts[entry.name] = CodeFacts(entry.version, arguments, bool(entry.batchable))
            continue
        target = unwrap(load_code(entry.code, app_dir))
        try:
            check_callable("code", target, has_arguments=arguments)
            check_batching(entry.name, target, {"max_batch_size": entry.config.max_batch_size})
            code = CodeNamer().name(target, entry.init_args, entry.init_kwargs)
        except (TypeError, ValueError) as error:
            raise content.error((*place, "code"), str(error)) from None
        facts[entry.name] = CodeFacts(code.version, code.is_class, code.batchable)
    return facts


def _plan(client: ControlClient, content: DeployFile, facts: dict[str, CodeFacts], prune: bool) -> Plan:
    from ..deploy_plan import make_plan

    router = client.call("status").get("router", {})
    return make_plan(
        content,
        facts,
        client.call("list_records"),
        policy=router.get("policy", "random"),
        policy_kwargs=router.get("policy_kwargs"),
        prune=prune,
    )


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: --yes writes without asking, --dry-run only shows")
    return click.confirm("write this?", default=False, err=True)


def _tell(quiet: bool) -> Any:
    return (lambda text: None) if quiet else (lambda text: click.echo(f"  {text}"))


def _last_line(plan: Plan, dry_run: bool, took_s: float) -> str:
    if dry_run:
        return "nothing was written (--dry-run)" if plan.steps else "nothing to do"
    return f"{'done' if plan.steps else 'nothing to do'}: all of it serves ({took_s:.1f} s)"

"""The command line ``zserve``.

Exit status: 0 done, 1 failed, 2 bad usage, 3 the application failed to start.  An error is one line on standard error
that says what to do; ``--debug`` adds the traceback.  Each command is a file of its own under ``commands``, imported
only when it is used: ``zserve run`` should have a fabric starting before anything else is loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from zserve.errors import ServeError, ServeWarning

from .complaint import complain
from .settings import defaults_from_file

__all__ = ["main", "zserve"]

_COMMANDS = {
    "run": "serve what a Python module declares",
    "node": "run one gateway, router or worker node of a fabric",
    "deploy": "make a fabric serve what a TOML file says",
    "status": "show nodes, replicas, endpoints and backends",
    "routes": "list the routes of a fabric",
    "traffic": "show or change how an endpoint's requests are shared",
    "bench": "measure how fast an endpoint answers",
    "shutdown": "end a whole fabric",
    "keygen": "make a key pair for a node, or a token for HTTP clients",
}


class _LazyGroup(click.Group):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".commands.{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            raise click.UsageError(f"no such command {args[0]!r}; the commands are: {', '.join(_COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


def _load_settings(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        group = ctx.command
        assert isinstance(group, click.Group)
        commands = {name: command for name in _COMMANDS if (command := group.get_command(ctx, name)) is not None}
        ctx.default_map = defaults_from_file(path, commands)


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"zserve {version('zserve')}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the command line, else from ZSERVE_* in the environment (--log-level: "
    "ZSERVE_LOG_LEVEL), else from the file given with --config, else they have their default.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="ZSERVE_CONFIG",
    is_eager=True,
    expose_value=False,
    callback=_load_settings,
    help="TOML file with settings: keys are option names, tables ([run], [node]) are for one command.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def zserve() -> None:
    """Serve Python functions and models over HTTP, on one machine or many.

    \b
    Serve what hello.py declares with @serve.route, and look at it:
      zserve run hello
      curl http://127.0.0.1:8000/hello
      zserve status

    \b
    The same as separate nodes, which may be on separate machines:
      zserve node --role router --bind tcp://127.0.0.1:7700
      zserve node --role worker --join tcp://127.0.0.1:7700 --app-dir .
      zserve node --role gateway --join tcp://127.0.0.1:7700 --http 127.0.0.1:8000
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its status."""
    status = run(sys.argv[1:] if arguments is None else list(arguments))
    try:
        sys.stdout.flush()
    except OSError:  # `zserve status | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run the command line; the result is the exit status.  Raises nothing."""
    state: dict[str, Any] = {"debug": False}
    warnings.showwarning = _show_warning
    try:
        result = zserve.main(arguments, prog_name="zserve", obj=state, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        complain(_with_help(error))
        return 2
    except click.ClickException as error:
        complain(error.format_message())
        return 1
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return 1
    except BrokenPipeError:
        return 0
    except ServeError as error:
        if state["debug"]:
            traceback.print_exc()
        complain(str(error))
        return error.exit_status
    except Exception as error:
        if state["debug"]:
            traceback.print_exc()
            complain(f"{type(error).__name__}: {error}")
        else:
            complain(f"{type(error).__name__}: {error} (not expected: --debug shows where it comes from)")
        return 1


def _with_help(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "zserve"
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; `{path} --help` explains"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, ServeWarning):
        click.echo(f"zserve: warning: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno, line), nl=False, err=True)

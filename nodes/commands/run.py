"""``zserve run``: a whole fabric on this machine for one module."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

from zserve.errors import ApplicationError

from ..launch import LocalFabric, interruptible
from ..settings import setting
from .limits import http_limits, limit_options
from .options import (
    app_dir_option,
    busy_poll_option,
    check_queueing_policy,
    debug_option,
    gateways_option,
    log_level_option,
    queueing_policy_options,
    slots_option,
)
from .security import check_tls, http_security_options

__all__ = ["command"]

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")


@click.command("run", short_help="serve what a Python module declares")
@click.argument("target", metavar="MODULE[:NAME]")
@setting("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@setting(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 picks a free one."
)
@limit_options
@http_security_options
@gateways_option
@slots_option
@busy_poll_option
@app_dir_option
@queueing_policy_options
@setting(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    help="Folder that keeps endpoints, backends and traffic; without it they end with the fabric.",
)
@setting("--name", default="", help="A name for people, shown by `zserve status`.")
@setting(
    "--timeout-graceful-shutdown",
    "grace_s",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds that requests may take to finish after Ctrl-C.",
)
@log_level_option("warning")
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    target: str,
    host: str,
    port: int,
    gateways: int,
    slots: int,
    busy_poll: bool,
    app_dir: Path,
    queueing_policy: str,
    policy_kwargs: dict[str, Any],
    state_dir: Path | None,
    name: str,
    grace_s: float,
    log_level: str,
    debug: bool,
    tokens: str,
    tls_cert: str,
    tls_key: str,
    **limits: Any,
) -> int:
    """Serve everything that MODULE declares with @serve.route, or only NAME of it, until Ctrl-C.

    Starts a gateway, a router and a worker node on this machine.  Ctrl-C lets running requests finish; a second one
    does not wait.

    \b
    Example, with hello.py in the current folder:
      import zserve as serve
    \b
      @serve.route("/hello")
      def hello():
          return "hello world"

    \b
      zserve run hello
      curl http://127.0.0.1:8000/hello

    \b
    For others, with HTTPS and tokens (`zserve keygen --token` makes them):
      zserve run hello --host 0.0.0.0 --port 8443 --tls-cert cert.pem --tls-key key.pem --tokens tokens
    """
    started_at = time.monotonic()
    _check_target(target)
    check_tls(ctx, {"tls_cert": tls_cert, "tls_key": tls_key})
    check_queueing_policy(queueing_policy, policy_kwargs)
    with interruptible():
        fabric = LocalFabric(
            host=host,
            port=port,
            gateways=gateways,
            slots=slots,
            busy_poll=busy_poll,
            name=name or target.partition(":")[0],
            app_dir=app_dir,
            state_dir=state_dir,
            policy=queueing_policy,
            policy_kwargs=policy_kwargs,
            grace_s=grace_s,
            log_level=log_level,
            debug=debug,
            limits=http_limits(limits),
            tokens=tokens,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        try:
            _serve(fabric, target, app_dir, started_at)
            return fabric.wait()
        except BaseException:
            fabric.abandon()
            raise


def _serve(fabric: LocalFabric, target: str, app_dir: Path, started_at: float) -> None:
    # The fabric starts meanwhile: everything below is imported while its processes import what they need.
    from zserve.control.client import ControlClient
    from zserve.control.code import CodeNamer
    from zserve.control.declarations import apply
    from zserve.control.operations import Operations

    from ..application import load_application

    application = load_application(target, app_dir)
    place = fabric.started()
    with ControlClient(place.address, name="zserve run") as client:
        try:
            apply(application.declarations, Operations(client, CodeNamer(place.code_dir, [str(app_dir)])))
        except (TypeError, ValueError) as error:  # what the module declares, or the options say, is refused
            raise ApplicationError(f"cannot serve {target}: {error}") from error
    fabric.take_over_signals()
    took_s = time.monotonic() - started_at
    click.echo(f"zserve: serving {target} on {place.http} (started in {took_s:.1f} s; Ctrl-C stops)")
    for declaration in application.declarations:
        if declaration.route is not None:
            click.echo(f"  {','.join(declaration.methods):<8} {place.http}{declaration.route}  -> {declaration.name}")
    if application.hint:
        click.echo(f"try: {application.hint.replace('{url}', place.http)}")


def _check_target(target: str) -> None:
    path = Path(target.partition(":")[0])
    if path.suffix != ".py" and _TARGET.fullmatch(target):
        return
    if path.suffix == ".py" or "/" in target:
        folder = "" if path.parent == Path(".") else f" --app-dir {path.parent}"
        raise click.UsageError(f"{target!r} is a file; name its module: `zserve run {path.stem}{folder}`")
    raise click.UsageError(f"{target!r} is not MODULE or MODULE:NAME, as in `hello` or `shop.models:classify`")

"""``zserve bench``."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from zserve.errors import ServeError

from .options import address_option, debug_option
from .reach import TOKEN_VARIABLE, connect

if TYPE_CHECKING:
    from ..bench.plan import Plan
    from ..bench.target import Target

__all__ = ["command"]

_CLIENTS = 64
_OTHER_FILES = 100
_FIRST_S = 10.0
"""The first request may find that something has to be loaded."""
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)", re.DOTALL)
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_SET_BY_OPTIONS = {
    "host": "the URL",
    "content-length": "--body",
    "content-type": "--content-type",
    "transfer-encoding": "--body",
    "connection": "nothing: connections are kept",
}


class _HeaderValue(click.ParamType):  # type: ignore[type-arg]  # not generic in all versions of click
    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not _VALUE.fullmatch(value):
            self.fail(f"{value!r} cannot be the value of a header", param, ctx)
        return value


@click.command("bench", short_help="measure how fast an endpoint answers")
@click.argument("url", metavar="URL|/PATH")
@click.option(
    "--clients",
    type=click.IntRange(1, 10_000),
    help=f"Closed loop: so many clients, each asks again when it has its answer.  [default: {_CLIENTS}]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1_000_000, min_open=True),
    help="Open loop instead: so many requests a second, started whether earlier ones are answered or not.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "burst"]),
    default="poisson",
    show_default=True,
    help="With --rate: independent clients, or 64 at a time.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="How long.")
@click.option(
    "--warmup",
    type=click.FloatRange(0, 600),
    default=1.0,
    show_default=True,
    help="Seconds before that, with the same load, that are not counted.",
)
@click.option(
    "--method", type=click.Choice(["GET", "POST", "PUT", "PATCH", "DELETE"]), help="Default: GET; with --body, POST."
)
@click.option("--body", help="Text to send, or @FILE.")
@click.option("--content-type", type=_HeaderValue(), default="application/json", show_default=True, help="Of the body.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header to send; repeatable.")
@click.option(
    "--deadline-ms",
    type=click.FloatRange(0, min_open=True),
    help="Send this deadline with each request; what is answered later is counted as late.",
)
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds after which a client gives up.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the arrivals: the same moments again.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@address_option
@debug_option
def command(
    url: str,
    clients: int | None,
    rate: float | None,
    arrivals: str,
    seconds: float,
    warmup: float,
    method: str | None,
    body: str | None,
    content_type: str,
    headers: tuple[str, ...],
    deadline_ms: float | None,
    patience_s: float,
    seed: int,
    as_json: bool,
    address: str | None,
    debug: bool,
) -> int:
    """Measure how fast URL answers, or /PATH of your fabric.

    A closed loop (--clients) finds how many requests a second can be answered; an open loop (--rate) how long clients
    wait when so many come, and what becomes of them when that is too much.  Latencies of an open loop run from the
    moment at which a request should have started.  Ctrl-C ends it early and shows what was found.

    \b
    Examples:
      zserve bench /hello
      zserve bench http://127.0.0.1:8000/digits --body @pixels.json --clients 32
      zserve bench /score --rate 500 --deadline-ms 100 --seconds 30
      zserve bench /hello --json | jq .latency_ms.p99
    """
    from ..bench.plan import Plan, Stream
    from ..bench.result import figures, render
    from ..bench.target import look

    if clients is not None and rate is not None:
        raise click.UsageError("--clients is a closed loop and --rate an open one: give one of them")
    target = _target(url, address)
    content = _content(body)
    stream = Stream(
        name="requests",
        path=target.path,
        body=content,
        method=method or ("GET" if body is None else "POST"),
        rate=rate or 0.0,
        deadline_ms=deadline_ms or 0.0,
        arrivals=arrivals,
        content_type=content_type,
        headers=_headers(headers, deadline_ms),
    )
    plan = Plan(
        host=target.host,
        port=target.port,
        authority=target.authority,
        seconds=seconds,
        streams=[stream],
        clients=0 if rate is not None else clients or _CLIENTS,
        seed=seed,
        patience_s=patience_s,
    )
    where = look(target, stream, max(patience_s, _FIRST_S))
    plan.connections = _allow_connections(plan.clients, plan.connections)
    outcome, took_s, cpu, interrupted = _measure(plan, where, warmup)
    found = figures(target.origin + target.path, plan, outcome, took_s, cpu)
    click.echo(json.dumps(found, indent=2) if as_json else render(found))
    if interrupted:
        raise KeyboardInterrupt
    if not found["answered"]:
        raise ServeError("not one request was answered with success")
    return 0


def _target(url: str, address: str | None) -> Target:
    from ..bench.target import target_of

    if url.startswith("/"):
        url = _gateway(address) + url
    elif address is not None:
        raise click.UsageError("--address says which fabric a /PATH is of; with a URL it has no meaning")
    try:
        return target_of(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None


def _gateway(address: str | None) -> str:
    """The URL of a gateway of the fabric at *address*, or of the only one here."""
    if address is not None and address.startswith(("http://", "https://")):
        return address.rstrip("/")
    with connect(address) as client:
        nodes = client.call("status")["nodes"]
    for node in nodes:
        if node["role"] == "gateway" and node.get("http"):
            return str(node["http"])
    raise ServeError("that fabric has no gateway at the moment; `zserve node --role gateway` starts one")


def _content(body: str | None) -> bytes:
    if body is None:
        return b""
    if not body.startswith("@"):
        return body.encode()
    try:
        with open(body[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise click.BadParameter(f"cannot read {body[1:]!r}: {error.strerror}", param_hint="--body") from None


def _headers(given: tuple[str, ...], deadline_ms: float | None) -> list[tuple[str, str]]:
    headers = []
    for header in given:
        found = _HEADER.fullmatch(header)
        if found is None or not _VALUE.fullmatch(found[2]):
            raise click.BadParameter(f"{header!r} does not look like 'Name: value'", param_hint="--header")
        if by := _SET_BY_OPTIONS.get(found[1].lower()):
            raise click.BadParameter(f"{found[1]} is set by {by}", param_hint="--header")
        headers.append((found[1], found[2]))
    names = {name.lower() for name, _ in headers}
    if deadline_ms is not None and "x-request-timeout-seconds" not in names:
        headers.append(("X-Request-Timeout-Seconds", f"{deadline_ms / 1e3:g}"))
    if (token := os.environ.get(TOKEN_VARIABLE)) and "authorization" not in names:
        headers.append(("Authorization", f"Bearer {token}"))
    return headers


def _measure(plan: Plan, where: Any, warmup_s: float) -> tuple[Any, float, float, bool]:
    """(outcome, seconds, the generator's share of a processor in percent, whether Ctrl-C ended it)."""
    import msgspec

    from ..bench.load import Load

    with _progress(warmup_s + plan.seconds) as show:
        if warmup_s:
            Load(msgspec.structs.replace(plan, seconds=warmup_s, seed=plan.seed + 1_000), where, show).run()
        load = Load(plan, where, lambda now: show(warmup_s + now))
        cpu, interrupted = time.process_time(), False
        try:
            load.run()
            show(warmup_s + plan.seconds)
        except KeyboardInterrupt:
            if not load.took_s:
                raise
            interrupted = True
        cpu = time.process_time() - cpu
    took_s = load.took_s
    return load.tallies[0].outcome(), took_s, 100.0 * cpu / took_s, interrupted


@contextmanager
def _progress(total_s: float) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal; nothing elsewhere.  To be told how many seconds are over."""
    if not sys.stderr.isatty():
        yield lambda now: None
        return
    with click.progressbar(length=round(10 * total_s), label="measuring", file=sys.stderr, width=30) as bar:
        yield lambda now: bar.update(min(round(10 * now), bar.length or 0) - bar.pos)


def _allow_connections(needed: int, wanted: int) -> int:
    """How many of *wanted* connections this process may have.  Raises ServeError if it is fewer than *needed*."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(needed, wanted) + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < most:
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        most = soft
    if most - _OTHER_FILES < needed:
        raise ServeError(
            f"{needed} clients need {needed + _OTHER_FILES} open files, and this process may have {most}: "
            "`ulimit -n` says how many, and raises it"
        )
    return min(wanted, most - _OTHER_FILES)

"""``zserve keygen``: key pairs for nodes and people, tokens for HTTP clients."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from zserve.security.keys import new_key_pair, read_key, write_private
from zserve.security.known_keys import known_line
from zserve.security.roles import KEY_ROLES
from zserve.security.tokens import new_token, token_line

__all__ = ["command"]

_HEAD = (
    "# A zserve key pair, made on {date}.  Keep this file to yourself: whoever has it is {name}.\n"
    'public = "{public}"\nsecret = "{secret}"\n'
)


@click.command("keygen", short_help="make a key pair for a node, or a token for HTTP clients")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(KEY_ROLES),
    help="What the key is for; repeatable.  Default: worker.",
)
@click.option("--name", help="A name for people.  Default: the name of the file.")
@click.option("--show", is_flag=True, help="Print the line for a key that exists already.")
@click.option("--token", is_flag=True, help="Make a token for HTTP clients instead.")
@click.pass_context
def command(
    ctx: click.Context, file: Path | None, roles: Sequence[str], name: str | None, show: bool, token: bool
) -> int:
    """Make a key pair: the secret half goes to FILE (mode 0600), the public half to standard output, as one line for
    the known-keys file.

    With keys, all tcp links of a fabric are encrypted, and nobody takes part whose key is not in the known-keys file.
    Each machine keeps its own FILE; the known-keys file is the same everywhere, and not secret.

    \b
    Two machines, and you:
      zserve keygen router.key --role router --role gateway >> known-keys
      zserve keygen gpu-box.key --role worker >> known-keys
      zserve keygen me.key --role operator --name alice >> known-keys

    \b
    Copy known-keys to both, each key to its own, and start:
      zserve node --role router --role gateway --bind tcp://10.0.0.1:7700 --key router.key --known-keys known-keys
      zserve node --role worker --join tcp://10.0.0.1:7700 --key gpu-box.key --known-keys known-keys
      zserve status --address tcp://10.0.0.1:7700 --key me.key --known-keys known-keys

    \b
    What a key is good for (several roles: --role again):
      router     balance the load, hold the config; trusted by all others
      gateway    take HTTP requests and give them to routers
      worker     run a worker node, its replicas, and the handles that their code uses
      caller     make calls with handles, and look; change nothing
      operator   all of the control calls: deploy, traffic, shutdown

    To revoke a key, delete its line everywhere: nodes read the file again when it changes, and cut the links of keys
    that are gone.  A file with a mistake in it changes nothing.

    \b
    A token for HTTP clients of a gateway with --tokens FILE; the file holds only hashes:
      zserve keygen --token --name ci >> tokens        (the token itself appears on the terminal, once)
    """
    if token:
        if file is not None or roles or show:
            raise click.UsageError("--token goes with --name only", ctx)
        return _token(ctx, name)
    if file is None:
        raise click.UsageError("name a FILE for the secret key, as in `zserve keygen gpu-box.key --role worker`", ctx)
    name = name or file.stem
    chosen = list(dict.fromkeys(roles)) or ["worker"]
    try:
        line = known_line(chosen, bytes(32), name)
    except ValueError as error:
        raise click.UsageError(f"{error}; choose one with --name", ctx) from None
    if show:
        pair = read_key(file)
    else:
        pair = new_key_pair()
        text = _HEAD.format(
            date=time.strftime("%Y-%m-%d"), name=name, public=pair.public.hex(), secret=pair.secret.hex()
        )
        write_private(file, text)
        click.echo(f"wrote {os.path.abspath(file)} (mode 0600); this line belongs into the known-keys file:", err=True)
    line = known_line(chosen, pair.public, name)
    click.echo(line)
    return 0


def _token(ctx: click.Context, name: str | None) -> int:
    if not name:
        raise click.UsageError("give the token a name, as in `zserve keygen --token --name ci`", ctx)
    token = new_token()
    try:
        line = token_line(token, name)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    click.echo(f"the token, which is kept nowhere: {token}", err=True)
    click.echo(f"clients send it as `Authorization: Bearer {token[:8]}...`; the line for the token file:", err=True)
    sys.stderr.flush()
    click.echo(line)
    return 0

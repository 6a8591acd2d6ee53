"""Finding the routers named with ``--join``: DNS names looked up, and people told when nobody answers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

from zserve.channel.hub import Hub
from zserve.errors import FabricUnreachable

from .options import NodeOptions

__all__ = ["by_name", "keep_joined", "plain", "resolve"]

log = logging.getLogger("zserve.join")

_FIRST_WORD_S = 3.0
_LOOK_EVERY_S = 0.1
_RESOLVE_EVERY_S = 2.0


def by_name(addresses: Sequence[str]) -> list[str]:
    """Those of *addresses* that have a DNS name for a host, which may stand for several routers."""
    return [address for address in addresses if _host(address) is not None]


def plain(addresses: Sequence[str]) -> list[str]:
    """The others, which can be dialled as they are."""
    return [address for address in addresses if _host(address) is None]


def resolve(addresses: Sequence[str], lookup: Callable[..., Any] | None = None) -> list[str]:
    """*addresses* with each DNS name replaced by all the addresses behind it.

    Where a name has IPv4 addresses, only these count: a host that has both would be taken for two routers.  A name that
    cannot be looked up is left out.  Blocks while names are looked up.
    """
    found: list[str] = []
    for address in addresses:
        host = _host(address)
        if host is None:
            found.append(address)
            continue
        port = address.rpartition(":")[2]
        try:
            answers = (lookup or socket.getaddrinfo)(host, int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            log.debug("cannot look up %s: %s", host, error)
            continue
        four = [answer[4][0] for answer in answers if answer[0] == socket.AF_INET]
        six = [answer[4][0] for answer in answers if answer[0] == socket.AF_INET6]
        found += [f"tcp://{one}:{port}" for one in four] or [f"tcp://[{one}]:{port}" for one in six]
    return list(dict.fromkeys(found))


def _host(address: str) -> str | None:
    """The DNS name in *address*; None if there is nothing to look up in it."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0]
    if scheme != "tcp" or host.startswith("[") or not host:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


async def keep_joined(hub: Hub, options: NodeOptions) -> None:
    """As long as the node runs: look up the names in ``--join`` at once, and again whenever no router is linked.

    After a few seconds without any link, one error that names the addresses; after ``join_timeout_s`` (0: never)
    without ever having had one, FabricUnreachable is raised.  A node that was told to join itself, as the first router
    behind a name is, has nobody to wait for.
    """
    if not options.join:
        return
    names = bool(by_name(options.join))
    waited = since_lookup = 0.0
    joined = said = False
    if names:
        await _look_up(hub, options)
    while True:
        # Of a router, others may have joined it; a gateway has links with replicas, too.
        linked = bool(hub.links.open_links()) if hub.info.role == "router" else hub.links.linked_with_router()
        if linked:
            if said:
                log.info("joined the fabric")
            joined, said, waited = True, False, 0.0
            if not names:
                return
        elif not hub.joins_itself:
            waited += _LOOK_EVERY_S
            where = ", ".join(options.join)
            if waited >= _FIRST_WORD_S and not said:
                said = True
                log.error("no router answers at %s; is one running there? Still trying", where)
            if options.join_timeout_s and waited >= options.join_timeout_s and not joined:
                raise FabricUnreachable(
                    f"no router answered at {where} within {options.join_timeout_s:g} s; start one with "
                    f"'zserve node --role router --bind {options.join[0]}', or correct --join"
                )
        since_lookup += _LOOK_EVERY_S
        if names and since_lookup >= _RESOLVE_EVERY_S and not hub.links.linked_with_router():
            since_lookup = 0.0
            await _look_up(hub, options)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _look_up(hub: Hub, options: NodeOptions) -> None:
    found = await asyncio.get_running_loop().run_in_executor(None, resolve, options.join)
    if 0 < options.max_routers < len(found):
        found = random.sample(found, options.max_routers)  # others the next time, if none of them answers
    hub.rejoin(found)

"""Telling people when the routers named with ``--join`` do not answer."""

from __future__ import annotations

import asyncio
import logging

from zserve.channel.hub import Hub
from zserve.errors import FabricUnreachable

from .options import NodeOptions

__all__ = ["warn_until_joined"]

log = logging.getLogger("zserve.join")

_FIRST_WORD_S = 3.0


async def warn_until_joined(hub: Hub, options: NodeOptions) -> None:
    """Return once there is a link with a router, or at once if none was named.

    After a few seconds without, one error that names the addresses; after ``join_timeout_s`` (0: never) it is raised as
    FabricUnreachable.
    """
    if not options.join:
        return
    waited = 0.0
    said = False
    while not hub.links.open_links():
        await asyncio.sleep(0.1)
        waited += 0.1
        where = ", ".join(options.join)
        if waited >= _FIRST_WORD_S and not said:
            said = True
            log.error("no router answers at %s; is one running there? Still trying", where)
        if options.join_timeout_s and waited >= options.join_timeout_s:
            raise FabricUnreachable(
                f"no router answered at {where} within {options.join_timeout_s:g} s; start one with "
                f"'zserve node --role router --bind {options.join[0]}', or correct --join"
            )
    if said:
        log.info("joined the fabric")

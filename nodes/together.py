"""A gateway and a router in one process, linked in memory: two hops and a process switch fewer.

To everything else they are two nodes.  On the way out the gateway drains first, and its requests are still answered
through the router.
"""

from __future__ import annotations

import asyncio

from zserve.errors import ServeError

from .complaint import complain
from .gateway import Gateway, open_listener
from .options import TogetherOptions
from .program import Stop, report, run_program
from .router import Router

__all__ = ["run"]


def run(options: TogetherOptions) -> int:
    """Run both to their end; the result is the exit status.

    The status pipe says "ready" twice: the router with its address, then the gateway with its URL.
    """
    router, gateway = options.router, options.gateway
    try:
        listener = open_listener(gateway)
    except ServeError as error:
        complain(str(error))
        report(options, "failed", error=str(error), exit=error.exit_status)
        return error.exit_status
    for part in (router, gateway):
        part.status_fd = options.status_fd
        part.grace_s = options.grace_s

    async def main(stop: Stop) -> int:
        router_stop = Stop()
        balancer = Router(router, router_stop, alone=False)
        balancing = asyncio.ensure_future(balancer.run())
        starting = asyncio.ensure_future(balancer.started.wait())
        await asyncio.wait({balancing, starting}, return_when=asyncio.FIRST_COMPLETED)
        if balancing.done():
            starting.cancel()
            return balancing.result()
        balancing.add_done_callback(lambda _: stop.request("the router beside it has ended"))
        try:
            status = await Gateway(gateway, listener, stop, beside=balancer.hub).run()
        finally:
            router_stop.request(stop.reason)
            status_of_router = await balancing
        return status or status_of_router

    with listener:
        return run_program(main, options)

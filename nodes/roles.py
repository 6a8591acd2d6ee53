"""Which program plays which role; ``python -m zserve.nodes.roles OPTIONS`` runs one from a line of JSON.

The programs are imported only when they are run: a worker has no use for an HTTP server.
"""

from __future__ import annotations

import sys

from .options import AnyOptions, GatewayOptions, RouterOptions, TogetherOptions, decode_options

__all__ = ["ROLES", "run_role"]

ROLES = ("gateway", "router", "worker")


def run_role(options: AnyOptions) -> int:
    """Run the program that *options* are for to its end; the result is the exit status."""
    if isinstance(options, RouterOptions):
        from .router import run as run_router

        return run_router(options)
    if isinstance(options, GatewayOptions):
        if options.processes > 1:
            from .gateways import run as run_gateways

            return run_gateways(options)
        from .gateway import run as run_gateway

        return run_gateway(options)
    if isinstance(options, TogetherOptions):
        from .together import run as run_together

        return run_together(options)
    from .worker import run as run_worker

    return run_worker(options)


if __name__ == "__main__":
    sys.exit(run_role(decode_options(sys.argv[1])))

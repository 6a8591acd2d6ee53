"""The keys of a node program."""

from __future__ import annotations

from zserve.security.identity import Security

from .options import NodeOptions

__all__ = ["open_security"]


def open_security(options: NodeOptions) -> Security | None:
    """The node's key and the keys that it knows; None where it has none.  Raises :class:`ServeError`."""
    if not options.key and not options.known_keys:
        return None
    return Security.load(options.key, options.known_keys)

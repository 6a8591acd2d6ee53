"""Who a node is: its id, the nonce of this start, and where it runs."""

from __future__ import annotations

import os
import secrets
import socket
import time

from zserve.security.identity import Security
from zserve.wire.messages import NodeInfo

__all__ = ["new_info", "wall_ms"]


def new_info(
    role: str, name: str = "", node: bytes | None = None, security: Security | None = None
) -> NodeInfo:
    """A node of *role*; *node* is its 16-byte id where it has a lasting one, *security* the key that the id shows."""
    node = node if node is not None else secrets.token_bytes(16)
    return NodeInfo(
        node=node if security is None else security.node_id(node),
        boot=secrets.token_bytes(8),
        role=role,
        name=name,
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def wall_ms() -> int:
    """Time of day, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000

"""Who may say what: the role table.

Two words are used for two things.  The *role of a key* is what the known-keys file allows its holder to be; the *role
of a peer* is what a process says in HELLO that it is.  A worker's key also covers what runs on its node: replicas, and
the handles that their code uses.
"""

from __future__ import annotations

from typing import Any

from ..wire.messages import (
    Answered,
    Call,
    Cancel,
    Chunk,
    Confirm,
    Confirmed,
    Consumed,
    Control,
    ControlReply,
    Demand,
    Doubt,
    Goodbye,
    Grant,
    Hello,
    Ping,
    Pull,
    Recall,
    Recalled,
    Records,
    Report,
    Request,
    Reset,
    Result,
    Return,
    Shutdown,
    View,
    ViewChange,
    Word,
)

__all__ = ["KEY_ROLES", "PUBLISHED", "READS", "may_be", "may_send"]

KEY_ROLES = ("router", "gateway", "worker", "caller", "operator")

_MAY_BE: dict[str, frozenset[str]] = {
    "router": frozenset(("router",)),
    "gateway": frozenset(("gateway",)),
    "worker": frozenset(("worker", "replica", "caller", "client")),
    "caller": frozenset(("caller", "client")),
    "operator": frozenset(("client",)),
}

_ANYONE = (Hello, Reset, Goodbye, Ping, Doubt, Word)
_CONFIG = (Records, View, ViewChange, Report, Confirm, Shutdown)
_ASKER = frozenset((*_ANYONE, Pull, Confirmed, Request, Cancel, Consumed))
_ANSWERS = frozenset((*_ANYONE, *_CONFIG, Result, Return, Chunk))

# To a router.  Records come from routers alone: whoever could hand them back after a loss of all routers could just as
# well invent them.
_TO_ROUTER: dict[str, frozenset[type]] = {
    "router": frozenset((*_ANYONE, *_CONFIG, Pull, Confirmed)),
    "gateway": _ASKER,
    "caller": _ASKER,
    "worker": frozenset((*_ANYONE, Pull, Confirmed, Report)),
    "replica": frozenset((*_ANYONE, Pull, Confirmed, Result, Answered, Return, Chunk, Grant, Recalled)),
    "client": frozenset((*_ANYONE, Control)),
}
_FROM_ROUTER: dict[str, frozenset[type]] = {
    "router": _TO_ROUTER["router"],
    "gateway": _ANSWERS,
    "caller": _ANSWERS,
    "worker": frozenset((*_ANYONE, *_CONFIG)),
    "replica": frozenset((*_ANYONE, *_CONFIG, Call, Cancel, Consumed, Demand, Recall)),
    "client": frozenset((*_ANYONE, ControlReply)),
}
_TO_GATEWAY: dict[str, frozenset[type]] = {"replica": frozenset((*_ANYONE, Result))}
_NOTHING: frozenset[type] = frozenset()

PUBLISHED: frozenset[type] = frozenset((Records, View, ViewChange, Report))
"""What routers publish."""

READS = frozenset(
    (
        "get_backend_config",
        "list_backends",
        "list_endpoints",
        "list_records",
        "stat",
        "status",
        "wait_backend",
        "wait_configured",
    )
)
"""The control calls that change nothing; all others are an operator's."""


def may_be(key_roles: frozenset[str], role: str) -> bool:
    """Whether the holder of a key with *key_roles* may say in HELLO that it is a *role*."""
    return any(role in _MAY_BE[key_role] for key_role in key_roles)


def may_send(sender: str, receiver: str) -> frozenset[Any]:
    """The message types that a *sender* may send to a *receiver*; both are roles of peers, of which one is a router, or
    a gateway to which a replica brings answers."""
    if receiver == "router":
        return _TO_ROUTER.get(sender, _NOTHING)
    if receiver == "gateway" and sender != "router":
        return _TO_GATEWAY.get(sender, _NOTHING)
    return _FROM_ROUTER.get(receiver, _NOTHING) if sender == "router" else _NOTHING

"""A caller is served by routers like a gateway, and is nobody otherwise."""

from __future__ import annotations

import random

import orjson

from zserve.cores.router import RouterCore
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import VERSION, Confirm, Control, ControlReply, Hello, NodeInfo, Request, Result

CALLER, CLIENT = b"caller-link", b"client-link"
BOOT = b"caller.."


def info(role: str) -> NodeInfo:
    name = role.encode()
    return NodeInfo(name.ljust(16, b"."), name.ljust(8, b".")[:8], role)


def router() -> RouterCore:
    core = RouterCore(ConfigSync(info("router"), lambda: 1), random.Random(7), lambda: 1)
    for peer, role in ((CALLER, "caller"), (CLIENT, "client")):
        core.link_up(peer, Hello(VERSION, VERSION, info(role)), 0.0)
    core.out.take()
    return core


def test_its_requests_are_answered() -> None:
    core = router()
    core.receive(CLIENT, [(Control(1, "create_endpoint", b'{"name": "e", "route": null}'), b"", b"")], 0.0)
    core.out.take()
    core.receive(CALLER, [(Request(BOOT + bytes(8), "e"), b"", b"")], 0.0)
    [(result, _, body)] = core.out.take()[CALLER]
    assert isinstance(result, Result)
    assert (result.status, body) == (503, b"endpoint 'e' has no backend; give it one with set_traffic")


def test_it_does_not_use_the_ids_of_others() -> None:
    """Replicas bring answers to whose boot nonce the id begins with."""
    core = router()
    core.receive(CLIENT, [(Control(1, "create_endpoint", b'{"name": "e", "route": null}'), b"", b"")], 0.0)
    core.out.take()
    requests = [Request(bytes(16), "e"), Request(BOOT + bytes(8), "e"), Request(b"another's" + bytes(7), "e")]
    core.receive(CALLER, [(request, b"", b"") for request in requests], 0.0)
    assert [result.id for result, _, _ in core.out.take()[CALLER]] == [BOOT + bytes(8)]
    assert (core.requests, core.misplaced) == (1, 2)


def test_no_write_waits_for_it_and_no_list_names_it() -> None:
    core = router()
    core.receive(CLIENT, [(Control(1, "create_endpoint", b'{"name": "e", "route": null}'), b"", b"")], 0.0)
    sent = core.out.take()
    [reply] = [message for message, _, _ in sent[CLIENT] if isinstance(message, ControlReply)]
    assert reply.ok
    assert not any(isinstance(message, Confirm) for message, _, _ in sent.get(CALLER, []))
    view = core.sync.membership.own_view()
    assert view is not None
    assert [member.role for member in view.members] == ["router"]
    core.receive(CLIENT, [(Control(2, "status", b"{}"), b"", b"")], 0.0)
    status = core.out.take()[CLIENT][0][0]
    assert "caller" not in str(orjson.loads(status.payload))


def test_it_makes_no_control_calls() -> None:
    core = router()
    core.receive(CALLER, [(Control(1, "create_endpoint", b'{"name": "e", "route": null}'), b"", b"")], 0.0)
    assert CALLER not in core.out.take()
    assert core.endpoints.get("e") is None

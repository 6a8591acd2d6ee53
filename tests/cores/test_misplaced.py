"""Without keys a peer's role is what it says; what that role does not say is dropped and counted all the same."""

from __future__ import annotations

from typing import Any

import pytest

from zserve.security.roles import may_send
from zserve.wire.messages import Message, Records, Request

from ..wire.samples import samples
from .test_router import CLIENT, GATEWAY, WORKER, Bench

LINKS = {"gateway": GATEWAY, "client": CLIENT, "worker": WORKER, "replica": b"replica-link-r1"}


def rejections(bench: Bench) -> int:
    return bench.router.misplaced + bench.router.sync.ignored


def wrong() -> list[tuple[str, Any]]:
    """Every role with every message that is not for it to send to a router."""
    return [(role, message) for role in LINKS for message in samples() if type(message) not in may_send(role, "router")]


def test_there_is_a_sample_of_each_message() -> None:
    assert {type(message) for message in samples()} == set(Message.__args__)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("role", "message"), wrong(), ids=_name)
def test_what_a_role_may_not_send_changes_nothing_and_is_counted(role: str, message: Any) -> None:
    bench = Bench()
    bench.serve("b")
    bench.replica("r1")
    key = bench.request(1)
    bench.router.out.take()
    digest, before = bench.router.sync.registry.digest(), rejections(bench)
    if hasattr(message, "id") and not isinstance(message, Request):
        message.id = key if isinstance(message.id, bytes) else message.id
    bench.tell(LINKS[role], message)
    assert rejections(bench) == before + 1
    assert bench.router.sync.registry.digest() == digest
    assert not bench.router.shutdown_reason
    assert bench.router.out.take() == {}
    assert len(bench.router.entries) == 1, "the request still waits for its answer"
    if isinstance(message, Records):
        assert bench.router.sync.registry.endpoint("forged") is None

"""The life of links, in events and literal times."""

from __future__ import annotations

import pytest

from zserve.channel.links import DEAD_AFTER_S, HELLO_TIMEOUT_S, Links
from zserve.wire.messages import VERSION, Goodbye, Grant, Hello, Ping, Reset

from .fakes import BOOT_A, BOOT_B, NODE_A, NODE_B, FakeCore, info

LINK = NODE_A + BOOT_A + b"0001"


def parcel(message: object) -> tuple[object, bytes, bytes]:
    return (message, b"", b"")


def hello_of_gateway() -> Hello:
    return Hello(VERSION, VERSION, info())


def hello_of_router() -> Hello:
    return Hello(VERSION, VERSION, info(NODE_B, BOOT_B, "router"))


def bound() -> tuple[Links, FakeCore]:
    core = FakeCore()
    return Links(core, info(NODE_B, BOOT_B, "router")), core


def dialled() -> tuple[Links, FakeCore]:
    core = FakeCore()
    links = Links(core, info())
    links.dialled(LINK, 0.0)
    return links, core


def sent(core: FakeCore, peer: bytes = LINK) -> list[type]:
    return [type(message) for message, _, _ in core.out.take().get(peer, [])]


def test_hello_both_ways_opens_a_link() -> None:
    links, core = bound()
    links.received(LINK, [parcel(hello_of_gateway())], 1.0)
    assert sent(core) == [Hello]
    assert core.events == [("up", LINK, NODE_A)]

    links, core = dialled()
    assert sent(core) == [Hello]
    links.received(LINK, [parcel(hello_of_router()), parcel(Grant(1, 1))], 1.0)
    assert core.events == [("up", LINK, NODE_B), ("receive", LINK, [Grant(1, 1)])]


def test_one_frame_is_for_those_who_understand_it() -> None:
    links, _ = bound()
    assert not links.takes_one_frame(LINK)  # nothing is known of it yet
    links.received(LINK, [parcel(hello_of_gateway())], 1.0)
    assert links.takes_one_frame(LINK)
    links, _ = bound()
    links.received(LINK, [parcel(Hello(2, 1, info()))], 1.0)
    assert not links.takes_one_frame(LINK)


def test_nothing_but_hello_is_accepted_from_an_unknown_peer() -> None:
    links, core = bound()
    links.received(LINK, [parcel(Grant(1, 1))], 1.0)
    assert sent(core) == [Reset]
    assert core.events == []
    links.received(LINK, [parcel(Grant(1, 1))], 1.5)
    assert sent(core) == [], "at most one RESET a second"
    links.received(LINK, [parcel(Grant(1, 1))], 2.1)
    assert sent(core) == [Reset]
    assert links.rejected == 3


def test_nothing_but_hello_is_accepted_on_a_dialled_link_that_is_not_open() -> None:
    links, core = dialled()
    links.received(LINK, [parcel(Grant(1, 1))], 1.0)
    assert core.events == []
    assert links.rejected == 1


def test_reset_makes_the_shell_dial_again() -> None:
    links, core = dialled()
    links.received(LINK, [parcel(hello_of_router())], 1.0)
    links.received(LINK, [parcel(Reset("who are you"))], 2.0)
    assert core.events[-1] == ("down", LINK, "reset by peer: who are you")
    assert links.dropped == [(LINK, "reset by peer: who are you", True)]


def test_goodbye_ends_a_link_after_what_came_before_it() -> None:
    links, core = bound()
    links.received(LINK, [parcel(hello_of_gateway())], 1.0)
    links.received(LINK, [parcel(Grant(1, 1)), parcel(Goodbye("done"))], 2.0)
    assert core.events[1:] == [("receive", LINK, [Grant(1, 1)]), ("down", LINK, "goodbye: done")]
    assert links.open_links() == []


@pytest.mark.parametrize(
    ("hello", "routing_id"),
    [
        (Hello(VERSION + 2, VERSION + 1, info()), LINK),
        (Hello(0, 0, info()), LINK),
        (Hello(VERSION, VERSION, info(b"short")), LINK),
        (Hello(VERSION, VERSION, info(NODE_B, BOOT_B)), LINK),
        (hello_of_gateway(), b"not the id of that node"),
        (hello_of_gateway(), NODE_A + BOOT_B + b"0001"),
    ],
    ids=["too new", "too old", "malformed id", "our own id", "foreign routing id", "foreign boot nonce"],
)
def test_a_hello_that_does_not_fit_is_answered_with_reset(hello: Hello, routing_id: bytes) -> None:
    links, core = bound()
    links.received(routing_id, [parcel(hello)], 1.0)
    assert sent(core, routing_id) == [Reset]
    assert core.events == []


def test_who_answers_a_dialled_link_must_be_a_router() -> None:
    links, core = dialled()
    links.received(LINK, [parcel(Hello(VERSION, VERSION, info(NODE_B, BOOT_B, "worker")))], 1.0)
    assert core.events == []
    assert links.dropped == [(LINK, "a gateway has no links with a worker", True)]


ROLES = ("router", "gateway", "caller", "worker", "replica", "client")


@pytest.mark.parametrize("dialler", ROLES)
@pytest.mark.parametrize("listener", ROLES)
def test_who_has_links_with_whom(dialler: str, listener: str) -> None:
    allowed = listener == "router" or (dialler, listener) == ("replica", "gateway")
    core = FakeCore()
    links = Links(core, info(NODE_B, BOOT_B, listener))
    links.received(LINK, [parcel(Hello(VERSION, VERSION, info(NODE_A, BOOT_A, dialler)))], 1.0)
    assert bool(core.events) is allowed
    core = FakeCore()
    links = Links(core, info(NODE_A, BOOT_A, dialler))
    links.dialled(LINK, 0.0)
    links.received(LINK, [parcel(Hello(VERSION, VERSION, info(NODE_B, BOOT_B, listener)))], 1.0)
    assert bool(core.events) is allowed
    assert links.linked_with_router() is (allowed and listener == "router")


def test_dialling_oneself_ends_it_for_good() -> None:
    links, _ = dialled()
    links.received(LINK, [parcel(Hello(VERSION, VERSION, info(role="router")))], 1.0)
    assert links.dropped == [(LINK, "own node id", False)]


def test_heartbeats_go_out_and_silence_ends_a_link() -> None:
    links, core = bound()
    links.received(LINK, [parcel(hello_of_gateway())], 0.0)
    core.out.take()
    for second in range(1, 6):
        links.tick(float(second))
        assert sent(core) == [Ping]
    links.tick(DEAD_AFTER_S + 0.9)
    assert core.events[-1][0] == "down"
    assert links.dropped[0][2] is False


def test_any_message_counts_as_a_heartbeat() -> None:
    links, _ = bound()
    links.received(LINK, [parcel(hello_of_gateway())], 0.0)
    for second in range(1, 20):
        links.received(LINK, [parcel(Grant(1, second))], second - 0.5)
        links.tick(float(second))
    assert links.dropped == []


def test_a_node_that_was_stopped_itself_forgives_its_peers() -> None:
    links, _ = bound()
    links.received(LINK, [parcel(hello_of_gateway())], 0.0)
    links.tick(1.0)
    links.tick(61.0)
    assert links.dropped == []
    for second in range(62, 68):
        links.tick(float(second))
    assert len(links.dropped) == 1


def test_a_connected_peer_has_to_answer_hello_in_time() -> None:
    links, _ = dialled()
    links.connected(LINK, 100.0)
    assert not links.unanswered(LINK, 100.0 + HELLO_TIMEOUT_S - 0.1)
    assert links.unanswered(LINK, 100.0 + HELLO_TIMEOUT_S + 0.1)


def test_goodbye_goes_behind_what_is_queued() -> None:
    links, core = dialled()
    links.received(LINK, [parcel(hello_of_router())], 1.0)
    core.out.take()
    core.out.send(LINK, Grant(1, 1))
    links.goodbye("bye", 2.0)
    assert sent(core) == [Grant, Goodbye]
    assert links.dropped == [(LINK, "bye", False)]


def test_a_link_that_never_opened_and_is_given_up_leaves_nothing() -> None:
    links, core = dialled()
    links.forget(LINK)
    links.received(LINK, [parcel(hello_of_router())], 1.0)
    assert core.events == []
    assert links.open_links() == []
    assert links.hello_of(LINK) is None
    assert not links.unanswered(LINK, 1000.0)
    links.forget(LINK)

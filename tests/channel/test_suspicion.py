"""What is made of a silence, and whom to ask about it."""

from __future__ import annotations

import pytest

from zserve.channel.suspicion import ENDED, RUNS, STOPPED, Suspicion, choose_witnesses
from zserve.wire.messages import Doubt, NodeInfo, Word


def node(letter: bytes, role: str = "router", host: str = "h1", pid_space: int = 1) -> NodeInfo:
    name = letter.decode()
    return NodeInfo(letter * 16, letter * 8, role, name, host=host, pid=ord(letter), pid_space=pid_space)


SUSPECT = node(b"S", "worker")


def word(heard_us: int = -1, process: str = "") -> Word:
    return Word(SUSPECT.node, SUSPECT.boot, heard_us, process)


def test_the_question_names_the_process() -> None:
    assert Suspicion(SUSPECT, 2.6).doubt == Doubt(b"S" * 16, b"S" * 8, "h1", 1, ord("S"))


def test_heard_elsewhere_since_refutes_and_gives_more_time() -> None:
    suspicion = Suspicion(SUSPECT, 2.6)
    suspicion.take(word(2_600_000), "by router a")
    assert (suspicion.refuted, suspicion.patience) == (False, 1.0), "not later than here"
    suspicion.take(word(2_599_999), "by router b")
    assert (suspicion.refuted, suspicion.patience) == (True, 2.0)
    assert suspicion.judge(True) == "it is heard by router b: the connection with it is at fault"
    suspicion.take(word(3_000_000), "by router b")
    assert not suspicion.refuted, "not heard there any more either"
    suspicion.take(word(10), "by router b")
    suspicion.take(word(-1), "by router b")
    assert not suspicion.refuted, "the link is gone there"


@pytest.mark.parametrize(
    ("process", "cause"),
    [
        (STOPPED, "its process 83 is stopped (SIGSTOP)"),
        (RUNS, "its process 83 runs, but its event loop is stalled"),
        (ENDED, "its process 83 has ended"),
        ("", "host h1 is not heard: it may be down or cut off"),
        ("nonsense", "host h1 is not heard: it may be down or cut off"),
    ],
)
def test_causes_are_told_apart(process: str, cause: str) -> None:
    suspicion = Suspicion(SUSPECT, 2.6)
    suspicion.take(word(process=process), "by worker w")
    assert suspicion.judge(False) == suspicion.cause == cause


def test_without_a_look_at_the_process_the_host_decides() -> None:
    suspicion = Suspicion(SUSPECT, 2.6)
    suspicion.take(word(-1), "by router a")
    assert suspicion.judge(True) == "it is not heard, but others on host h1 are"
    suspicion.take(word(9_000_000), "by router b")
    suspicion.take(word(8_000_000), "by router c")
    assert suspicion.judge(True) == "it is not heard, nor by router b, nor by router c, but others on host h1 are"
    assert suspicion.judge(False) == (
        "host h1 is not heard, nor by router b, nor by router c: it may be down or cut off"
    )


def test_one_on_the_machine_is_asked_and_routers_before_others() -> None:
    linked = [
        (b"1", node(b"G", "gateway", "h2")),
        (b"2", node(b"A", "router", "h2")),
        (b"3", SUSPECT),
        (b"4", node(b"A", "router", "h2")),
        (b"5", node(b"B", "router", "h3")),
        (b"6", node(b"N", "worker", "h1")),
        (b"7", node(b"C", "router", "h1")),
    ]
    assert choose_witnesses(SUSPECT, linked) == [b"6", b"2", b"5"]
    assert choose_witnesses(SUSPECT, linked[:3]) == [b"2", b"1"]


@pytest.mark.parametrize("other", [node(b"N", host="h2"), node(b"N", pid_space=2), node(b"N", pid_space=0)])
def test_a_container_beside_it_or_another_machine_is_no_neighbour(other: NodeInfo) -> None:
    assert choose_witnesses(SUSPECT, [(b"1", node(b"A", host="h2")), (b"2", other)]) == [b"1", b"2"]

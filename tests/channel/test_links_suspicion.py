"""Links that go silent: suspected, asked about, heard again or given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zserve.channel.links import DEAD_AFTER_S, PING_EVERY_S, Links
from zserve.channel.suspicion import REFUTED_FACTOR, RUNS, STOPPED, SUSPECT_AFTER_S
from zserve.wire.messages import VERSION, Doubt, Goodbye, Grant, Hello, NodeInfo, Ping, Word

from .fakes import FakeCore

OWN = NodeInfo(b"O" * 16, b"o" * 8, "router", "own", host="h1", pid=1, pid_space=7)


def nothing_seen(pid: int) -> str:
    return ""


class Node:
    """A router's links with nodes that are named by a letter, beating only for who is in :attr:`beating`."""

    def __init__(self, look: Callable[[int], str] = nothing_seen) -> None:
        self.core = FakeCore()
        self.links = Links(self.core, OWN, look=look)
        self.now = 0.0
        self.beating: set[bytes] = set()
        self.links.tick(0.0)

    def joins(
        self, letter: bytes, role: str = "gateway", host: str = "h2", pid_space: int = 8, version: int = VERSION
    ) -> bytes:
        info = NodeInfo(
            letter * 16, letter.lower() * 8, role, letter.decode(), host=host, pid=letter[0], pid_space=pid_space
        )
        peer = info.node + info.boot + b"0001"
        self.links.received(peer, [(Hello(version, 1, info), b"", b"")], self.now)
        self.beating.add(peer)
        self.core.events.clear()
        return peer

    def hears(self, peer: bytes, *messages: object) -> None:
        self.links.received(peer, [(message, b"", b"") for message in messages or (Ping(),)], self.now)

    def seconds(self, count: int, step_s: float = PING_EVERY_S) -> None:
        for _ in range(count):
            self.now += step_s
            for peer in sorted(self.beating):
                self.hears(peer)
            self.links.tick(self.now)

    @property
    def told(self) -> list[object]:
        """The causes that the core was told, and "down: reason"."""
        told: list[object] = []
        for kind, _, *more in self.core.events:
            if kind == "doubted":
                told.append(more[0])
            elif kind == "down":
                told.append(f"down: {more[0]}")
        self.core.events.clear()
        return told

    def sent(self, kind: type) -> list[tuple[bytes, object]]:
        return [(peer, parcels[0][0]) for peer, parcels in self.core.out.take().items() if type(parcels[0][0]) is kind]


CUT_OFF = "host h2 is not heard: it may be down or cut off"


def test_silence_is_suspected_at_half_time_and_death_names_the_cause() -> None:
    node = Node()
    peer = node.joins(b"G")
    node.beating.clear()
    node.seconds(2)
    assert node.told == []
    node.seconds(1)
    assert node.told == [CUT_OFF]
    assert node.links.suspects == {peer: CUT_OFF}
    node.seconds(2)
    assert node.told == []
    node.seconds(1)
    assert node.told == [f"down: silent for 6.0 s: {CUT_OFF}"]
    assert [alarming for alarming, _ in node.links.remarks] == [True, True]
    assert [text for _, text in node.links.remarks] == [
        f"gateway G is suspected, silent for 4.0 s: {CUT_OFF}",
        f"gateway G is given up, silent for 6.0 s: {CUT_OFF}",
    ]


@pytest.mark.parametrize("message", [Ping(), Grant(1, 1), Doubt(b"x", b"y"), Word(b"x", b"y")])
def test_the_first_sound_ends_a_suspicion_at_once(message: object) -> None:
    node = Node()
    peer = node.joins(b"G")
    node.beating.clear()
    node.seconds(4)
    assert node.told == [CUT_OFF]
    node.now += 0.1
    node.hears(peer, message)
    assert node.told == [""]
    assert node.links.suspects == {}
    assert node.links.remarks[-1] == (False, "gateway G is heard again, after 4.1 s")
    if isinstance(message, (Ping, Grant)):
        node.hears(peer, message)
        assert node.core.events == [("receive", peer, [message])], "what it says is delivered as before"


def test_what_a_suspect_says_is_delivered_behind_the_news_that_it_lives() -> None:
    node = Node()
    peer = node.joins(b"G")
    node.beating.clear()
    node.seconds(3)
    node.core.events.clear()
    node.hears(peer, Grant(1, 1), Grant(1, 2))
    assert node.core.events == [("doubted", peer, ""), ("receive", peer, [Grant(1, 1), Grant(1, 2)])]


def test_others_are_asked_and_their_word_is_judged() -> None:
    node = Node()
    suspect, router, old = node.joins(b"G"), node.joins(b"R", "router"), node.joins(b"Z", "router", version=1)
    client = node.joins(b"C", "client")
    node.beating -= {suspect}
    node.seconds(2)
    node.core.out.take()
    node.seconds(1)
    asked = node.sent(Doubt)
    assert asked == [(router, Doubt(b"G" * 16, b"g" * 8, "h2", 8, ord("G")))], "who knows the question, no clients"
    assert old not in dict(asked)
    assert client not in dict(asked)
    assert node.told == ["it is not heard, but others on host h2 are"]
    node.hears(router, Word(b"G" * 16, b"g" * 8, 3_500_000))
    assert node.told == ["it is not heard, nor by router R, but others on host h2 are"]
    node.hears(router, Word(b"G" * 16, b"X" * 8, 1000), Word(b"X" * 16, b"g" * 8, 1000))
    assert node.told == [], "another process, another node"
    node.hears(router, Word(b"G" * 16, b"g" * 8, 400_000))
    assert node.told == ["it is heard by router R: the connection with it is at fault"]
    node.seconds(1)
    assert node.links.health.score == 1, "a suspicion that was wrong speaks against the own ears"


def test_who_is_heard_elsewhere_gets_more_time() -> None:
    node = Node()
    node.joins(b"G")
    router = node.joins(b"R", "router")
    node.beating = {router}
    for _ in range(int(DEAD_AFTER_S * REFUTED_FACTOR)):
        node.seconds(1)
        node.hears(router, Word(b"G" * 16, b"g" * 8, 400_000))
    assert not any("down" in str(told) for told in node.told)
    node.seconds(5)
    assert "the connection with it is at fault" in str(node.told[-1])
    assert len(node.links.dropped) == 1


def test_a_neighbours_process_is_looked_at() -> None:
    looks: list[int] = []

    def look(pid: int) -> str:
        looks.append(pid)
        return STOPPED if pid == ord("G") else RUNS

    node = Node(look)
    node.joins(b"G", host="h1", pid_space=7)
    node.joins(b"S", host="h1", pid_space=7)
    node.joins(b"T", host="h1", pid_space=99)
    node.seconds(4)
    assert looks == [], "nobody is looked at without a reason"
    node.beating.clear()
    node.seconds(3)
    assert node.told == [
        "its process 71 is stopped (SIGSTOP)",
        "its process 83 runs, but its event loop is stalled",
        "it is not heard, but others on host h1 are",
    ]


def test_a_doubt_is_answered_at_once_with_what_is_known() -> None:
    node = Node(lambda pid: STOPPED)
    asker, heard = node.joins(b"R", "router"), node.joins(b"G")
    node.core.out.take()
    node.now = 0.25
    node.hears(heard)
    node.now = 0.5
    node.hears(asker, Grant(1, 1), Doubt(b"G" * 16, b"g" * 8, "h2", 8, 71))
    node.hears(asker, Doubt(b"N" * 16, b"n" * 8, "h1", 7, 99), Ping())
    assert [parcel[0] for parcel in node.core.out.take()[asker]] == [
        Word(b"N" * 16, b"n" * 8, -1, STOPPED),
        Word(b"G" * 16, b"g" * 8, 250_000),
    ]
    assert node.core.events[-2:] == [("receive", asker, [Grant(1, 1)]), ("receive", asker, [Ping()])]


def test_another_link_with_the_same_node_counts_as_hearing_it() -> None:
    node = Node()
    first = node.joins(b"R", "router")
    second = first[:24] + b"0002"
    node.links.received(second, [(Hello(VERSION, 1, NodeInfo(b"R" * 16, b"r" * 8, "router", "R")), b"", b"")], 0.0)
    node.beating = {second}
    node.core.events.clear()
    node.seconds(3)
    assert node.told == ["it is heard over another link: the connection with it is at fault"]


def test_a_leave_is_never_taken_for_a_death() -> None:
    node = Node()
    leaves, suspect_leaves = node.joins(b"G"), node.joins(b"W", "worker")
    node.beating.clear()
    node.hears(leaves, Ping(leaving=True))
    node.seconds(2)
    node.hears(leaves, Goodbye("shutting down"))
    assert node.told == ["down: goodbye: shutting down"]
    node.seconds(2)
    node.hears(suspect_leaves, Goodbye("shutting down"))
    assert node.told == [CUT_OFF, "", "down: goodbye: shutting down"]
    node.seconds(20)
    assert node.told == []
    assert not any(alarming for alarming, text in node.links.remarks if "given up" in text)


def test_a_lost_connection_says_when_the_process_is_gone() -> None:
    node = Node(lambda pid: "ended")
    near, far = node.joins(b"G", host="h1", pid_space=7), node.joins(b"F")
    node.links.lost(near, "unreachable", 1.0)
    node.links.lost(far, "unreachable", 1.0)
    assert node.told == ["down: unreachable: its process 71 has ended", "down: unreachable"]


def test_few_questions_when_everybody_is_silent() -> None:
    node = Node()
    for number in range(100):
        info = NodeInfo(b"%16d" % number, b"%8d" % number, "gateway", str(number))
        node.links.received(info.node + info.boot + b"0001", [(Hello(VERSION, 1, info), b"", b"")], 0.0)
    router = node.joins(b"R", "router")
    node.core.out.take()
    node.seconds(3)
    assert len(node.links.suspects) == 100
    doubts = [message for message, _, _ in node.core.out.take()[router] if isinstance(message, Doubt)]
    assert 0 < len(doubts) <= 32


# --- whatever happens ----------------------------------------------------------------------------------------------

STEP_S = 0.1
SILENCES = st.lists(st.tuples(st.floats(0.0, 8.0), st.floats(0.0, 8.0)), min_size=1, max_size=6)
"""(seconds of talking, seconds of silence behind them)"""
STALLS = st.dictionaries(st.integers(0, 300), st.floats(0.0, 30.0), max_size=4)
"""At which step this node's own loop stalls, and for how long."""


@example(silences=[(0.0, 2.0)], stalls={0: 1.0, 1: 1.0}, refute=False).via("stalls that end as a heartbeat is due")
@example(silences=[(0.0, 4.0)], stalls={0: 1.0, 1: 2.0}, refute=False)
@given(silences=SILENCES, stalls=STALLS, refute=st.booleans())
def test_silences_and_stalls(silences: list[tuple[float, float]], stalls: dict[int, float], refute: bool) -> None:
    """A peer that talks and is silent, and a node whose own loop stalls now and then.

    Steps of a tenth of a second; *silent_s* counts only time in which this node could have heard something."""
    node = Node()
    peer, router = node.joins(b"G"), node.joins(b"R", "router")
    node.beating.clear()
    node.links.watch(0.0)
    schedule = [talks for talk_s, silent_s in silences for talks, for_s in ((True, talk_s), (False, silent_s))
                for _ in range(int(for_s / STEP_S))]  # fmt: skip
    silent_s, ticked_at, suspected = 0.0, 0.0, False
    for number, talks in enumerate(schedule):
        node.now += STEP_S + stalls.get(number, 0.0)
        silent_s += STEP_S
        late = stalls.get(number, 0.0) > 0.0
        node.links.watch(node.now)
        if late or node.now - ticked_at >= PING_EVERY_S:  # the timer is what a loop that goes on turns to first
            ticked_at = node.now
            node.links.tick(node.now)
            if refute and node.links.suspects:
                node.hears(router, Word(b"G" * 16, b"g" * 8, 0))
        for told in node.told:
            if str(told).startswith("down"):
                assert suspected, "given up without a warning"
                assert silent_s > DEAD_AFTER_S - PING_EVERY_S
                return
            assert (told == "") is False
            assert silent_s > SUSPECT_AFTER_S - PING_EVERY_S
            suspected = True
        if talks:
            silent_s = 0.0
            node.hears(peer)
            assert node.told == ([""] if suspected else [])
            suspected = False
        node.hears(router)
        assert (peer in node.links.suspects) == suspected
        assert silent_s < 3 * REFUTED_FACTOR * DEAD_AFTER_S + 2 * PING_EVERY_S, "noticed in the end, whatever happens"
        assert 0 <= node.links.health.score <= 8

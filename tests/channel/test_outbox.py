from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zserve.channel.outbox import CHUNK, Outbox, Parcel

PEER = b"peer"


def parcels(count: int, what: str) -> list[Parcel]:
    return [(f"{what}{number}", b"", b"") for number in range(count)]


def flushed(outbox: Outbox) -> list[list[Parcel]]:
    sent: list[list[Parcel]] = []
    outbox.on_flush(lambda peer, chunk: sent.append(chunk))
    return sent


def test_a_full_chunk_leaves_in_mid_turn() -> None:
    outbox = Outbox()
    sent = flushed(outbox)
    for message, _, _ in parcels(CHUNK + 1, "m"):
        outbox.send(PEER, message)
    assert sent == [parcels(CHUNK, "m")]
    assert outbox.take() == {PEER: [(f"m{CHUNK}", b"", b"")]}


def test_what_is_sent_together_leaves_in_one_message_behind_what_was_there() -> None:
    outbox = Outbox()
    sent = flushed(outbox)
    outbox.send(PEER, "before")
    outbox.send_together(PEER, parcels(CHUNK, "m"))
    assert sent == [[("before", b"", b""), *parcels(CHUNK, "m")]]
    outbox.send_together(PEER, parcels(2, "n"))
    outbox.send(PEER, "after")
    assert outbox.take() == {PEER: [*parcels(2, "n"), ("after", b"", b"")]}


@given(st.lists(st.integers(1, 3 * CHUNK), max_size=6))
def test_all_at_once_is_as_one_by_one(counts: list[int]) -> None:
    one, other = Outbox(), Outbox()
    sent = flushed(one), flushed(other)
    for number, count in enumerate(counts):
        for message, _, _ in parcels(count, f"{number}."):
            one.send(PEER, message)
        other.send_all(PEER, parcels(count, f"{number}."))
    assert sent[0] == sent[1]
    assert one.take() == other.take()


def test_it_wakes_the_shell_once_however_it_is_filled() -> None:
    woken: list[int] = []
    outbox = Outbox(lambda: woken.append(1))
    outbox.send_together(PEER, parcels(2, "m"))
    outbox.send(PEER, "more")
    outbox.send_all(PEER, parcels(2, "n"))
    assert woken == [1]
    outbox.take()
    outbox.send_all(PEER, parcels(2, "n"))
    assert woken == [1, 1]


def test_what_goes_first_wakes_the_shell_and_stands_in_front() -> None:
    outbox = Outbox()
    woken: list[bool] = []
    outbox.on_wake(lambda: woken.append(True))
    outbox.send_first(PEER, "b")
    outbox.send(PEER, "c")
    outbox.send_first(PEER, "a")
    assert [message for message, _, _ in outbox.take()[PEER]] == ["a", "b", "c"]
    assert woken == [True]

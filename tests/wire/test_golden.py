"""The wire format, byte for byte: a change here breaks fabrics that are upgraded node by node."""

from __future__ import annotations

import pytest

from zserve.registry.record import Record
from zserve.wire import messages as m
from zserve.wire.codec import decode, encode

ID = bytes(range(16))
INFO = m.NodeInfo(b"n" * 16, b"b" * 8, "router", "r1", "tcp://h:1", "tcp://h:2", "", 4, {"gpu": 1.0}, 7, "host", True)

CASES: list[tuple[object, str]] = [
    (m.Reset("why"), "919202a3776879"),
    (m.Goodbye("bye"), "919203a3627965"),
    (m.Ping(b"\x01\x02", 3, -1, ["e"], True, b"\x07", 9), "919804c402010203ff91a165c3c4010709"),
    (m.Doubt(b"nn", b"bb", "h", 9, 7), "919605c4026e6ec4026262a1680907"),
    (m.Word(b"nn", b"bb", -1, "stopped"), "919506c4026e6ec4026262ffa773746f70706564"),
    (
        m.Request(ID, "digits", 100_000, 3, "s", "m", 1, 0, 0, 0),
        "919c0ac410000102030405060708090a0b0c0d0e0fa6646967697473ce000186a003a173a16d0100000000",
    ),
    (
        m.Call(ID, 7, 2, "digits", 5, 1, "m", 0, 0, 300),
        "919b0bc410000102030405060708090a0b0c0d0e0f0702a66469676974730501a16d0000cd012c",
    ),
    (
        m.Result(ID, 200, 2, 0, 10, 11, 12, -1, 0, 0),
        "919c0cc410000102030405060708090a0b0c0d0e0fccc802000a0b0cff0000c2",
    ),
    (m.Answered(ID, [5], [7], [300]), "919513c410000102030405060708090a0b0c0d0e0f9105910791cd012c"),
    (m.Chunk(ID, 3, m.STREAM_DONE), "91960fc410000102030405060708090a0b0c0d0e0f03010000"),
    (m.Consumed(ID, 65_792), "919310c410000102030405060708090a0b0c0d0e0fce00010100"),
    (m.Recall([ID], 7), "91931191c410000102030405060708090a0b0c0d0e0f07"),
    (m.Recalled([], [ID]), "9194129091c410000102030405060708090a0b0c0d0e0f90"),
    (m.Return([ID], "r"), "91930d91c410000102030405060708090a0b0c0d0e0fa172"),
    (m.Cancel([ID]), "91920e91c410000102030405060708090a0b0c0d0e0f"),
    (m.Grant(1, 300), "91931401cd012c"),
    (m.Demand(1, 2, 3, -1), "919515010203ff"),
    (m.Pull([("k", b"s")], True, False, [(b"n", b"b", 3)]), "91951f9192a16bc40173c3c29193c4016ec4016203"),
    (m.ViewChange(b"r", b"b", 3, 5, [], [b"n"]), "919724c40172c4016203059091c4016e"),
    (m.Confirm("k", b"s"), "919321a16bc40173"),
    (m.Confirmed("k", b"s"), "919322a16bc40173"),
    (m.Control(1, "status", b"{}"), "91942801a6737461747573c4027b7d"),
    (m.ControlReply(1, True, b"{}"), "91942901c3c4027b7d"),
    (m.Shutdown("x"), "91922aa178"),
]


@pytest.mark.parametrize(("message", "expected"), CASES, ids=lambda case: type(case).__name__)
def test_golden_bytes(message: object, expected: str) -> None:
    frames = encode([(message, b"", b"")])
    assert [frame.hex() for frame in frames] == [expected]
    assert decode(frames) == [(message, b"", b"")]


def test_golden_bytes_of_a_message_in_one_frame() -> None:
    parcels = [(m.Result(ID, 200, 2), b"h", b"body"), (m.Grant(1, 300), b"", b"")]
    (frame,) = encode(parcels, in_one=True)
    index = "929c0cc410000102030405060708090a0b0c0d0e0fccc80200000000ff0104c2931401cd012c"
    assert frame.hex() == "c126000000" + index + "68626f6479"
    assert decode([frame]) == parcels


def test_a_result_of_the_version_before_has_no_streams_field() -> None:
    old = bytes.fromhex("919b0cc410000102030405060708090a0b0c0d0e0fccc802000a0b0cff0000")
    assert decode([old]) == [(m.Result(ID, 200, 2, 0, 10, 11, 12, -1, 0, 0, False), b"", b"")]


def test_a_heartbeat_and_a_pull_of_the_version_before_are_understood() -> None:
    ping, pull = bytes.fromhex("919604c402010203ff91a165c3"), bytes.fromhex("91931f9192a16bc40173c3")
    assert decode([ping]) == [(m.Ping(b"\x01\x02", 3, -1, ["e"], True, b"", 0), b"", b"")]
    assert decode([pull]) == [(m.Pull([("k", b"s")], True, True, None), b"", b"")]


def test_a_request_of_the_version_before_has_no_age() -> None:
    old = bytes.fromhex("919b0ac410000102030405060708090a0b0c0d0e0fa6646967697473ce000186a003a173a16d01000000")
    assert decode([old]) == [(m.Request(ID, "digits", 100_000, 3, "s", "m", 1, 0, 0, 0, 0), b"", b"")]


def test_every_message_has_a_golden_case_or_a_round_trip() -> None:
    covered = {type(message) for message, _ in CASES}
    round_trips: list[object] = [
        m.Hello(1, 1, INFO, "b", "v"),
        m.View(b"r" * 16, b"b" * 8, 3, [INFO]),
        m.Report([m.ReplicaStatus(b"n" * 16, "b", 0, "v", "ready", 1, "", 2)]),
        m.Records([Record("endpoint/e", 1, 2, b"w" * 16, 1, b"", b"{}")], ["k"]),
    ]
    for message in round_trips:
        assert decode(encode([(message, b"", b"")])) == [(message, b"", b"")]
    covered |= {type(message) for message in round_trips}
    assert covered == set(m.Message.__args__)


def test_tags_are_unique_and_stable() -> None:
    tags = {kind.__name__: kind.__struct_config__.tag for kind in m.Message.__args__}
    assert len(set(tags.values())) == len(tags)
    assert tags == {
        "Hello": 1,
        "Reset": 2,
        "Goodbye": 3,
        "Ping": 4,
        "Doubt": 5,
        "Word": 6,
        "Request": 10,
        "Call": 11,
        "Result": 12,
        "Answered": 19,
        "Return": 13,
        "Cancel": 14,
        "Chunk": 15,
        "Consumed": 16,
        "Recall": 17,
        "Recalled": 18,
        "Grant": 20,
        "Demand": 21,
        "Records": 30,
        "Pull": 31,
        "View": 32,
        "Confirm": 33,
        "Confirmed": 34,
        "Report": 35,
        "ViewChange": 36,
        "Control": 40,
        "ControlReply": 41,
        "Shutdown": 42,
    }

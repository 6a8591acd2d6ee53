"""Frames to messages and back, and whatever else may arrive."""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.wire.codec import LARGE, WireError, decode, encode
from zserve.wire.messages import Call, Cancel, Demand, Grant, Ping, Request, Result

ID = b"i" * 16

bodies = st.one_of(st.binary(max_size=300), st.sampled_from([b"x" * (LARGE - 1), b"y" * LARGE, b"z" * (LARGE + 1)]))
parted = st.builds(
    lambda kind, head, body: (kind(), head, body),
    st.sampled_from(
        [
            lambda: Request(ID, "e"),
            lambda: Call(ID, 1, 1, "e"),
            lambda: Result(ID),
        ]
    ),
    st.binary(max_size=100),
    bodies,
)
plain = st.sampled_from([Ping(), Cancel([ID]), Grant(1, 2), Demand(1, 2, 3)]).map(lambda message: (message, b"", b""))


@given(st.lists(st.one_of(parted, plain), max_size=20), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_encoded_is_decoded(parcels: list[tuple[object, bytes, bytes]], in_one: bool) -> None:
    frames = encode(parcels, in_one=in_one)
    assert decode(frames) == parcels
    large = sum(len(body) >= LARGE for _, _, body in parcels)
    if in_one and not large:
        assert len(frames) == 1
    else:
        assert len(frames) <= 2 + large


def test_bodies_are_joined_in_one_frame_and_large_ones_stand_alone() -> None:
    large = b"L" * LARGE
    frames = encode(
        [(Result(ID), b"h1", b"b1"), (Result(ID), b"h2", large), (Grant(1, 1), b"", b""), (Result(ID), b"", b"b3")]
    )
    assert len(frames) == 3
    assert frames[1] == b"h1b1h2b3"
    assert frames[2] is large, "a large body is never copied"


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"\x91\x92\x63\x01"],
        encode([(Result(ID), b"", b"body")])[:1],
        [*encode([(Result(ID), b"", b"body")]), b"more"],
        [encode([(Result(ID), b"", b"body")])[0], b"bodybody"],
        [encode([(Result(ID), b"", b"x" * LARGE)])[0], b"", b"x" * (LARGE - 1)],
        [encode([(Result(ID), b"", b"x" * LARGE)])[0]],
        [encode([(Result(ID), b"", b"body")], in_one=True)[0][:-1]],
        [encode([(Result(ID), b"", b"body")], in_one=True)[0] + b"y"],
        [*encode([(Result(ID), b"", b"body")], in_one=True), b"more"],
        [b"\xc1\xff\xff\xff\xff\x90"],
    ],
    ids=[
        "nothing",
        "empty index",
        "not msgpack",
        "unknown message",
        "no parts",
        "a frame too many",
        "parts too long",
        "large body too short",
        "large body missing",
        "in one, parts too short",
        "in one, parts too long",
        "in one, and a frame more",
        "in one, index longer than the frame",
    ],
)
def test_malformed_frames_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(frames)


def test_negative_sizes_are_refused() -> None:
    index = msgspec.msgpack.encode([[12, ID, 200, 0, 0, 0, 0, 0, -1, -5, 5]])
    with pytest.raises(WireError, match=r"index: Expected `int` >= 0"):
        decode([index, b""])


def test_fields_of_a_later_version_are_ignored_and_missing_ones_have_defaults() -> None:
    later = msgspec.msgpack.encode([[20, 1, 300, "a field of tomorrow", {"and": 1}]])
    assert decode([later]) == [(Grant(1, 300), b"", b"")]
    earlier = msgspec.msgpack.encode([[4]])
    assert decode([earlier]) == [(Ping(), b"", b"")]


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_decoded_or_refused(frames: list[bytes]) -> None:
    try:
        parcels = decode(frames)
    except WireError:
        return
    assert isinstance(parcels, list)


def _valid(rng: random.Random) -> list[bytes]:
    kinds = [
        (
            Request(rng.randbytes(16), "endpoint", rng.randrange(-1, 10**9)),
            rng.randbytes(20),
            rng.randbytes(rng.randrange(60)),
        ),
        (Call(rng.randbytes(16), 1, 1, "e"), rng.randbytes(8), b""),
        (Result(rng.randbytes(16), 200, 2), b"", rng.randbytes(30)),
        (Ping(b"d" * 16, 4, -1, ["e"], False), b"", b""),
        (Cancel([rng.randbytes(16)]), b"", b""),
        (Result(rng.randbytes(16)), b"", b"x" * LARGE),
    ]
    return encode(rng.choices(kinds, k=rng.randrange(1, 5)), in_one=rng.random() < 0.5)


def _mutated(frames: list[bytes], rng: random.Random) -> list[bytes]:
    frames = list(frames)
    for _ in range(rng.randrange(1, 4)):
        number = rng.randrange(len(frames))
        frame = bytearray(frames[number][:4096])
        action = rng.randrange(6)
        if action == 0 and frame:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        elif action == 1:
            frame[rng.randrange(len(frame) + 1) :] = b""
        elif action == 2:
            frame += rng.randbytes(rng.randrange(20))
        elif action == 3 and frame:
            start = rng.randrange(len(frame))
            frame[start:start] = frame[start : start + 8]
        elif action == 4:
            frames.append(rng.randbytes(rng.randrange(40)))
        elif len(frames) > 1:
            del frames[number]
            continue
        frames[number] = bytes(frame)
    return frames


def test_no_byte_string_crashes_the_decoder() -> None:
    """100,000 random and mutated inputs; each is decoded into well-typed messages or refused with WireError."""
    seed = int(os.environ.get("ZSERVE_FUZZ_SEED", "20261121"))
    rng = random.Random(seed)
    refused = 0
    for number in range(100_000):
        if number % 4 == 0:
            frames = [rng.randbytes(rng.randrange(64)) for _ in range(rng.randrange(4))]
        else:
            frames = _mutated(_valid(rng), rng)
        try:
            for message, head, body in decode(frames):
                assert isinstance(message, msgspec.Struct)
                assert isinstance(head, bytes)
                assert isinstance(body, bytes)
        except WireError:
            refused += 1
    assert 50_000 < refused < 100_000, "mutations neither all refused nor hardly ever"

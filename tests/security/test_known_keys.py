from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.errors import ServeError
from zserve.security.known_keys import KnownKeys, known_line, owner_of, parse_known_keys
from zserve.security.roles import KEY_ROLES

ROUTER, WORKER = bytes(range(32)), bytes(range(32, 64))
GOOD = known_line(["router"], ROUTER, "r1") + "\n"


def test_a_file_is_read_back_as_it_was_written() -> None:
    known = parse_known_keys(
        "# comment\n\n" + GOOD + known_line(["worker", "caller"], WORKER, "gpu-box.example:1") + "   \r\n"
    )
    assert len(known) == 2
    assert known.routers == [ROUTER]
    key = known.get(WORKER)
    assert key is not None
    assert (key.roles, key.name, key.owner) == ({"worker", "caller"}, "gpu-box.example:1", owner_of(WORKER))
    assert known.get(bytes(32)) is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("router", "line 2: 1 words where there should be three"),
        (f"router {WORKER.hex()}", "line 2: 2 words"),
        (f"router {WORKER.hex()} two names", "line 2: 4 words"),
        (f"boss {WORKER.hex()} x", "line 2: unknown role 'boss'; there are: router, gateway"),
        (f"router, {WORKER.hex()} x", "line 2: unknown role ''"),
        (f"worker {WORKER.hex()[1:]} x", "line 2: the second word is not a public key"),
        (f"worker {'g' * 64} x", "line 2: the second word is not a public key"),
        (f"worker {WORKER.hex()} x\x1b[31m", "line 2: .* is not a name"),
        (f"worker {ROUTER.hex()} again", "line 2: the key of line 1 again"),
    ],
)
def test_one_bad_line_makes_the_file_unusable_and_is_named(line: str, complaint: str) -> None:
    with pytest.raises(ServeError, match=complaint):
        parse_known_keys(GOOD + line + "\n")


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n"])
def test_a_file_without_keys_is_no_reason_to_lock_everyone_out(text: str) -> None:
    with pytest.raises(ServeError, match="no key in it"):
        parse_known_keys(text)


def test_a_file_without_a_router_is_a_mistake() -> None:
    with pytest.raises(ServeError, match="none of the keys is a router's"):
        parse_known_keys(known_line(["worker"], WORKER, "w"))


@given(st.text(max_size=300))
def test_garbage_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        known = parse_known_keys(text)
    except ServeError:
        return
    assert len(known) > 0


@given(st.binary(max_size=120), st.integers(0, len(GOOD)))
def test_a_damaged_file_is_never_half_read(junk: bytes, at: int) -> None:
    """Whatever is spliced in: either all lines are understood, or none is taken."""
    text = GOOD[:at] + junk.decode("latin-1") + GOOD[at:]
    try:
        known = parse_known_keys(text)
    except ServeError:
        return
    lines = [line for line in text.splitlines() if line.split() and not line.split()[0].startswith("#")]
    assert len(known) == len(lines)


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=32, max_size=32),
            st.lists(st.sampled_from(KEY_ROLES), min_size=1, max_size=5, unique=True),
            st.from_regex(r"[A-Za-z0-9_.:@/+-]{1,100}", fullmatch=True),
        ),
        max_size=20,
        unique_by=lambda line: line[0],
    )
)
def test_every_line_that_keygen_can_write_is_read(lines: list[tuple[bytes, list[str], str]]) -> None:
    fixed = os.urandom(32)
    lines = [*lines, (fixed, ["router"], "r")]
    known: KnownKeys = parse_known_keys("\n".join(known_line(roles, key, name) for key, roles, name in lines))
    for public, roles, name in lines:
        key = known.get(public)
        assert key is not None
        assert (key.roles, key.name) == (set(roles), name)


@pytest.mark.parametrize("name", ["", "two words", "a" * 101, "new\nline", "ümlaut"])
def test_a_name_that_could_not_be_read_back_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        known_line(["worker"], WORKER, name)

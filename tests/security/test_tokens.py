from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.errors import ServeError
from zserve.security.tokens import new_token, parse_tokens, token_line

TOKEN = "zst_one"
TABLE = parse_tokens("# mine\n" + token_line(TOKEN, "ci") + "\n" + token_line("zst_two", "cd") + "\n")


def test_a_token_of_the_file_is_let_in() -> None:
    assert len(TABLE) == 2
    for shown in (b"Bearer zst_one", b"bearer zst_two", b"BEARER  zst_one "):
        assert TABLE.admits([(b"host", b"x"), (b"authorization", shown)]), shown


@pytest.mark.parametrize(
    "shown",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer zst_on",
        b"Bearer zst_onee",
        b"Bearer ZST_ONE",
        b"Basic zst_one",
        b"zst_one",
        b"Bearerzst_one",
        b"Bearer zst_one,zst_two",
        token_line(TOKEN, "ci").split()[0].encode(),
        b"Bearer " + token_line(TOKEN, "ci").split()[0].encode(),
    ],
)
def test_anything_else_is_not(shown: bytes) -> None:
    assert not TABLE.admits([(b"authorization", shown)])


def test_no_header_and_two_headers_are_not() -> None:
    assert not TABLE.admits([])
    assert not TABLE.admits([(b"authorization", b"Bearer zst_one"), (b"authorization", b"Bearer nonsense")])


@given(st.binary(max_size=200))
def test_garbage_in_the_header_is_not_let_in(shown: bytes) -> None:
    assert not TABLE.admits([(b"authorization", shown)])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no token in it"),
        ("zst_secret ci", "line 1: it does not begin with a SHA-256"),
        (token_line(TOKEN, "ci").upper(), "line 1: it does not begin with a SHA-256"),
        (token_line(TOKEN, "ci").split()[0], "line 1: behind the hash"),
        (token_line(TOKEN, "ci") + " more", "line 1: behind the hash"),
        (f"{token_line(TOKEN, 'a')}\n{token_line(TOKEN, 'b')}", "line 2: the token of line 1 again"),
    ],
)
def test_one_bad_line_makes_the_file_unusable(text: str, complaint: str) -> None:
    with pytest.raises(ServeError, match=complaint):
        parse_tokens(text)


def test_a_token_in_place_of_its_hash_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ServeError) as raised:
        parse_tokens("zst_secret ci")
    assert "zst_secret" not in str(raised.value)


@given(st.text(max_size=300))
def test_garbage_in_the_file_is_refused(text: str) -> None:
    try:
        table = parse_tokens(text)
    except ServeError:
        return
    assert len(table) > 0


def test_tokens_are_new_each_time_and_need_no_quoting() -> None:
    one, other = new_token(), new_token()
    assert one != other
    assert one.startswith("zst_")
    assert len(one) >= 40
    assert one.replace("_", "").replace("-", "").isalnum()

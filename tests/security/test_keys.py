from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from zserve.nodes.cli import run

from zserve.errors import ServeError
from zserve.security.identity import Security, from_environment
from zserve.security.keys import new_key_pair, read_key, write_private
from zserve.security.known_keys import known_line, owner_of, parse_known_keys
from zserve.security.tokens import parse_tokens

from .keys import needs_curve, replace, security_of, table

pytestmark = needs_curve


def keygen(path: Path, *arguments: str) -> int:
    return run(["keygen", str(path), *arguments])


def test_keygen_writes_a_private_file_and_prints_the_public_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu-box.key"
    before = os.umask(0)
    try:
        assert keygen(path, "--role", "router", "--role", "gateway") == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    out, err = capsys.readouterr()
    pair = read_key(path)
    assert out == known_line(["router", "gateway"], pair.public, "gpu-box") + "\n"
    assert pair.secret.hex() not in out + err
    known = parse_known_keys(out)
    assert known.routers == [pair.public]


def test_keygen_never_overwrites_a_key_and_shows_the_line_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.key"
    assert keygen(path, "--role", "router", "--name", "r1") == 0
    line = capsys.readouterr().out
    content = path.read_text()
    assert keygen(path, "--role", "router") == 1
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == content
    assert keygen(path, "--role", "router", "--name", "r1", "--show") == 0
    assert capsys.readouterr().out == line


def test_keygen_makes_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keygen", "--token", "--name", "ci"]) == 0
    out, err = capsys.readouterr()
    token = next(word for word in err.split() if word.startswith("zst_"))
    assert token not in out
    assert parse_tokens(out).admits([(b"authorization", b"Bearer " + token.encode())])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["keygen"], "name a FILE"),
        (["keygen", "--token"], "give the token a name"),
        (["keygen", "--token", "--name", "two words"], "is not a name"),
        (["keygen", "x.key", "--token", "--name", "a"], "--token goes with --name only"),
        (["keygen", "x.key", "--name", "two words"], "choose one with --name"),
        (["node", "--role", "router", "--key", __file__], "--key and --known-keys go together"),
        (["node", "--role", "gateway", "--join", "ipc://x", "--tls-key", __file__], "--tls-key needs --tls-cert"),
        (["node", "--role", "worker", "--join", "ipc://x", "--tokens", __file__], "--tokens is for a gateway"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_that_is_not_private_or_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    pair, other = new_key_pair(), new_key_pair()
    with pytest.raises(ServeError, match=r"cannot read the key file .*zserve keygen"):
        read_key(path)
    write_private(path, f'public = "{pair.public.hex()}"\nsecret = "{pair.secret.hex()}"\n')
    assert read_key(path) == pair
    assert pair.secret.hex() not in repr(read_key(path))
    path.chmod(0o640)
    with pytest.raises(ServeError, match="can be read by others"):
        read_key(path)
    path.chmod(0o600)
    for text in (
        "",
        "nonsense",
        f'public = "{other.public.hex()}"\nsecret = "{pair.secret.hex()}"\n',
        f'public = "{pair.public.hex()}"\nsecret = "{pair.secret.hex()[:-2]}"\n',
        f'public = "{pair.public.hex()}"\n',
    ):
        path.write_text(text)
        with pytest.raises(ServeError, match="is not a key file") as raised:
            read_key(path)
        assert pair.secret.hex() not in str(raised.value)


def test_node_ids_show_their_key() -> None:
    pair, other = new_key_pair(), new_key_pair()
    security = Security(pair, None)  # type: ignore[arg-type]
    drawn = os.urandom(16)
    node = security.node_id(drawn)
    assert len(node) == 16
    assert node[:8] == owner_of(pair.public) != owner_of(other.public)
    assert node[8:] == drawn[8:]


def test_keys_of_routers_are_tried_in_turn_and_the_right_one_is_remembered(tmp_path: Path) -> None:
    own, one, two = new_key_pair(), new_key_pair(), new_key_pair()
    path = tmp_path / "known"
    replace(path, table(("router", one, "r1"), ("router", two, "r2"), ("worker", own, "w")))
    security = security_of(own, path)
    first = security.router_key("tcp://a:1")
    security.not_found("tcp://a:1")
    second = security.router_key("tcp://a:1")
    assert {first, second} == {one.public, two.public}
    security.found("tcp://a:1", second)
    assert security.router_key("tcp://a:1") == second
    assert security.router_key("tcp://b:1") == first, "each address for itself"
    security.not_found("tcp://a:1")
    assert security.router_key("tcp://a:1") == first


def test_the_environment_counts_for_tcp_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSERVE_KEY", raising=False)
    monkeypatch.delenv("ZSERVE_KNOWN_KEYS", raising=False)
    assert from_environment(["tcp://127.0.0.1:1"]) is None
    monkeypatch.setenv("ZSERVE_KEY", str(tmp_path / "missing"))
    assert from_environment(["ipc:///tmp/x"]) is None
    with pytest.raises(ServeError, match="go together"):
        from_environment(["tcp://127.0.0.1:1"])
    monkeypatch.setenv("ZSERVE_KNOWN_KEYS", str(tmp_path / "missing"))
    with pytest.raises(ServeError, match="cannot read the key file"):
        from_environment(["ipc:///tmp/x", "tcp://127.0.0.1:1"])
    path = tmp_path / "a.key"
    pair = new_key_pair()
    write_private(path, f'public = "{pair.public.hex()}"\nsecret = "{pair.secret.hex()}"\n')
    replace(tmp_path / "known", table(("router", pair, "r")))
    monkeypatch.setenv("ZSERVE_KEY", str(path))
    monkeypatch.setenv("ZSERVE_KNOWN_KEYS", str(tmp_path / "known"))
    security = from_environment(["tcp://127.0.0.1:1"])
    assert security is not None
    assert security.pair == pair

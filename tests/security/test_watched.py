from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from zserve.errors import ServeError
from zserve.security.watched import Watched, Watcher


def parse(text: str) -> list[str]:
    if "bad" in text:
        raise ServeError("line 1: it is bad")
    if "bug" in text:
        raise RuntimeError("this parser has a mistake")
    return text.split()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    path.chmod(0o644)
    return path


def settle(file: Watched[list[str]]) -> bool:
    """Two looks, as a change has to last that long."""
    file.look()
    return file.look()


def test_a_change_is_taken_once_it_has_settled(path: Path) -> None:
    file = Watched(path, parse, "the file")
    assert file.value == ["one"]
    assert not file.look()
    path.write_text("one two")
    assert not file.look(), "it may be half written"
    assert file.look()
    assert file.value == ["one", "two"]
    assert not file.look()


@pytest.mark.parametrize("broken", ["bad", "bug", "\xff\xfe"])
def test_what_is_broken_changes_nothing_until_it_is_repaired(
    path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = Watched(path, parse, "the file")
    path.write_bytes(broken.encode("latin-1"))
    with caplog.at_level(logging.ERROR, "zserve.security"):
        for _ in range(5):
            assert not settle(file)
    assert file.value == ["one"]
    assert str(path) in file.error
    assert len(caplog.records) == 1, "said once, not twice a second"
    path.write_text("two")
    assert settle(file)
    assert (file.value, file.error) == (["two"], "")


def test_a_file_that_is_gone_is_no_empty_file(path: Path) -> None:
    file = Watched(path, parse, "the file")
    path.unlink()
    settle(file)
    assert file.value == ["one"]
    assert "cannot read the file" in file.error
    path.write_text("back")
    path.chmod(0o644)
    assert settle(file)
    assert file.value == ["back"]


def test_a_link_that_is_turned_is_followed(path: Path, tmp_path: Path) -> None:
    """How mounted secrets are renewed."""
    other = tmp_path / "other"
    other.write_text("two")
    other.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(path)
    file = Watched(link, parse, "the file")
    (tmp_path / "fresh").symlink_to(other)
    os.replace(tmp_path / "fresh", link)
    assert settle(file)
    assert file.value == ["two"]


def test_a_file_that_others_can_write_is_not_believed(path: Path) -> None:
    file = Watched(path, parse, "the file")
    path.write_text("mallory")
    path.chmod(0o666)
    assert not settle(file)
    assert file.value == ["one"]
    assert "can be written by others (mode 0666)" in file.error
    with pytest.raises(ServeError, match="can be written by others"):
        Watched(path, parse, "the file")


def test_the_first_reading_has_to_succeed(path: Path) -> None:
    path.write_text("bad")
    with pytest.raises(ServeError, match=f"the file {path}, line 1: it is bad"):
        Watched(path, parse, "the file")
    path.unlink()
    with pytest.raises(ServeError, match="cannot read the file"):
        Watched(path, parse, "the file")


def test_the_watcher_goes_on_whatever_its_listener_does(path: Path) -> None:
    file = Watched(path, parse, "the file")
    called = threading.Semaphore(0)

    def on_change() -> None:
        called.release()
        raise RuntimeError("a mistake in the listener")

    watcher = Watcher([file], on_change)
    try:
        for text in ("two", "three"):
            path.write_text(text)
            assert called.acquire(timeout=20.0), text
            assert file.value == [text]
    finally:
        watcher.stop()

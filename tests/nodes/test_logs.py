from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest
from zserve.nodes import logs


@pytest.fixture(autouse=True)
def _root_logger_stays() -> Iterator[None]:
    root = logging.getLogger()
    before, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.raiseExceptions = raising


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


def read_all(fd: int) -> str:
    data = b""
    while True:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return data.decode()
        if not chunk:
            return data.decode()
        data += chunk


log = logging.getLogger("zserve.test")


def test_json_lines_where_there_is_no_terminal(pipe: tuple[int, int]) -> None:
    logs.configure("info", name="router", fd=pipe[1])
    log.debug("not shown")
    log.info("two\nlines", extra={"backend": "b"})
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in read_all(pipe[0]).splitlines())
    assert first.pop("time") > 1e9
    assert first == {
        "level": "info", "node": "router", "logger": "zserve.test", "message": "two\nlines", "backend": "b"
    }  # fmt: skip
    assert second["level"] == "error"
    assert second["traceback"].endswith("ValueError: bad")


def test_readable_on_a_terminal(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure("debug", name="router", fd=pipe[1], terminal=True)
    log.info("hello %s", "world")
    log.warning("careful")
    first, second = read_all(pipe[0]).splitlines()
    assert first.endswith(" router hello world")
    assert second.endswith(" router warning: careful")


def test_colour_only_where_it_is_wanted(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    logs.configure(fd=pipe[1], terminal=True)
    log.error("red")
    assert "\x1b[31m" in read_all(pipe[0])


def test_a_full_target_loses_lines_but_never_waits_and_says_so_later(pipe: tuple[int, int]) -> None:
    handler = logs.configure(fd=pipe[1])
    for number in range(2000):  # far more than a pipe holds; would hang if it waited
        log.info("%d %s", number, "x" * 200)
    lost = handler.dropped
    assert lost > 0
    before = [json.loads(line)["message"].split()[0] for line in read_all(pipe[0]).splitlines()]
    assert before == [str(number) for number in range(2000 - lost)]
    log.info("again")
    after = [json.loads(line)["message"] for line in read_all(pipe[0]).splitlines()]
    assert after == [f"{lost} log lines were dropped because the log target did not take them", "again"]


def test_a_closed_target_does_not_raise(pipe: tuple[int, int]) -> None:
    handler = logs.configure(fd=pipe[1])
    os.close(pipe[0])
    log.info("nobody reads this")
    assert handler.dropped == 1


def test_a_record_that_cannot_be_formatted_does_not_raise(pipe: tuple[int, int]) -> None:
    handler = logs.configure(fd=pipe[1])
    log.info("%d", "not a number")
    assert handler.dropped == 1


def test_a_huge_line_is_cut(pipe: tuple[int, int]) -> None:
    logs.configure(fd=pipe[1], terminal=True)
    log.info("x" * 1_000_000)
    text = read_all(pipe[0])
    assert len(text) < logs.MAX_LINE_BYTES + 100
    assert text.endswith(" bytes)\n")


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'; the levels are: debug, info"):
        logs.configure("loud")


def test_configuring_twice_leaves_one_handler(pipe: tuple[int, int]) -> None:
    logs.configure(fd=pipe[1])
    logs.configure(fd=pipe[1])
    log.info("once")
    assert len(read_all(pipe[0]).splitlines()) == 1

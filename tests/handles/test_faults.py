"""Exceptions that cross the fabric."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import NotFound

from zserve.errors import Overloaded, RemoteError
from zserve.handles.faults import RemoteTraceback, pack_fault, unpack_fault
from zserve.handles.values import Packer

from .shapes import CodeError, CountedError, Unknown


def sent(error: BaseException, trace: str = "Traceback: there") -> BaseException:
    skeleton, body = pack_fault(error, trace)
    return unpack_fault(skeleton, bytes(body))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 3),
        KeyError("name"),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(5),
        json.JSONDecodeError("Expecting value", "doc", 2),
        CountedError("x"),
        ZeroDivisionError(),
        ModuleNotFoundError("no x", name="x", path="y"),
        Exception({"a": (1, {2})}),
    ],
    ids=repr,
)
def test_an_exception_is_raised_as_what_it_was(error: Exception) -> None:
    found = sent(error)
    assert type(found) is type(error)
    assert (found.args, str(found), repr(found)) == (error.args, str(error), repr(error))
    assert isinstance(found.__cause__, RemoteTraceback)
    assert "Traceback: there" in "".join(traceback.format_exception(found))


def test_attributes_travel_and_no_constructor_runs() -> None:
    error = CodeError(7, hint="look there")
    error.add_note("a note")
    found = sent(error)
    assert isinstance(found, CodeError)
    assert (found.code, found.hint, str(found), found.__notes__) == (7, "look there", "code 7", ["a note"])
    CountedError.made = 0
    assert isinstance(sent(CountedError("x")), CountedError)
    assert CountedError.made == 1, "the class's own __init__ ran once, where the exception was raised"


def test_an_error_of_the_fabric_and_one_of_werkzeug() -> None:
    overloaded = Overloaded("full")
    overloaded.retry_after_s = 1.5
    found = sent(overloaded)
    assert isinstance(found, Overloaded)
    assert found.retry_after_s == 1.5
    missing = sent(NotFound("no such thing"))
    assert isinstance(missing, NotFound)
    assert missing.description == "no such thing"


def test_a_class_that_is_not_there() -> None:
    class LocalError(Exception):
        pass

    found = sent(LocalError("some text"), "the trace")
    assert isinstance(found, RemoteError)
    assert found.type_name.endswith("LocalError")
    assert str(found).endswith("LocalError: some text")
    assert found.traceback == "the trace"


def test_arguments_that_cannot_be_sent() -> None:
    found = sent(ValueError(Unknown()))
    assert isinstance(found, RemoteError)
    assert "Unknown" in str(found)
    error = CodeError(3)
    error.hint = Unknown()  # type: ignore[assignment]
    found = sent(error)
    assert isinstance(found, CodeError)
    assert not hasattr(found, "code"), "attributes travel all or not at all"


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [UnreadableError("x"), ValueError("\ud800"), SystemExit(3), KeyboardInterrupt()])
def test_odd_exceptions_are_still_answers(error: BaseException) -> None:
    found = sent(error, "\ud800")
    assert isinstance(found, Exception)
    assert found.args


@pytest.mark.parametrize(
    "fault",
    [
        {"module": "os", "class": "system", "text": "", "traceback": "", "args": ("true",)},
        {"module": "builtins", "class": "SystemExit", "text": "", "traceback": "", "args": (1,)},
        {"module": "builtins", "class": "int", "text": "", "traceback": "", "args": ("1",)},
        {"module": "builtins", "class": "OSError", "text": "", "traceback": "", "args": 5},
        {"module": "antigravity", "class": "X", "text": "", "traceback": "", "args": ()},
        {"module": "builtins", "class": "UnicodeDecodeError", "text": "", "traceback": "", "args": (1,)},
        {"module": 1, "class": "X", "text": "", "traceback": "", "args": ()},
        {},
        [],
        None,
    ],
)
def test_hostile_faults_are_remote_errors(fault: Any) -> None:
    packer = Packer()
    [skeleton], body = packer.finish([packer.pack(fault, "x")])
    assert type(unpack_fault(skeleton, body)) is RemoteError


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_an_exception(content: bytes) -> None:
    assert isinstance(unpack_fault(content, b""), RemoteError)

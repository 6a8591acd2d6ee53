"""An exception of a backend, as it is raised again where the handle was called.

It travels as the name of its class, its arguments and attributes as far as they can be sent, its text and its
traceback.  There it is made anew from the class of that name if there is one, without running the class's own
``__init__``, and else it is a :class:`~zserve.errors.RemoteError`.
"""

from __future__ import annotations

from typing import Any

from ..errors import RemoteError
from .named import find_class
from .values import NotDecodable, Packer, unpack

__all__ = ["RemoteTraceback", "pack_fault", "unpack_fault"]

_MAX_TEXT = 16 * 1024


class RemoteTraceback(Exception):
    """The cause of an exception that came from a backend; its text is the traceback there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}" if self.text else ""


def pack_fault(error: BaseException, traceback: str) -> tuple[bytes, Any]:
    """(skeleton, body) of *error*; *traceback* is the text to show, "" for none."""
    kind = type(error)
    fault: dict[str, Any] = {
        "module": kind.__module__,
        "class": kind.__qualname__,
        "text": _text(error),
        "traceback": traceback,
    }
    args, state = _reduced(error)
    for name, value in (("args", args), ("state", state)):
        packer = Packer()
        try:
            skeleton = packer.pack(value, name)
        except Exception:
            if name == "args":
                break  # without its arguments it is not what it was
            continue
        if not packer.waiting:
            fault[name] = value
    packer = Packer()
    try:
        skeletons, body = packer.finish([packer.pack(_clean(fault), "the exception")])
    except Exception:  # a name or a text that is not valid Unicode
        fault = {name: ascii(fault[name]) for name in ("module", "class", "text", "traceback")}
        skeletons, body = Packer().finish([Packer().pack(fault, "the exception")])
    [skeleton] = skeletons
    return skeleton, body


def _builtin(kind: type) -> Any:
    """The part of an exception class that Python itself knows."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _reduced(error: BaseException) -> tuple[Any, Any]:
    """(arguments, attributes) of *error* as Python sees them, whatever the class says about its own copying."""
    _, args, *state = _builtin(type(error)).__reduce__(error)
    return args, (state[0] if state else None) or {}


def _clean(fault: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode(errors="replace").decode() if type(value) is str else value for name, value in fault.items()
    }


def unpack_fault(skeleton: bytes, body: bytes) -> BaseException:
    """The exception to raise.  Never raises."""
    try:
        fault = unpack(skeleton, body)
        texts = [fault[name] for name in ("module", "class", "text", "traceback")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("not text")
    except NotDecodable as error:
        return RemoteError(f"the backend raised an exception that cannot be read here: {error}")
    except (KeyError, TypeError):
        return RemoteError("the backend raised an exception that cannot be read here")
    module, name, text, trace = texts
    made = _remade(module, name, fault)
    if made is None:
        remote = RemoteError(f"{module}.{name}: {text}" if module != "builtins" else f"{name}: {text}")
        remote.type_name = f"{module}.{name}"
        remote.traceback = trace
        made = remote
    made.__cause__ = RemoteTraceback(trace)
    return made


def _remade(module: str, name: str, fault: dict[str, Any]) -> Exception | None:
    """The exception as an instance of its own class, if that can be done."""
    args, state = fault.get("args"), fault.get("state", {})
    if not isinstance(args, tuple) or not isinstance(state, dict):
        return None
    try:
        kind = find_class(module, name)
        if not issubclass(kind, Exception):
            return None
        # The part that Python itself knows is set up from the arguments; what the class adds came as attributes.
        builtin = _builtin(kind)
        made: Exception = builtin.__new__(kind, *args)
        builtin.__init__(made, *args)
        for key, value in state.items():
            member: Any = getattr(builtin, key, None)
            if hasattr(member, "__set__"):
                member.__set__(made, value)
            else:
                made.__dict__[key] = value
    except Exception:
        return None
    return made


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except Exception as second:
        return f"(its text cannot be read: {type(second).__name__})"

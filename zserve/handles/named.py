"""Classes by name: those of registered types, and those that both sides can import.

Nothing that was received is unpickled.  A class is *named* by its module and its qualified name and looked up here; so
a peer can at most have a module imported that is installed anyway, and of the standard library not even that.
"""

from __future__ import annotations

import datetime
import decimal
import importlib
import re
import sys
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

__all__ = ["Registered", "class_name", "find_class", "importable_name", "register_type", "registered", "registered_as"]

T = TypeVar("T")

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_MAX_NAME = 500
_SENT_ANYWAY: frozenset[type] = frozenset(
    (
        type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal,
    )
)  # fmt: skip


class Registered(NamedTuple):
    """A type that the user has said how to send."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_types: dict[type, Registered] = {}
_names: dict[str, Registered] = {}


def register_type(cls: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let instances of *cls* travel as arguments and results of handles.

    *encode* turns an instance into something that can be sent (a dict, bytes, an array, ...), *decode* turns that back.
    Both sides need the registration, so put it at the top level of a module that both import, such as the one that
    defines the class.  It counts for exactly this class, not for subclasses; a repeat replaces the one before.

    Raises TypeError when *cls* is no class or the functions cannot be called, and ValueError for a type that is sent as
    it is.

    >>> import fractions
    >>> import zserve as serve
    >>> serve.register_type(fractions.Fraction, str, fractions.Fraction)
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls must be a class, not {cls!r}")
    for name, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise TypeError(f"{name} must be a function, not {function!r}")
    if cls in _SENT_ANYWAY:
        raise ValueError(f"cls: {cls.__qualname__} is sent as it is; only types of your own can be registered")
    known = Registered(class_name(cls), encode, decode)
    _types[cls] = _names[known.name] = known


def registered(cls: type) -> Registered | None:
    """How *cls* is sent, if the user has said so."""
    return _types.get(cls)


def registered_as(name: str) -> Registered:
    """The registered type of that name.  Raises LookupError, saying what to do."""
    known = _names.get(name)
    if known is None:
        # The module that defines a class is where its registration usually stands.
        module, _, _ = name.partition(":")
        if module not in sys.modules and _may_import(module):
            try:
                importlib.import_module(module)
            except Exception:
                pass
            known = _names.get(name)
    if known is None:
        raise LookupError(
            f"the type {name[:_MAX_NAME]!r} is not registered in this process; call serve.register_type at the top "
            f"level of a module that both sides import"
        )
    return known


def class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def importable_name(cls: type) -> tuple[str, str] | None:
    """(module, qualified name) under which another process finds *cls*; None if it does not."""
    module_name, qualname = cls.__module__, cls.__qualname__
    if module_name == "__main__" or _lookup(sys.modules.get(module_name), qualname) is not cls:
        return None
    return module_name, qualname


def find_class(module_name: str, qualname: str) -> type:
    """The class of that name.  Raises LookupError when there is none, or none that may be looked for."""
    if max(len(module_name), len(qualname)) > _MAX_NAME or not _DOTTED.fullmatch(qualname):
        raise LookupError(f"{module_name[:_MAX_NAME]!r} has no class {qualname[:_MAX_NAME]!r}")
    module = sys.modules.get(module_name)
    if module is None:
        if not _may_import(module_name):
            raise LookupError(f"the module {module_name[:_MAX_NAME]!r} is not loaded here")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise LookupError(f"the module {module_name!r} cannot be imported here: {error}") from None
    found = _lookup(module, qualname)
    if not isinstance(found, type):
        raise LookupError(f"the module {module_name!r} has no class {qualname!r} here")
    return found


def _may_import(module_name: str) -> bool:
    """Not of the standard library: what of it defines a class that somebody uses is loaded."""
    if len(module_name) > _MAX_NAME or not _DOTTED.fullmatch(module_name):
        return False
    return module_name.partition(".")[0] not in sys.stdlib_module_names and module_name != "__main__"


def _lookup(found: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        if found is None or part.startswith("__"):
            return None
        found = getattr(found, part, None)
    # What @serve.route put in its place.
    return getattr(found, "__zserve_target__", found) if not isinstance(found, type) else found

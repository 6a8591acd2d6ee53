"""What can be called on a backend, and how: its own function, its instance, or a public method by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["Callee", "Callees", "accepts_batch"]


def accepts_batch(target: Any) -> bool:
    """Whether ``@accept_batch`` marked *target*: a function, a class, or the ``__call__`` of a class."""
    if getattr(target, "__zserve_accept_batch__", False) is True:
        return True
    if inspect.isclass(target):
        return getattr(getattr(target, "__call__", None), "__zserve_accept_batch__", False) is True  # noqa: B004
    return False


class Callee:
    """One callable of the backend.

    wants_request: it has a required positional parameter, whose name is *first*.  keywords: the names that it takes
    as keywords, that one included; None for any (``**kwargs``).  plain: it takes nothing but the request.  batch: it is
    given lists.  asynchronous: it has to run on the event loop.
    """

    __slots__ = ("asynchronous", "batch", "first", "first_key", "function", "keywords", "plain", "wants_request")

    def __init__(self, function: Callable[..., Any], *, batch: bool) -> None:
        self.function = function
        self.batch = batch
        self.asynchronous = _is_asynchronous(function)
        self.wants_request = True
        self.first = ""
        self.first_key = b""
        self.plain = True
        self.keywords: frozenset[str] | None = frozenset()
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # a builtin that does not tell: a request, and nothing else
            return
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = bool(positional) and positional[0].default is inspect.Parameter.empty
        self.wants_request = required
        if required and positional[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            self.first = positional[0].name
            self.first_key = self.first.encode()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            self.keywords = None
        else:
            named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            self.keywords = frozenset(p.name for p in parameters if p.kind in named)
        self.plain = self.keywords is not None and self.keywords <= {self.first}


HOOKS = frozenset(("check_health", "close", "reconfigure"))
"""Methods that zserve itself calls; clients can not."""


def _is_asynchronous(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        function = getattr(type(function), "__call__", function)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


class Callees:
    """The callables of one backend by method name; "" is the function or instance itself."""

    def __init__(self, target: Any, *, is_class: bool, batch: bool) -> None:
        """*target*: the function, or the instance of the class."""
        self._target = target
        self._is_class = is_class
        self._batch = batch
        self._known: dict[str, Callee] = {}
        if not is_class or callable(target):
            self._known[""] = Callee(target, batch=batch)

    def get(self, method: str) -> Callee | None:
        """The callable for *method*; None when there is none that may be called: unknown, private, not a method."""
        callee = self._known.get(method)
        if callee is not None:
            return callee
        if not method or not self._is_class or not _is_public_method(type(self._target), method):
            return None
        function = getattr(self._target, method)
        batch = getattr(function, "__zserve_accept_batch__", self._batch) is True
        callee = self._known[method] = Callee(function, batch=batch)
        return callee

    def public(self) -> list[str]:
        """The names that may be called."""
        if not self._is_class:
            return []
        return sorted(name for name in dir(type(self._target)) if _is_public_method(type(self._target), name))

    def any_asynchronous(self) -> bool:
        """Whether the call without a method name has to run on the event loop; if there is no such call, any method."""
        main = self._known.get("")
        if main is not None:
            return main.asynchronous
        return any(callee is not None and callee.asynchronous for callee in map(self.get, self.public()))

    def mixed(self) -> bool:
        """Whether some of what can be called is sync and some is not."""
        callees = [callee for callee in map(self.get, ["", *self.public()]) if callee is not None]
        return len({callee.asynchronous for callee in callees}) > 1

    def any_batch(self) -> bool:
        """Whether the backend or one of its methods takes lists."""
        return self._batch or any(callee is not None and callee.batch for callee in map(self.get, self.public()))


def _is_public_method(owner: type, name: str) -> bool:
    """A function, class method or static method of the class itself; no property is evaluated to find out."""
    if name.startswith("_") or not name.isidentifier() or name in HOOKS:
        return False
    found = inspect.getattr_static(owner, name, None)
    if found is None or inspect.isclass(found) or isinstance(found, (property, functools.cached_property)):
        return False
    return isinstance(found, (classmethod, staticmethod)) or callable(found)

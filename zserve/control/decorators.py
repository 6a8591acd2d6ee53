"""``@serve.route`` and ``@serve.accept_batch``.

They compose in either order, and neither starts anything by itself: ``@route`` declares (see
:mod:`zserve.control.declarations`), ``@accept_batch`` marks.  What ``@route`` returns can be called, subclassed and
pickled like what it was put on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import ServeError
from .checks import check_callable, check_methods, check_name, check_route
from .code import BATCHABLE, unwrap
from .declarations import BackendSpec, Declaration, check_batching, declare

__all__ = ["Routed", "accept_batch", "route"]

T = TypeVar("T", bound=Callable[..., Any])


def route(
    path: str, methods: Sequence[str] = ("GET",), *, name: str | None = None, config: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., Any]], Routed]:
    """Serve the function or class below at *path*.

    It becomes an endpoint and a backend, both with its name: served by ``zserve run module``, or at once when
    ``serve.init()`` has been called.

    path: begins with "/"; ``{name}``, ``{n:int}`` and ``{rest:path}`` stand for variable parts.
    methods: the HTTP methods that it answers.
    name: of the endpoint and the backend, if not that of the function.
    config: settings of the backend.

    Raises TypeError and ValueError for bad arguments, naming them.

    >>> import zserve as serve
    >>> @serve.route("/hello")
    ... def hello():
    ...     return "hello"
    >>> hello()
    'hello'
    """
    check_route(path)
    if path is None:
        raise TypeError("path must be a string; for an endpoint without one use serve.declare_endpoint")
    checked = check_methods(methods)
    if name is not None:
        check_name("name", name)
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict, not {type(config).__name__}: {config!r}")

    def decorate(target: Callable[..., Any]) -> Routed:
        routed = target if isinstance(target, Routed) else Routed(check_callable("route", target), name, config)
        routed._declare(path, checked)
        return routed

    return decorate


def accept_batch(target: T) -> T:
    """Have the function, or the instances of the class, below called with a *list* of requests.

    It returns a list of the same length.  An item that is an Exception fails that request alone, one that is raised
    fails the batch.  How large batches become is the backend's ``max_batch_size``.

    >>> import zserve as serve
    >>> @serve.route("/double", config={"max_batch_size": 8})
    ... @serve.accept_batch
    ... def double(requests):
    ...     return [2 * int(request.args["n"]) for request in requests]
    """
    if not callable(target):
        raise TypeError(f"accept_batch is for a function or a class, not {target!r}")
    setattr(unwrap(target), BATCHABLE, True)
    if isinstance(target, Routed):
        target._changed_code()
    return target


class Routed:
    """A function or class with a route.  Call it as before; the attributes of the original are still there."""

    def __init__(self, target: Callable[..., Any], name: str | None, config: Mapping[str, Any] | None) -> None:
        self.__zserve_target__ = target
        self.__zserve_declarations__: list[Declaration] = []
        self.__wrapped__ = target
        self.__doc__ = getattr(target, "__doc__", None)
        self.__module__ = getattr(target, "__module__", "__main__")
        self.__name__ = getattr(target, "__name__", type(target).__name__)
        self.__qualname__ = getattr(target, "__qualname__", self.__name__)
        self._name = check_name("name", name if name is not None else self.__name__)
        self._spec = BackendSpec(target, config=config)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__zserve_target__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "__zserve_target__":  # not set yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.__zserve_target__, name)

    def __repr__(self) -> str:
        paths = ", ".join(str(declaration.route) for declaration in self.__zserve_declarations__)
        return f"<{self._name!r} at {paths}>"

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.__zserve_target__,)

    def __instancecheck__(self, instance: object) -> bool:
        target = self.__zserve_target__
        return isinstance(target, type) and isinstance(instance, target)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self.__module__ != "__main__" and "<locals>" not in self.__qualname__:
            return self.__qualname__  # found again by its name
        return (_same, (self.__zserve_target__,))

    # --- settings -----------------------------------------------------------------------------------------------------

    def set_max_batch_size(self, size: int) -> None:
        """Let batches grow to *size* requests.  Raises ValueError without ``@serve.accept_batch``."""
        self._configure({"max_batch_size": size})

    def scale(self, replicas: int) -> None:
        """Have *replicas* processes run it."""
        self._configure({"num_replicas": replicas})

    @property
    def handle(self) -> Any:
        """A handle, to call it without HTTP.  Raises NotInitialized before ``serve.init()``."""
        from . import api

        get_handle = getattr(api, "get_handle", None)
        if get_handle is None:
            raise ServeError(f"handles are not part of this version of zserve; call {self._name!r} over HTTP")
        return get_handle(self.__zserve_declarations__[0].name)

    def _configure(self, settings: Mapping[str, Any]) -> None:
        from ..config import parse_backend_config

        parse_backend_config(settings)
        check_batching(self._name, self.__zserve_target__, settings)
        control = _live()
        if control is not None and self._name in control.list_backends():
            control.update_backend_config(self._name, settings)
        self._spec.config.update(settings)

    def _declare(self, path: str, methods: Sequence[str]) -> None:
        declarations = self.__zserve_declarations__
        # A second @route on the same function: another endpoint in front of the same backend.
        name = self._name if not declarations else f"{self._name}:{path}"
        declaration = Declaration(name, path, methods, {self._name: self._spec}, None, self.__module__)
        declarations.append(declaration)
        declare(declaration)

    def _changed_code(self) -> None:
        """``@accept_batch`` came above ``@route``: what runs already was started without it."""
        control = _live()
        if control is not None and self._name in control.list_backends():
            control.start_backend(self._name, self._spec, replace=True)
            control.wait_backend(self._name)


def _same(target: Any) -> Any:
    return target


def _live() -> Any:
    """The fabric that ``init()`` made current, None before."""
    from .fabrics import current_control

    return current_control()

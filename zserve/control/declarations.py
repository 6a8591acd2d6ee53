"""What a module says it wants served, before anything serves it.

``@serve.route`` and :func:`declare_endpoint` write down *declarations*; they start nothing.  ``zserve run module``
imports the module, :func:`collect`\\ s what it declared and :func:`apply`\\ s it to a fabric; ``serve.init()`` applies
whatever has been declared by then, and from then on each declaration is applied at once.

A declaration is one endpoint with the backends behind it::

    import zserve as serve

    @serve.route("/hello")                      # an endpoint and a backend, both named "hello"
    def hello():
        return "hello"

    serve.declare_endpoint(                     # one endpoint, two backends
        "digits", "/digits", methods=["POST"],
        backends={"SVM:v1": SVM, "RandomForest:v2": serve.backend(Forest, trees=50)},
        traffic={"SVM:v1": 0.5, "RandomForest:v2": 0.5},
        config={"max_batch_size": 32},
    )
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from ..errors import ServeError
from .callers import user_module
from .checks import check_callable, check_methods, check_name, check_route, check_traffic
from .code import is_batchable, unwrap

__all__ = [
    "BackendSpec",
    "Control",
    "Declaration",
    "apply",
    "backend",
    "collect",
    "declare",
    "declare_endpoint",
    "declared",
    "on_declare",
]


class BackendSpec:
    """How to make one backend: the callable, the arguments of its constructor and its config (a dict of settings)."""

    __slots__ = ("config", "init_args", "init_kwargs", "target")

    def __init__(
        self,
        target: Callable[..., Any],
        init_args: Sequence[Any] = (),
        init_kwargs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.target = check_callable("backend", unwrap(target), has_arguments=bool(init_args or init_kwargs))
        self.init_args = tuple(init_args)
        self.init_kwargs = dict(init_kwargs or {})
        self.config = dict(config or {})

    def __repr__(self) -> str:
        return f"backend({getattr(self.target, '__qualname__', self.target)!s})"


class Declaration:
    """One endpoint and its backends.

    name, route, methods: of the endpoint.
    backends: name to :class:`BackendSpec`, in order.
    traffic: backend name to weight.
    module: ``__name__`` of the module that declared it.
    """

    __slots__ = ("backends", "methods", "module", "name", "route", "serial", "traffic")

    def __init__(
        self,
        name: str,
        route: str | None,
        methods: Sequence[str],
        backends: Mapping[str, BackendSpec],
        traffic: Mapping[str, float] | None,
        module: str,
    ) -> None:
        self.name = check_name("name", name)
        self.route = check_route(route)
        self.methods = check_methods(methods)
        self.backends = dict(backends)
        if not self.backends:
            raise ValueError(f"endpoint {name!r} needs at least one backend")
        for backend_name in self.backends:
            check_name("backend name", backend_name)
        if traffic is None:
            traffic = dict.fromkeys(self.backends, 1.0 / len(self.backends))
        self.traffic = check_traffic(name, traffic)
        strangers = sorted(set(self.traffic) - set(self.backends))
        if strangers:
            raise ValueError(
                f"traffic of endpoint {name!r} names {', '.join(map(repr, strangers))}, which is not among its "
                f"backends: {', '.join(map(repr, self.backends))}"
            )
        self.module = module
        self.serial = next(_serials)

    def __repr__(self) -> str:
        return f"<endpoint {self.name!r} at {self.route} of {self.module}: {', '.join(self.backends)}>"


class Control(Protocol):
    """What :func:`apply` needs of a fabric; see :class:`zserve.control.operations.Operations`."""

    def start_backend(self, name: str, spec: BackendSpec, *, replace: bool = False) -> None: ...

    def wait_backend(self, name: str) -> None: ...

    def list_backends(self) -> dict[str, Any]: ...

    def list_endpoints(self) -> dict[str, Any]: ...

    def create_endpoint(
        self, name: str, route: str | None, methods: Sequence[str], *, backend: str | None = None
    ) -> None: ...

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None: ...

    def delete_endpoint(self, name: str) -> None: ...

    def delete_backend(self, name: str) -> None: ...


_serials = itertools.count(1)
_lock = threading.Lock()
_declared: dict[tuple[str, str], Declaration] = {}
_listener: Callable[[Declaration], None] | None = None


def backend(
    func_or_class: Callable[..., Any], *init_args: Any, config: Mapping[str, Any] | None = None, **init_kwargs: Any
) -> BackendSpec:
    """A backend for :func:`declare_endpoint` with constructor arguments or a config of its own.

    Raises TypeError if *func_or_class* cannot be called, and ValueError for constructor arguments of a function.

    >>> import zserve as serve
    >>> class Adder:
    ...     def __init__(self, amount):
    ...         self.amount = amount
    ...     def __call__(self, request):
    ...         return int(request.args["n"]) + self.amount
    >>> serve.backend(Adder, 5, config={"num_replicas": 2})
    backend(Adder)
    """
    return BackendSpec(func_or_class, init_args, init_kwargs, config)


def declare_endpoint(
    name: str,
    route: str | None = None,
    methods: Sequence[str] = ("GET",),
    *,
    backends: Mapping[str, Callable[..., Any] | BackendSpec],
    traffic: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Declaration:
    """Declare an endpoint with any number of backends: served by ``zserve run module``, or at once after ``init()``.

    name: of the endpoint.
    route: its path; None for one that only handles reach.
    methods: the HTTP methods that it answers.
    backends: name to function or class, or to what ``serve.backend(...)`` returns.
    traffic: backend name to weight, summing to 1; None shares equally.
    config: backend settings for all of them; what ``serve.backend(..., config=)`` says goes before.

    Raises TypeError and ValueError, naming the argument.

    >>> import zserve as serve
    >>> def old(request): return "old"
    >>> def new(request): return "new"
    >>> serve.declare_endpoint("shop", "/shop", backends={"old": old, "new": new}, traffic={"old": 0.9, "new": 0.1})
    <endpoint 'shop' at /shop of __main__: old, new>
    """
    if not isinstance(backends, Mapping):
        raise TypeError(f"backends must be a dict of name to function or class, not {type(backends).__name__}")
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict, not {type(config).__name__}: {config!r}")
    specs: dict[str, BackendSpec] = {}
    for backend_name, given in backends.items():
        spec = given if isinstance(given, BackendSpec) else BackendSpec(given)
        settings = {**(config or {}), **spec.config}
        specs[backend_name] = BackendSpec(spec.target, spec.init_args, spec.init_kwargs, settings)
    return declare(Declaration(name, route, methods, specs, traffic, user_module()))


def declare(declaration: Declaration) -> Declaration:
    """Write *declaration* down, and have it applied if a fabric is running.

    The same endpoint declared again by its module replaces the declaration before (a notebook cell that is run again,
    a reload).  Raises ValueError when two functions of one imported module would share an endpoint name.
    """
    key = (declaration.module, declaration.name)
    with _lock:
        before = _declared.get(key)
        if before is not None and before.route != declaration.route and declaration.module != "__main__":
            raise ValueError(
                f"{declaration.module} declares endpoint {declaration.name!r} twice, at {before.route} and at "
                f"{declaration.route}; give one of them another name"
            )
        _declared[key] = declaration
        listener = _listener
    if listener is not None:
        try:
            listener(declaration)
        except BaseException:
            with _lock:  # what could not be served is not declared either
                if _declared.get(key) is declaration:
                    del _declared[key]
                    if before is not None:
                        _declared[key] = before
            raise
    return declaration


def on_declare(listener: Callable[[Declaration], None] | None) -> None:
    """From now on call *listener* with each new declaration (None: nobody)."""
    global _listener
    with _lock:
        _listener = listener


def declared() -> list[Declaration]:
    """All declarations of this process, oldest first."""
    with _lock:
        return sorted(_declared.values(), key=lambda declaration: declaration.serial)


def collect(module: ModuleType) -> list[Declaration]:
    """The declarations of *module*, oldest first: its own, those of its submodules, and those of routed functions and
    classes that it imported from elsewhere by name."""
    inside = module.__name__ + "."
    imported = {
        id(declaration)
        for value in list(vars(module).values())
        for declaration in getattr(value, "__zserve_declarations__", ())
    }
    return [
        declaration
        for declaration in declared()
        if declaration.module == module.__name__ or declaration.module.startswith(inside) or id(declaration) in imported
    ]


def apply(declarations: Iterable[Declaration], control: Control) -> None:
    """Make a fabric serve *declarations*: start all backends, wait for all of them, then connect the endpoints.

    A backend or an endpoint that the fabric already has is brought to what is declared.  When a backend fails to start,
    what this call has created is taken away again and the error is raised, so that nothing is half applied.

    Raises ValueError for declarations that contradict each other, ApplicationError with the replica's traceback when
    user code fails, and what the calls of *control* raise.
    """
    wanted = list(declarations)
    _refuse_contradictions(wanted)
    specs: dict[str, BackendSpec] = {}
    for declaration in wanted:
        specs.update(declaration.backends)
    existing = control.list_backends()
    endpoints = control.list_endpoints()
    created: list[str] = []
    try:
        for name, spec in specs.items():
            known = name in existing
            control.start_backend(name, spec, replace=known)
            if not known:
                created.append(name)
        for name in specs:
            control.wait_backend(name)
        connected: list[str] = []
        try:
            for declaration in wanted:
                if declaration.name not in endpoints:
                    connected.append(declaration.name)
                _connect(declaration, endpoints.get(declaration.name), control)
        except BaseException:
            _take_back(control.delete_endpoint, connected)
            raise
    except BaseException:
        _take_back(control.delete_backend, created)
        raise


def _connect(declaration: Declaration, existing: Mapping[str, Any] | None, control: Control) -> None:
    if existing is not None:
        same = existing.get("route") == declaration.route and sorted(existing.get("methods", ())) == sorted(
            declaration.methods
        )
        if not same:
            control.delete_endpoint(declaration.name)
            existing = None
    if existing is None:
        first = next(iter(declaration.backends))
        single = declaration.traffic == {first: 1.0}
        control.create_endpoint(
            declaration.name, declaration.route, declaration.methods, backend=first if single else None
        )
        if single:
            return
    control.set_traffic(declaration.name, declaration.traffic)


def _take_back(delete: Callable[[str], None], names: list[str]) -> None:
    for name in reversed(names):
        try:
            delete(name)
        except (ServeError, ValueError, KeyError):
            pass  # the error that led here says more


def _refuse_contradictions(declarations: Sequence[Declaration]) -> None:
    endpoints: dict[str, Declaration] = {}
    routes: dict[str, Declaration] = {}
    backends: dict[str, BackendSpec] = {}
    for declaration in declarations:
        other = endpoints.setdefault(declaration.name, declaration)
        if other is not declaration:
            raise ValueError(
                f"endpoint {declaration.name!r} is declared by {other.module} and by {declaration.module}; give one of "
                f"them another name, as in @serve.route(..., name=...)"
            )
        if declaration.route is not None:
            other = routes.setdefault(declaration.route, declaration)
            if other is not declaration:
                raise ValueError(
                    f"route {declaration.route} is declared for endpoint {other.name!r} and for {declaration.name!r}"
                )
        for name, spec in declaration.backends.items():
            if backends.setdefault(name, spec) is not spec and backends[name].target is not spec.target:
                raise ValueError(f"backend {name!r} is declared twice, with different code; rename one of them")


def needs_batching(config: Mapping[str, Any]) -> bool:
    """Whether *config* asks for batches, which only code declared with ``@serve.accept_batch`` can take."""
    size = config.get("max_batch_size")
    return isinstance(size, int) and size > 1


def check_batching(name: str, target: Any, config: Mapping[str, Any]) -> None:
    """Raise ValueError when *config* wants batches of a callable that takes single requests."""
    if needs_batching(config) and not is_batchable(target):
        raise ValueError(
            f"backend {name!r}: max_batch_size={config['max_batch_size']} needs code declared with @serve.accept_batch"
        )

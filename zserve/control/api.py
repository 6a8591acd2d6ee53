"""``import zserve as serve``: the control calls as functions, on the fabric that ``serve.init()`` made current."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import BackendConfig
from ..handles.named import register_type
from .checks import check_name
from .fabrics import control, init, shutdown

if TYPE_CHECKING:
    from ..handles.handle import ServeHandle

__all__ = [
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "get_backend_config",
    "get_handle",
    "init",
    "link",
    "list_backends",
    "list_endpoints",
    "register_type",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "split",
    "stat",
    "status",
    "update_backend",
    "update_backend_config",
]

# --- endpoints -------------------------------------------------------------------------------------------------------


def create_endpoint(
    name: str, route: str | None = None, methods: Sequence[str] = ("GET",), *, backend: str | None = None
) -> None:
    """Create endpoint *name* at path *route* (None: no HTTP, handles only), with all traffic to *backend* if given.

    An identical repeat changes nothing.  Raises TypeError for a wrong type, and ValueError when the name or the route
    is taken by something else, or *backend* is not known.

    >>> import zserve as serve
    >>> serve.create_endpoint("simple_endpoint", "/simple", methods=["GET", "POST"])
    """
    control().create_endpoint(name, route, methods, backend=backend)


def delete_endpoint(name: str) -> None:
    """Delete endpoint *name*.  Its backends stay; requests that wait for it are answered with 404.

    >>> import zserve as serve
    >>> serve.delete_endpoint("simple_endpoint")
    """
    control().delete_endpoint(name)


def list_endpoints() -> dict[str, Any]:
    """All endpoints, by name.

    Each is ``{"route": path or None, "methods": [...], "traffic": {backend: weight}, "shadows": {backend:
    proportion}}``.

    >>> import zserve as serve
    >>> serve.list_endpoints()["simple_endpoint"]["route"]
    '/simple'
    """
    return control().list_endpoints()


# --- backends --------------------------------------------------------------------------------------------------------


def create_backend(
    name: str,
    func_or_class: Callable[..., Any],
    *init_args: Any,
    config: Mapping[str, Any] | BackendConfig | None = None,
    **init_kwargs: Any,
) -> None:
    """Create backend *name* from a function (stateless) or a class (one instance for each replica).

    Returns when its replicas are up.

    init_args, init_kwargs: for the constructor of a class.
    config: settings, see :class:`zserve.config.BackendConfig`, such as ``{"num_replicas": 2, "max_batch_size": 16}``.

    Raises TypeError when it cannot be called, ValueError for an existing name, arguments given to a function or a bad
    setting, ApplicationError with the replica's own traceback when it cannot be imported or constructed, and ServeError
    when no worker node can hold it or import it.  After an error there is no such backend.

    >>> import zserve as serve
    >>> def handle_request(request):
    ...     return "hello world"
    >>> serve.create_backend("simple_backend", handle_request)
    """
    control().create_backend(name, func_or_class, *init_args, config=config, **init_kwargs)


def update_backend(
    name: str,
    func_or_class: Callable[..., Any],
    *init_args: Any,
    config: Mapping[str, Any] | BackendConfig | None = None,
    **init_kwargs: Any,
) -> None:
    """A new version of backend *name*: its replicas are replaced one by one, and no request is lost.

    Arguments and errors as in :func:`create_backend`, but *name* must exist.  config None leaves the settings alone.
    When the new version cannot be started, the error has its traceback, and the backend is left as it was.

    >>> import zserve as serve
    >>> def handle_request(request):
    ...     return "hello again"
    >>> serve.update_backend("simple_backend", handle_request)
    """
    control().update_backend(name, func_or_class, *init_args, config=config, **init_kwargs)


def delete_backend(name: str) -> None:
    """Delete backend *name*; what it runs is finished.  An unknown name is no error.

    Raises ValueError, naming the endpoint, while one still uses it.

    >>> import zserve as serve
    >>> serve.delete_backend("simple_backend")
    """
    control().delete_backend(name)


def list_backends() -> dict[str, Any]:
    """All backends, by name.

    >>> import zserve as serve
    >>> serve.list_backends()["simple_backend"]["config"]["num_replicas"]
    1
    """
    return control().list_backends()


def get_backend_config(name: str) -> dict[str, Any]:
    """All settings of backend *name*.  Raises KeyError if there is none.

    >>> import zserve as serve
    >>> serve.get_backend_config("simple_backend")["num_replicas"]
    1
    """
    return control().get_backend_config(name)


def update_backend_config(name: str, config: Mapping[str, Any]) -> None:
    """Change settings of backend *name*; it keeps running.

    A change of ``user_config`` returns when the ``reconfigure`` of every replica has.  If one of them raises, that is
    an ApplicationError with its traceback, and all settings are what they were before.

    Raises ValueError naming an unknown setting or a bad value, TypeError for a wrong type, KeyError for the backend.

    >>> import zserve as serve
    >>> serve.update_backend_config("simple_backend", {"num_replicas": 2})
    """
    control().update_backend_config(name, config)


# --- traffic ---------------------------------------------------------------------------------------------------------


def set_traffic(
    endpoint: str,
    traffic: Mapping[str, float],
    policy: str | None = None,
    policy_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Share the requests of *endpoint* among backends by weight, from the next request on.

    traffic: backend name to weight, each 0 or more, summing to 1 (within 1e-6).
    policy: how the weights are put into effect, from now on: "random", "round_robin", "power_of_two", "fixed_packing",
        or a class of yours as "package.module:Class" (docs/scheduling.md); None for the one that the endpoint has.
    policy_kwargs: the settings of *policy*, none unless given; without a policy, those of the one that it has.

    Raises ValueError saying what the weights sum to, which name is unknown, or why the policy is of no use, TypeError
    for a wrong type.  Nothing has changed then.

    >>> import zserve as serve
    >>> serve.set_traffic("image classifier", {"SVM:v1": 0.5, "ResNet50:v2": 0.5})
    >>> serve.set_traffic("image classifier", {"SVM:v1": 1.0}, policy="round_robin")
    """
    control().set_traffic(endpoint, traffic, policy, policy_kwargs)


def split(
    endpoint: str,
    traffic: Mapping[str, float],
    policy: str | None = None,
    policy_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """The same as :func:`set_traffic`.

    >>> import zserve as serve
    >>> serve.split("image classifier", {"SVM:v1": 0.5, "ResNet50:v2": 0.5})
    """
    control().set_traffic(endpoint, traffic, policy, policy_kwargs)


def link(endpoint: str, backend: str) -> None:
    """Send all requests of *endpoint* to *backend*: ``set_traffic(endpoint, {backend: 1.0})``.

    >>> import zserve as serve
    >>> serve.link("image classifier", "ResNet50:v2")
    """
    control().set_traffic(endpoint, {check_name("backend", backend): 1.0})


def shadow_traffic(endpoint: str, backend: str, proportion: float) -> None:
    """Send a copy of that proportion (0..1) of the requests of *endpoint* to *backend*; its answers go nowhere.

    0 removes the shadow.  Raises ValueError for a proportion outside 0..1 or an unknown name.

    >>> import zserve as serve
    >>> serve.shadow_traffic("image classifier", "ResNet50:v3", 0.1)
    """
    control().shadow_traffic(endpoint, backend, proportion)


# --- handles ---------------------------------------------------------------------------------------------------------


def get_handle(
    endpoint: str,
    relative_slo_ms: float | None = None,
    absolute_slo_ms: float | None = None,
    missing_ok: bool = False,
) -> ServeHandle:
    """A handle, to call *endpoint* from Python without HTTP; from scripts, threads, coroutines and inside of backends.

    relative_slo_ms, absolute_slo_ms: the deadline of each call, in milliseconds from the call or since the epoch; at
        most one of them.  Without one it is 30 s, or the backend's ``slo_ms``; inside of a backend, what is left of the
        deadline of the request that it works on.
    missing_ok: do not ask whether there is such an endpoint.

    Raises KeyError for an unknown endpoint, TypeError and ValueError for bad arguments, NotInitialized before
    ``init()``.

    >>> import zserve as serve
    >>> handle = serve.get_handle("simple_endpoint", relative_slo_ms=10_000)
    >>> handle.remote({"text": "hi"}).result()
    'hello world'
    """
    from ..handles.handle import get_handle as get

    return get(endpoint, relative_slo_ms, absolute_slo_ms, missing_ok)


# --- looking ---------------------------------------------------------------------------------------------------------


def stat() -> dict[str, Any]:
    """Counters and latency summaries since the routers started, all routers together.

    ``{"endpoints": {name: {"answered", "errors", "latency_ms": {"mean", "p50", "p95", "p99", "max"}}}, "backends":
    {name: {...}}}``.

    Of an endpoint: requests that a backend has answered (streamed answers are not counted), those of them with a status
    of 500 and more, and how long the latest 1024 on each router took, in milliseconds, from their arrival there until
    their way back (percentiles up to 19 % too high, None without an answer).  Of a backend: ``admitted``,
    ``completed``, ``errors``, ``queued``, ``in_flight``, ``refused`` (by reason), ``expired``, ``lost``, ``batches``,
    ``batch_size`` (``mean``, ``max``, ``histogram``) and more.  A router that does not answer is named in a warning.

    >>> import zserve as serve
    >>> stat = serve.stat()["endpoints"]["simple_endpoint"]
    >>> stat["answered"], stat["errors"]
    (1, 0)
    >>> 0 < stat["latency_ms"]["p50"] <= stat["latency_ms"]["p95"]
    True
    """
    return control().stat()


def status() -> dict[str, Any]:
    """The fabric as it is: nodes, replicas, endpoints, versions, conflicts.

    Its ``address`` is what another ``init(address=...)`` joins.

    >>> import zserve as serve
    >>> serve.status()["address"]
    'ipc://...'
    """
    return control().status()

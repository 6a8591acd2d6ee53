"""Users' own applications on several simulated nodes: what happens to them when a router dies, without sockets."""

from __future__ import annotations

import importlib
import itertools
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

from ..config import parse_backend_config
from ..control.client import raise_remote
from ..control.code import is_batchable
from ..control.declarations import BackendSpec, Declaration, apply, collect
from ..cores.worker import Start
from ..errors import FabricUnreachable, ServeError
from .clients import Call
from .fabric import SimFabric
from .handlers import HandlerExecutor, LoopThread
from .nodes import SimNode
from .web import Pending, Response, body_and_headers
from .workers import SimWorker

__all__ = ["Cluster", "cluster"]

_FORM_WITHIN_S = 10.0
_START_WITHIN_S = 60.0


def cluster(
    app: Any,
    gateways: int = 1,
    routers: int = 2,
    workers: int = 2,
    seed: int = 0,
    *,
    slots: int = 16,
    service_s: float = 0.001,
    timeout_s: float = 30.0,
) -> Cluster:
    """Run *app* in this process, on so many simulated nodes; use it in a ``with`` statement.

    app: a module or its name, what :func:`zserve.route` made of a function or class, a
    :class:`~zserve.control.declarations.Declaration`, or a list of these.
    seed: chance (delays, which backend gets a request, which replica) comes from here, so that a test does the same
    each time.  slots: of each worker node.  service_s: how long user code takes, in virtual seconds.  timeout_s: the
    deadline of requests that bring none, in virtual seconds.

    Raises ApplicationError with the traceback when the application cannot be constructed, ServeError when it declares
    nothing or does not fit.
    """
    return Cluster(_declarations(app), gateways, routers, workers, seed, slots, service_s, timeout_s)


def _declarations(app: Any) -> list[Declaration]:
    if isinstance(app, str):
        app = importlib.import_module(app)
    if isinstance(app, ModuleType):
        found = collect(app)
        if not found:
            raise ServeError(f'{app.__name__} declares nothing to serve; put @serve.route("/path") over a function')
        return found
    if isinstance(app, Declaration):
        return [app]
    own = getattr(app, "__zserve_declarations__", None)
    if own:
        return list(own)
    if isinstance(app, Iterable):
        return [declaration for one in app for declaration in _declarations(one)]
    raise TypeError(f"app must be a module, its name, or declarations made with @serve.route, not {app!r}")


class Cluster:
    """A simulated fabric that serves an application.  Made by :func:`cluster`.

    Nodes are called gateway-0, router-0, worker-0 and so on.  Time is virtual: it passes in :meth:`advance` and while a
    request is on its way, and never by itself.
    """

    def __init__(
        self,
        declarations: Sequence[Declaration],
        gateways: int,
        routers: int,
        workers: int,
        seed: int,
        slots: int,
        service_s: float,
        timeout_s: float,
    ) -> None:
        for name, count in (("gateways", gateways), ("routers", routers), ("workers", workers)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count!r}")
        self._timeout_s = timeout_s
        self._service_s = service_s
        self._specs: dict[str, BackendSpec] = {}
        self._turn = itertools.count()
        self._loop = LoopThread()
        self._closed = False
        self._fabric = SimFabric(seed)
        self._fabric.make_executor = self._executor
        try:
            for number in range(routers):
                self._fabric.add_router(f"router-{number}")
            for number in range(gateways):
                self._fabric.add_gateway(f"gateway-{number}")
            for number in range(workers):
                self._fabric.add_worker(f"worker-{number}", slots)
            self._client = self._fabric.add_client("client")
            self._fabric.run_until(self._formed, _FORM_WITHIN_S)
            apply(declarations, _Control(self))
            self._fabric.run_for(0.1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End; nothing but memory was in use."""
        if not self._closed:
            self._closed = True
            self._loop.close()

    def _formed(self) -> bool:
        routers = len(self._fabric.routers())
        nodes = [*self._fabric.gateways(), *self._fabric.workers(), self._client]
        return all(len(node.hub.links.open_links()) >= routers for node in nodes)

    def _executor(self, worker: SimWorker, start: Start) -> HandlerExecutor:
        spec = self._specs[start.value.code]
        return HandlerExecutor(spec, start.backend, start.value.config, self._loop, self._service_s)

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        data: bytes | str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        gateway: str | None = None,
    ) -> Response:
        """Send a request and let time pass until its answer is there.

        gateway: the name of the gateway to ask; the running ones take turns otherwise.  Raises ConnectionError when
        there is none, or it dies before it has answered.
        """
        pending = self.send(method, path, params=params, data=data, json=json, headers=headers, gateway=gateway)
        limit_s = 7 * 86_400.0
        self._fabric.run_until(lambda: pending.response is not None or pending.broken, limit_s)
        if pending.response is None:
            raise ConnectionResetError(f"{pending.gateway.name} is gone, and the connection with it")
        return pending.response

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        data: bytes | str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        gateway: str | None = None,
    ) -> Pending:
        """Send a request without waiting: its ``response`` is there after some :meth:`advance`."""
        if not path.startswith("/"):
            raise ValueError(f"path must begin with '/', not {path!r}")
        body, pairs = body_and_headers(data, json, headers)
        if params:
            path += ("&" if "?" in path else "?") + urllib.parse.urlencode(params, doseq=True)
        running = [node for node in self._fabric.gateways() if node.alive and not node.leaving]
        if gateway is not None:
            running = [node for node in running if node is self._node(gateway)]
        if not running:
            raise ConnectionRefusedError("no gateway is running" if gateway is None else f"{gateway} is not running")
        pending = Pending(running[next(self._turn) % len(running)], method.upper())
        pending.gateway.hub.deliver(pending.send, path, body, pairs, self._timeout_s, "192.0.2.1:1024")
        return pending

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> Response:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> Response:
        return self.request("DELETE", path, **options)

    # --- control ------------------------------------------------------------------------------------------------------

    def call(self, op: str, **args: Any) -> Any:
        """A control call, made through any router: ``cluster.call("set_traffic", endpoint="e", traffic={"b": 1.0})``.

        The calls and their arguments are those of :mod:`zserve.registry.operations`, and "status".  Raises what the
        call of the same name in :mod:`zserve` raises, and FabricUnreachable when no router answers.
        """
        if not self._fabric.run_until(lambda: bool(self._client.linked()), _FORM_WITHIN_S):
            raise FabricUnreachable("no router is running")
        ended: list[Call] = []
        call = self._client.call(op, args, on_end=ended.append)
        assert call is not None
        self._fabric.run_until(lambda: bool(ended), 3600.0)
        if call.state == "unknown":
            raise FabricUnreachable(f"{op}: {call.text}; it may or may not have been done")
        if call.state == "refused":
            import orjson

            raise_remote(orjson.dumps({"error": call.error, "message": call.text}))
        return call.result

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Backend to weight, together 1."""
        self.call("set_traffic", endpoint=endpoint, traffic=dict(traffic))

    def update_backend_config(self, name: str, config: Mapping[str, Any]) -> None:
        """Settings that are not given stay as they are."""
        self.call("update_backend_config", name=name, config=dict(config))

    def status(self) -> dict[str, Any]:
        """The fabric as one of its routers sees it."""
        found: dict[str, Any] = self.call("status")
        return found

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes that run."""
        return [node.name for node in self._fabric.nodes.values() if node.role != "client" and node.alive]

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self._fabric.clock.now

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds!r} s")
        self._fabric.run_for(seconds)

    def kill(self, name: str) -> None:
        """As kill -9 does; a worker node's replicas end with it."""
        self._node(name).kill()

    def restart(self, name: str) -> None:
        """Start a node again after it was killed or has left; routers have their disk."""
        self._node(name).restart()

    def leave(self, name: str) -> None:
        """As SIGTERM does: the node finishes what it has, and leaves."""
        self._node(name).leave()

    def pause(self, name: str) -> None:
        """As SIGSTOP does; the replicas of a worker node stop with it."""
        node = self._node(name)
        if isinstance(node, SimWorker):
            node.pause_all()
        else:
            node.pause()

    def resume(self, name: str) -> None:
        """As SIGCONT does."""
        node = self._node(name)
        if isinstance(node, SimWorker):
            node.resume_all()
        else:
            node.resume()

    def partition(self, *groups: Sequence[str]) -> None:
        """Nodes of different groups cannot reach each other; those not named are together in a group of their own."""
        self._fabric.partition(*([self._node(name).name for name in group] for group in groups))

    def heal(self) -> None:
        """Every node reaches every other one again."""
        self._fabric.heal()

    def _node(self, name: str) -> SimNode:
        node = self._fabric.nodes.get(name)
        if node is None or node.role == "client":
            names = ", ".join(name for name, node in self._fabric.nodes.items() if node.role != "client")
            raise KeyError(f"there is no node {name!r}; there are {names}")
        return node


class _Control:
    """Applies declarations: the calls of the control API as :func:`apply` wants them."""

    def __init__(self, owner: Cluster) -> None:
        self._owner = owner

    def start_backend(self, name: str, spec: BackendSpec, *, replace: bool = False) -> None:
        specs = self._owner._specs
        code = f"testing:code_{len(specs)}"
        specs[code] = spec
        parse_backend_config(spec.config)
        self._owner.call(
            "update_backend" if replace else "create_backend",
            name=name,
            code=code,
            version=f"{len(specs)}",
            config=dict(spec.config),
            batchable=is_batchable(spec.target),
        )

    def wait_backend(self, name: str) -> None:
        self._owner.call("wait_backend", name=name, timeout_s=_START_WITHIN_S)

    def list_backends(self) -> dict[str, Any]:
        found: dict[str, Any] = self._owner.call("list_backends")
        return found

    def list_endpoints(self) -> dict[str, Any]:
        found: dict[str, Any] = self._owner.call("list_endpoints")
        return found

    def create_endpoint(
        self, name: str, route: str | None, methods: Sequence[str], *, backend: str | None = None
    ) -> None:
        self._owner.call("create_endpoint", name=name, route=route, methods=list(methods), backend=backend)

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        self._owner.set_traffic(endpoint, traffic)

    def delete_endpoint(self, name: str) -> None:
        self._owner.call("delete_endpoint", name=name)

    def delete_backend(self, name: str) -> None:
        self._owner.call("delete_backend", name=name)

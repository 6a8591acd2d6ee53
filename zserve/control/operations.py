"""The control calls on one fabric: check the arguments, name the code, ask the router.

:mod:`zserve.control.api` offers these as module functions on the fabric that ``init()`` made current; the command line
uses the class itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from warnings import warn

import msgspec

from ..config import BackendConfig, parse_backend_config
from ..errors import FabricUnreachable, ServeError, ServeWarning
from .callers import user_stacklevel
from .checks import (
    check_callable,
    check_methods,
    check_name,
    check_proportion,
    check_route,
    check_traffic,
    check_traffic_policy,
)
from .client import ControlClient
from .code import CodeName, CodeNamer, is_json
from .declarations import BackendSpec, check_batching
from .totals import add_stats

__all__ = ["START_TIMEOUT_S", "Operations"]

START_TIMEOUT_S = float(os.environ.get("ZSERVE_START_TIMEOUT_S", "300"))
"""How long ``create_backend`` waits for its replicas (seconds; ZSERVE_START_TIMEOUT_S)."""

OTHERS_TIMEOUT_S = 2.0
"""How long another router may take to say what it has counted."""
TAKE_BACK_TIMEOUT_S = 10.0
"""How long an update that failed waits for the replicas to be what they were."""


class Operations:
    """All control calls, made through *client*; *namer* knows what code the fabric's workers can reach."""

    def __init__(self, client: ControlClient, namer: CodeNamer | None = None) -> None:
        self.client = client
        self.namer = namer if namer is not None else CodeNamer()

    # --- endpoints ----------------------------------------------------------------------------------------------------

    def create_endpoint(
        self,
        name: str,
        route: str | None = None,
        methods: Sequence[str] = ("GET",),
        *,
        backend: str | None = None,
    ) -> None:
        check_name("name", name)
        if backend is not None:
            check_name("backend", backend)
        args = {"name": name, "route": check_route(route), "methods": check_methods(methods), "backend": backend}
        self.client.call("create_endpoint", args)

    def delete_endpoint(self, name: str) -> None:
        self.client.call("delete_endpoint", {"name": check_name("name", name)})

    def list_endpoints(self) -> dict[str, Any]:
        return _dict(self.client.call("list_endpoints"))

    # --- backends -----------------------------------------------------------------------------------------------------

    def start_backend(self, name: str, spec: BackendSpec, *, replace: bool = False) -> None:
        """Create backend *name*, or with *replace* its next version, without waiting for its replicas."""
        check_name("name", name)
        config = _config(spec.config)
        check_batching(name, spec.target, config)
        code = self.namer.name(spec.target, spec.init_args, spec.init_kwargs)
        args = _backend_args(name, code)
        if replace:
            # Asked for by the user, so it happens even when the file that defines the code is the same.
            args["version"] = f"{code.version}-{secrets.token_hex(4)}"
            args["config"] = config or None
            self.client.call("update_backend", args)
        else:
            args["config"] = config
            self.client.call("create_backend", args)

    def wait_backend(self, name: str, timeout_s: float | None = None) -> None:
        """Return when the replicas of backend *name* are up; raise ApplicationError with the traceback if they fail."""
        self._wait("wait_backend", name, START_TIMEOUT_S if timeout_s is None else timeout_s)

    def wait_configured(self, name: str, timeout_s: float | None = None) -> None:
        """Return when the replicas of *name* that are up have taken in its ``user_config``; raise ApplicationError with
        the traceback if one refuses it."""
        self._wait("wait_configured", name, START_TIMEOUT_S if timeout_s is None else timeout_s)

    def _wait(self, op: str, name: str, seconds: float) -> None:
        self.client.call(op, {"name": name, "timeout_s": seconds}, timeout_s=seconds + 5.0)

    def create_backend(
        self,
        name: str,
        func_or_class: Callable[..., Any],
        *init_args: Any,
        config: Mapping[str, Any] | BackendConfig | None = None,
        **init_kwargs: Any,
    ) -> None:
        spec = _spec(func_or_class, init_args, init_kwargs, config)
        self.start_backend(name, spec)
        try:
            self.wait_backend(name)
        except FabricUnreachable:
            raise
        except BaseException:  # Ctrl-C too: a constructor that takes for ever must not leave its name taken
            try:
                self.delete_backend(name)
            except (ServeError, ValueError, KeyError):
                pass  # the first error says more
            raise

    def update_backend(
        self,
        name: str,
        func_or_class: Callable[..., Any],
        *init_args: Any,
        config: Mapping[str, Any] | BackendConfig | None = None,
        **init_kwargs: Any,
    ) -> None:
        spec = _spec(func_or_class, init_args, init_kwargs, config)
        before = self._record(check_name("name", name))
        self.start_backend(name, spec, replace=True)
        try:
            self.wait_backend(name)
        except FabricUnreachable:
            raise
        except BaseException:
            self._take_back(name, before)
            raise

    def delete_backend(self, name: str) -> None:
        self.client.call("delete_backend", {"name": check_name("name", name)})

    def list_backends(self) -> dict[str, Any]:
        return _dict(self.client.call("list_backends"))

    def get_backend_config(self, name: str) -> dict[str, Any]:
        return _dict(self.client.call("get_backend_config", {"name": check_name("name", name)}))

    def update_backend_config(self, name: str, config: Mapping[str, Any]) -> None:
        check_name("name", name)
        if not isinstance(config, (Mapping, BackendConfig)):
            raise TypeError(f"config must be a dict, not {type(config).__name__}: {config!r}")
        given = _config(config)
        if "user_config" not in given:
            self.client.call("update_backend_config", {"name": name, "config": given})
            return
        before = self._record(name)
        self.client.call("update_backend_config", {"name": name, "config": given})
        try:
            self.wait_configured(name)
        except FabricUnreachable:
            raise
        except BaseException:
            self._take_back(name, before)
            raise

    # --- a backend as it was ------------------------------------------------------------------------------------------

    def _record(self, name: str) -> dict[str, Any] | None:
        """What the fabric has written about backend *name*: stamp, revision and value; None if there is no such."""
        record = _dict(self.client.call("list_records")).get(f"backend/{name}")
        return None if record is None else _dict(record)

    def _take_back(self, name: str, before: Mapping[str, Any] | None) -> None:
        """Undo the last write to backend *name*, unless somebody else has written it since."""
        try:
            now = self._record(name)
            if before is None or now is None or now["revision"] != before["revision"] + 1:
                return
            change = {"key": f"backend/{name}", "value": before["value"], "parent": now["stamp"]}
            self.client.call("apply_changes", {"changes": [change]})
            self._wait("wait_configured", name, TAKE_BACK_TIMEOUT_S)
        except (ServeError, ValueError, KeyError):
            pass  # the error that led here says more

    # --- traffic ------------------------------------------------------------------------------------------------------

    def set_traffic(
        self,
        endpoint: str,
        traffic: Mapping[str, float],
        policy: str | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_name("endpoint", endpoint)
        args = {"endpoint": endpoint, "traffic": check_traffic(endpoint, traffic)}
        self.client.call("set_traffic", {**args, **check_traffic_policy(policy, policy_kwargs)})

    def shadow_traffic(self, endpoint: str, backend: str, proportion: float) -> None:
        args = {
            "endpoint": check_name("endpoint", endpoint),
            "backend": check_name("backend", backend),
            "proportion": check_proportion("proportion", proportion),
        }
        self.client.call("shadow_traffic", args)

    # --- looking ------------------------------------------------------------------------------------------------------

    def stat(self) -> dict[str, Any]:
        said = [_dict(self.client.call("stat"))]
        for address in said[0].get("routers", ()):
            try:
                with ControlClient(address, connect_timeout_s=OTHERS_TIMEOUT_S) as other:
                    said.append(_dict(other.call("stat", timeout_s=2 * OTHERS_TIMEOUT_S)))
            except ServeError as error:
                text = f"stat: what the router at {address} has counted is missing: {error}"
                warn(text, ServeWarning, stacklevel=user_stacklevel())
        return add_stats(said)

    def status(self) -> dict[str, Any]:
        status = _dict(self.client.call("status"))
        status.setdefault("address", self.client.address)
        return status


def _spec(
    func_or_class: Callable[..., Any],
    init_args: Sequence[Any],
    init_kwargs: Mapping[str, Any],
    config: Mapping[str, Any] | BackendConfig | None,
) -> BackendSpec:
    check_callable("func_or_class", func_or_class)
    return BackendSpec(func_or_class, init_args, init_kwargs, _config(config))


def _config(given: Mapping[str, Any] | BackendConfig | None) -> dict[str, Any]:
    """The settings that were given, checked, as JSON can say them."""
    parse_backend_config(given)
    settings = _dict(msgspec.to_builtins(given)) if isinstance(given, BackendConfig) else dict(given or {})
    if not is_json(settings.get("user_config")):
        raise TypeError(
            "config['user_config'] must be made of None, bool, int, finite float, str, and lists and dicts of them, "
            f"not {settings['user_config']!r}"
        )
    return settings


def _backend_args(name: str, code: CodeName) -> dict[str, Any]:
    return {
        "name": name,
        "code": code.code,
        "version": code.version,
        "init_args": code.init_args,
        "init_kwargs": code.init_kwargs,
        "batchable": code.batchable,
        "is_class": code.is_class,
    }


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ServeError(f"the router answered with {type(value).__name__} where a table was expected")
    return value

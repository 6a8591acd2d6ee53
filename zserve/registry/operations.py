"""What each control call means: checks, and the one record that it writes.

Every operation is a function of (registry, args, wall_ms).  It either raises and has done nothing, or returns an
:class:`Outcome` whose records are in force in this registry and have yet to be spread.  Each call writes one record at
most, so there is nothing to roll back.  Wrong types are TypeError, wrong values ValueError, an unknown name in a
question KeyError, a write that came too late ConflictError; the text names the argument and its value.

Calls that change something take ``parent``, the stamp in hex of the record that the caller has seen: if another one is
current, the call is refused.  Without it, the record that this node holds is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..config import BackendConfig, parse_backend_config
from .record import Record
from .registry import Registry
from .values import (
    BACKEND,
    ENDPOINT,
    BackendValue,
    EndpointValue,
    Value,
    check_methods,
    check_name,
    check_policy,
    check_proportion,
    check_route,
    check_weights,
    encode_value,
    route_shape,
)

__all__ = ["OPERATIONS", "Operation", "Outcome", "config_as_dict", "endpoint_as_dict"]


class Outcome(msgspec.Struct, frozen=True):
    """result: JSON-able; written: records to spread; warnings: texts for the caller."""

    result: Any = None
    written: list[Record] = []
    warnings: list[str] = []


Operation = Callable[[Registry, Mapping[str, Any], int], Outcome]


# --- endpoints --------------------------------------------------------------------------------------------------------


def create_endpoint(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name, route=None, methods=["GET"], backend=None, policy="random", policy_kwargs={}."""
    _only(args, "name", "route", "methods", "backend", "policy", "policy_kwargs")
    name = check_name(_need(args, "name"))
    route = check_route(args.get("route"))
    methods = check_methods(args.get("methods", ["GET"]))
    policy, policy_kwargs = _policy(args)
    traffic: dict[str, float] = {}
    if args.get("backend") is not None:
        backend = check_name(args["backend"], "backend")
        if registry.backend(backend) is None:
            raise ValueError(f"backend: there is no backend {backend!r}{_among(registry.backends())}")
        traffic = {backend: 1.0}
    value = EndpointValue(route=route, methods=methods, traffic=traffic, policy=policy, policy_kwargs=policy_kwargs)
    existing = registry.endpoint(name)
    if existing is not None:
        same = msgspec.structs.replace(value, shadows=existing.shadows)
        if "policy" not in args:
            same = msgspec.structs.replace(same, policy=existing.policy, policy_kwargs=existing.policy_kwargs)
        if not traffic:  # what set_traffic did since does not make the repeat another endpoint
            same = msgspec.structs.replace(same, traffic=existing.traffic)
        if same == msgspec.structs.replace(existing, methods=_in_order_of(methods, existing.methods)):
            return Outcome()
        raise ValueError(
            f"name: endpoint {name!r} exists with other content: route {existing.route!r}, methods {existing.methods}, "
            f"traffic {existing.traffic}"
        )
    if route is not None:
        for other, taken in registry.endpoints().items():
            common = sorted(set(methods) & set(taken.methods))
            if taken.route is not None and common and route_shape(taken.route) == route_shape(route):
                raise ValueError(f"route: {route!r} is the route of endpoint {other!r} for {', '.join(common)} already")
    return _write(registry, ENDPOINT + name, value, None, wall_ms)


def delete_endpoint(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name.  Unknown: nothing happens.  Backends stay."""
    _only(args, "name", "parent")
    key = ENDPOINT + check_name(_need(args, "name"))
    if registry.value(key) is None:
        return Outcome()
    return Outcome(written=[registry.write(key, None, _parent(registry, key, args), wall_ms)])


def list_endpoints(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """Name to route, methods, traffic and shadows."""
    _only(args)
    return Outcome({name: endpoint_as_dict(value) for name, value in registry.endpoints().items()})


# --- backends ---------------------------------------------------------------------------------------------------------


def create_backend(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name, code, version, init_args=[], init_kwargs={}, config={}, batchable=False, is_class=False."""
    _only(args, "name", *_CODE_ARGUMENTS, "config")
    name = check_name(_need(args, "name"))
    value = _code(args, parse_backend_config(args.get("config")))
    if registry.backend(name) is not None:
        raise ValueError(f"name: backend {name!r} exists already; update_backend replaces its code")
    return _write(registry, BACKEND + name, value, None, wall_ms)


def update_backend(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """As :func:`create_backend`, for one that exists; config, where given, is laid over the one in force."""
    _only(args, "name", *_CODE_ARGUMENTS, "config", "parent")
    key, before = _backend(registry, args)
    value = _code(args, parse_backend_config(args.get("config"), before.config))
    return _replace(registry, key, before, value, args, wall_ms)


def delete_backend(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name.  Unknown: nothing happens.  In use by an endpoint, as a shadow or with weight 0 too: ValueError."""
    _only(args, "name", "parent")
    name = check_name(_need(args, "name"))
    if registry.backend(name) is None:
        return Outcome()
    users = [
        repr(endpoint)
        for endpoint, value in registry.endpoints().items()
        if name in value.traffic or name in value.shadows
    ]
    if users:
        raise ValueError(
            f"name: backend {name!r} is in use by endpoint{'s' * (len(users) > 1)} {', '.join(users)}; "
            f"set other traffic (and shadow traffic) first"
        )
    key = BACKEND + name
    return Outcome(written=[registry.write(key, None, _parent(registry, key, args), wall_ms)])


def list_backends(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """Name to code, version, is_class, batchable and the whole config."""
    _only(args)
    return Outcome(
        {
            name: {
                "code": value.code,
                "version": value.version,
                "is_class": value.is_class,
                "batchable": value.batchable,
                "config": config_as_dict(value.config),
            }
            for name, value in registry.backends().items()
        }
    )


def get_backend_config(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name.  The whole config, defaults included."""
    _only(args, "name")
    return Outcome(config_as_dict(_backend(registry, args)[1].config))


def update_backend_config(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """name, config: keys not given keep their value.  The result is the config then in force."""
    _only(args, "name", "config", "parent")
    key, before = _backend(registry, args)
    given = _need(args, "config")
    if given is None:
        raise TypeError("config must be a dict, not None")
    config = parse_backend_config(given, before.config)
    outcome = _replace(registry, key, before, msgspec.structs.replace(before, config=config), args, wall_ms)
    return msgspec.structs.replace(outcome, result=config_as_dict(config))


# --- traffic ----------------------------------------------------------------------------------------------------------


def set_traffic(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """endpoint, traffic {backend: weight}, policy and policy_kwargs as they are unless given; beside a policy that is
    given, policy_kwargs are {} unless given.

    The early documents show the arguments swapped, ``set_traffic("backend", {"endpoint": 1.0})``.  Where the names
    leave no doubt, it is done, with a warning.
    """
    _only(args, "endpoint", "traffic", "policy", "policy_kwargs", "parent")
    name = check_name(_need(args, "endpoint"), "endpoint")
    traffic = check_weights(_need(args, "traffic"))
    warnings: list[str] = []
    if registry.endpoint(name) is None and registry.backend(name) is not None and len(traffic) == 1:
        (other,) = traffic
        if registry.endpoint(other) is not None and registry.backend(other) is None:
            warnings.append(
                f'set_traffic("{name}", {{"{other}": 1.0}}) has its arguments swapped; done as '
                f'set_traffic("{other}", {{"{name}": 1.0}}), which is the right order'
            )
            name, traffic = other, {name: traffic[other]}
    key, before = _endpoint(registry, name)
    unknown = [backend for backend in traffic if registry.backend(backend) is None]
    if unknown:
        what = ", ".join(map(repr, unknown))
        raise ValueError(f"traffic: there is no backend {what}{_among(registry.backends())}")
    policy, policy_kwargs = _policy(args, before)
    value = msgspec.structs.replace(before, traffic=traffic, policy=policy, policy_kwargs=policy_kwargs)
    outcome = _replace(registry, key, before, value, args, wall_ms)
    return msgspec.structs.replace(outcome, warnings=warnings)


def shadow_traffic(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """endpoint, backend, proportion 0..1; 0 removes the shadow."""
    _only(args, "endpoint", "backend", "proportion", "parent")
    key, before = _endpoint(registry, check_name(_need(args, "endpoint"), "endpoint"))
    backend = check_name(_need(args, "backend"), "backend")
    proportion = check_proportion(_need(args, "proportion"))
    if registry.backend(backend) is None:
        raise ValueError(f"backend: there is no backend {backend!r}{_among(registry.backends())}")
    shadows = {name: share for name, share in before.shadows.items() if name != backend}
    if proportion > 0:
        shadows[backend] = proportion
    return _replace(registry, key, before, msgspec.structs.replace(before, shadows=shadows), args, wall_ms)


OPERATIONS: dict[str, Operation] = {
    function.__name__: function
    for function in (
        create_endpoint,
        delete_endpoint,
        list_endpoints,
        create_backend,
        update_backend,
        delete_backend,
        list_backends,
        get_backend_config,
        update_backend_config,
        set_traffic,
        shadow_traffic,
    )
}
"""The control calls by name."""


# --- what people see --------------------------------------------------------------------------------------------------


def endpoint_as_dict(value: EndpointValue) -> dict[str, Any]:
    return {
        "route": value.route,
        "methods": list(value.methods),
        "traffic": dict(value.traffic),
        "shadows": dict(value.shadows),
    }


def config_as_dict(config: BackendConfig) -> dict[str, Any]:
    """All settings, those at their default too."""
    return {name: getattr(config, name) for name in BackendConfig.__struct_fields__}


# --- arguments --------------------------------------------------------------------------------------------------------

_CODE_ARGUMENTS = ("code", "version", "init_args", "init_kwargs", "batchable", "is_class")


def _only(args: Mapping[str, Any], *known: str) -> None:
    unknown = sorted(set(args) - set(known))
    if unknown:
        raise TypeError(f"unknown argument {', '.join(map(repr, unknown))}; known are: {', '.join(known) or 'none'}")


def _need(args: Mapping[str, Any], name: str) -> Any:
    if name not in args:
        raise TypeError(f"argument {name!r} is missing")
    return args[name]


def _typed(args: Mapping[str, Any], name: str, kind: type, what: str, default: Any) -> Any:
    value = args.get(name, default)
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    return value


def _code(args: Mapping[str, Any], config: BackendConfig) -> BackendValue:
    _need(args, "code")
    _need(args, "version")
    return BackendValue(
        code=_typed(args, "code", str, "a string", ""),
        version=_typed(args, "version", str, "a string", ""),
        init_args=_typed(args, "init_args", list, "a list", []),
        init_kwargs=_typed(args, "init_kwargs", dict, "a dict", {}),
        config=config,
        batchable=_typed(args, "batchable", bool, "True or False", False),
        is_class=_typed(args, "is_class", bool, "True or False", False),
    )


def _policy(args: Mapping[str, Any], before: EndpointValue | None = None) -> tuple[str, dict[str, Any]]:
    base = before or EndpointValue()
    policy = args.get("policy", base.policy)
    policy_kwargs = args.get("policy_kwargs", {} if "policy" in args else base.policy_kwargs)
    check_policy(policy, policy_kwargs)
    return policy, policy_kwargs


def _backend(registry: Registry, args: Mapping[str, Any]) -> tuple[str, BackendValue]:
    name = check_name(_need(args, "name"))
    value = registry.backend(name)
    if value is None:
        raise KeyError(f"there is no backend {name!r}{_among(registry.backends())}")
    return BACKEND + name, value


def _endpoint(registry: Registry, name: str) -> tuple[str, EndpointValue]:
    value = registry.endpoint(name)
    if value is None:
        raise ValueError(f"endpoint: there is no endpoint {name!r}{_among(registry.endpoints())}")
    return ENDPOINT + name, value


def _among(names: Mapping[str, Any]) -> str:
    if not names:
        return " (none exists)"
    shown = ", ".join(repr(name) for name in list(names)[:10])
    return f" (there {'is' if len(names) == 1 else 'are'} {shown}{', ...' if len(names) > 10 else ''})"


def _in_order_of(wanted: list[str], existing: list[str]) -> list[str]:
    """*existing* in the order of *wanted* where both name the same methods."""
    return wanted if set(wanted) == set(existing) else existing


# --- writes -----------------------------------------------------------------------------------------------------------


def _parent(registry: Registry, key: str, args: Mapping[str, Any]) -> bytes | None:
    given = args.get("parent")
    if given is None:
        current = registry.get(key)
        return current.stamp if current is not None else None
    if not isinstance(given, str):
        raise TypeError(f"parent must be a stamp in hex, not {given!r}")
    try:
        return bytes.fromhex(given)
    except ValueError:
        raise ValueError(f"parent must be a stamp in hex, not {given!r}") from None


def _write(registry: Registry, key: str, value: Value, parent: bytes | None, wall_ms: int) -> Outcome:
    text = encode_value(value)
    registry.vet(key, value)
    return Outcome(written=[registry.write(key, text, parent, wall_ms)])


def _replace(
    registry: Registry, key: str, before: Value, value: Value, args: Mapping[str, Any], wall_ms: int
) -> Outcome:
    """Write *value* in place of *before*; nothing to write if they are equal and the caller has seen *before*."""
    parent = _parent(registry, key, args)
    current = registry.get(key)
    if value == before and current is not None and parent == current.stamp:
        return Outcome()
    return _write(registry, key, value, parent, wall_ms)

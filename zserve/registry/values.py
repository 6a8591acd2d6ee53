"""What the registry holds: endpoints and backends, their JSON form, and the checks on both.

A value is checked wherever it enters: when a control call writes it, when another node sends it, and when it is read
from disk.  Fields that this version does not know are ignored, so that nodes of two versions work together; a value
whose ``schema`` is newer than ours is refused, because ignoring parts of it would be guessing.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import orjson

from ..config import BackendConfig, parse_backend_config
from .record import MAX_VALUE_BYTES

__all__ = [
    "BACKEND",
    "ENDPOINT",
    "METHODS",
    "POLICIES",
    "SCHEMA",
    "BackendValue",
    "EndpointValue",
    "Value",
    "check_methods",
    "check_name",
    "check_policy",
    "check_proportion",
    "check_route",
    "check_weights",
    "encode_value",
    "parse_value",
    "route_shape",
]

SCHEMA = 1
ENDPOINT = "endpoint/"
BACKEND = "backend/"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
POLICIES: dict[str, tuple[str, ...]] = {
    "random": (),
    "round_robin": (),
    "power_of_two": (),
    "fixed_packing": ("packing_num",),
}
"""The traffic policies that have a short name, and the settings that each takes."""
MAX_NAME_BYTES = 256
MAX_ROUTE_BYTES = 2048

_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_CODE_FILE = re.compile(r"file:[0-9a-f]{64}\.pkl")
_VERSION = re.compile(r"[\w.+-]{1,64}")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_CONVERTERS = ("str", "string", "int", "float", "path")


class EndpointValue(msgspec.Struct, frozen=True, kw_only=True):
    """A named service.

    route: the path, None if it is reachable by handle only; traffic: backend to weight, sums to 1 or is empty;
    shadows: backend to the proportion of requests copied to it, each 0..1; policy: one of :data:`POLICIES`, or a user's
    own as "package.module:Class", which routers import (nobody else does); policy_kwargs: its settings.
    """

    schema: int = SCHEMA
    route: str | None = None
    methods: list[str] = msgspec.field(default_factory=lambda: ["GET"])
    traffic: dict[str, float] = {}
    shadows: dict[str, float] = {}
    policy: str = "random"
    policy_kwargs: dict[str, Any] = {}


class BackendValue(msgspec.Struct, frozen=True, kw_only=True):
    """A named implementation.

    code: "package.module:attribute", or "file:<sha256 hex>.pkl" in the embedded fabric's private code folder.
    version: short text that differs whenever code or init arguments do; running replicas of another one are replaced.
    batchable: the callable takes lists (``@accept_batch``); is_class: one instance for each replica.
    """

    schema: int = SCHEMA
    code: str
    version: str
    init_args: list[Any] = []
    init_kwargs: dict[str, Any] = {}
    config: BackendConfig = BackendConfig()
    batchable: bool = False
    is_class: bool = False


Value: TypeAlias = EndpointValue | BackendValue


# --- checks: each names the argument and its value --------------------------------------------------------------------


def check_name(name: Any, argument: str = "name") -> str:
    """A name of an endpoint or backend: printable text without surrounding space, at most 256 bytes."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a string, not {name!r}")
    if not name or name != name.strip() or not name.isprintable():
        raise ValueError(f"{argument} must be printable text without surrounding space, not {name!r}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{argument} must have at most {MAX_NAME_BYTES} bytes, not {len(name.encode())}")
    return name


def check_route(route: Any) -> str | None:
    """A route: a path that begins with "/", with variables ``{name}``, ``{n:int}``, ``{x:float}``, ``{rest:path}``."""
    if route is None:
        return None
    if not isinstance(route, str):
        raise TypeError(f"route must be a string or None, not {route!r}")
    if not route.startswith("/"):
        raise ValueError(f"route must begin with '/', not {route!r}")
    if route == "/-" or route.startswith("/-/"):
        raise ValueError(f"route must not be under '/-/', which is kept for system pages: {route!r}")
    if len(route.encode()) > MAX_ROUTE_BYTES:
        raise ValueError(f"route must have at most {MAX_ROUTE_BYTES} bytes: {route[:60]!r}...")
    if not route.isprintable() or any(mark in route for mark in " ?#<>\\"):
        raise ValueError(f"route must be a path without spaces, '?', '#', '<', '>' or '\\': {route!r}")
    if "//" in route:
        raise ValueError(f"route must not hold '//': {route!r}")
    seen: set[str] = set()
    for body in _VARIABLE.findall(route):
        variable, _, converter = body.partition(":")
        if not variable.isidentifier() or keyword.iskeyword(variable):
            raise ValueError(f"route: {variable!r} in {route!r} is not a name that an argument can have")
        if ":" in body and converter not in _CONVERTERS:
            raise ValueError(f"route: unknown type {converter!r} in {route!r}; the types are {', '.join(_CONVERTERS)}")
        if variable in seen:
            raise ValueError(f"route: {variable!r} stands twice in {route!r}")
        seen.add(variable)
    rest = _VARIABLE.sub("", route)
    if "{" in rest or "}" in rest:
        raise ValueError(f"route: unbalanced braces in {route!r}")
    return route


def route_shape(route: str) -> str:
    """*route* with the names of its variables left out: two routes of one shape match the same paths."""

    def shape(match: re.Match[str]) -> str:
        converter = match[1].partition(":")[2] or "str"
        return "{" + ("str" if converter == "string" else converter) + "}"

    return _VARIABLE.sub(shape, route)


def check_methods(methods: Any) -> list[str]:
    """HTTP methods, upper-cased, without repeats, in the order given."""
    if isinstance(methods, str) or not isinstance(methods, (list, tuple, set, frozenset)):
        raise TypeError(f"methods must be a list of strings such as ['GET', 'POST'], not {methods!r}")
    found: list[str] = []
    for method in sorted(methods, key=str) if isinstance(methods, (set, frozenset)) else methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must hold strings, not {method!r}")
        if method.upper() not in METHODS:
            raise ValueError(f"methods: {method!r} is not one of {', '.join(METHODS)}")
        if method.upper() not in found:
            found.append(method.upper())
    if not found:
        raise ValueError("methods must name at least one HTTP method, not []")
    return found


def _number(value: Any, argument: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{argument} must be finite, not {value!r}")
    return number


def check_weights(traffic: Any, argument: str = "traffic") -> dict[str, float]:
    """Backend to weight: each 0 or more, together 1 (tolerance 1e-6)."""
    if not isinstance(traffic, Mapping):
        raise TypeError(f"{argument} must be a dict of backend to weight, not {traffic!r}")
    weights: dict[str, float] = {}
    for backend, weight in traffic.items():
        check_name(backend, f"{argument}: a backend")
        weights[backend] = _number(weight, f"{argument}[{backend!r}]")
        if weights[backend] < 0:
            raise ValueError(f"{argument}[{backend!r}] must be 0 or more, not {weight!r}")
    total = math.fsum(weights.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"{argument}: the weights must sum to 1, these sum to {total:.9g}: {dict(traffic)!r}")
    return weights


def check_proportion(proportion: Any, argument: str = "proportion") -> float:
    """A share of requests, 0..1."""
    number = _number(proportion, argument)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{argument} must be between 0 and 1, not {proportion!r}")
    return number


def check_policy(policy: Any, kwargs: Any, argument: str = "policy") -> None:
    """The name of a traffic policy and its settings, as far as can be said without importing a user's own.

    *argument* is what the caller calls the name; the settings are "policy_kwargs" everywhere.
    """
    if not isinstance(policy, str):
        raise TypeError(f"{argument} must be a string, not {policy!r}")
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"policy_kwargs must be a dict of names to values, not {kwargs!r}")
    known = POLICIES.get(policy)
    if known is None:
        if not _CODE.fullmatch(policy):
            names = ", ".join(POLICIES)
            raise ValueError(f"{argument} must be one of {names}, or 'package.module:Class', not {policy!r}")
        return
    for key in kwargs:
        if key not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise ValueError(f"policy_kwargs: {key!r} is unknown; policy {policy!r} {takes}")
    packing = kwargs.get("packing_num", 1)
    if isinstance(packing, bool) or not isinstance(packing, int) or packing < 1:
        raise ValueError(f"policy_kwargs: packing_num must be a whole number from 1, not {packing!r}")


# --- whole values -----------------------------------------------------------------------------------------------------


def check_endpoint(value: EndpointValue) -> None:
    """Raises TypeError or ValueError for the first field that is wrong."""
    check_route(value.route)
    if check_methods(value.methods) != value.methods:
        raise ValueError(f"methods must be upper-case and without repeats, not {value.methods!r}")
    if value.traffic:
        check_weights(value.traffic)
    for backend, proportion in value.shadows.items():
        check_name(backend, "shadows: a backend")
        check_proportion(proportion, f"shadows[{backend!r}]")
    check_policy(value.policy, value.policy_kwargs)


def check_backend(value: BackendValue) -> None:
    """Raises TypeError or ValueError for the first field that is wrong."""
    if not _CODE.fullmatch(value.code) and not _CODE_FILE.fullmatch(value.code):
        raise ValueError(f"code must look like 'package.module:attribute', not {value.code!r}")
    if not _VERSION.fullmatch(value.version):
        raise ValueError(f"version must be 1 to 64 letters, digits or '.+-_', not {value.version!r}")
    if (value.init_args or value.init_kwargs) and not value.is_class:
        raise ValueError(f"init_args are for classes; {value.code!r} is a function")
    batch = value.config.max_batch_size
    if batch is not None and batch > 1 and not value.batchable:
        raise ValueError(f"max_batch_size is {batch}, but {value.code!r} does not take batches: use @accept_batch")


def encode_value(value: Value) -> bytes:
    """The JSON text of *value*, after checking it: the same bytes for equal values."""
    if isinstance(value, EndpointValue):
        check_endpoint(value)
    else:
        check_backend(value)
    try:
        text = orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError) as error:  # orjson names the type that it cannot encode
        raise TypeError(f"not JSON-able: {error}") from None
    if len(text) > MAX_VALUE_BYTES:
        raise ValueError(f"the record would have {len(text)} bytes, more than the {MAX_VALUE_BYTES} allowed")
    return text


def parse_value(key: str, text: bytes) -> Value:
    """The value under *key* from its JSON *text*.  Raises ValueError that says what is wrong with it."""
    kind, slash, name = key.partition("/")
    model: type[Value]
    if kind + slash == ENDPOINT:
        model = EndpointValue
    elif kind + slash == BACKEND:
        model = BackendValue
    else:
        raise ValueError(f"unknown kind of record: {key!r}")
    try:
        check_name(name)
        raw = orjson.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("not a JSON object")
        schema = raw.get("schema", SCHEMA)
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r} is not the one known here ({SCHEMA})")
        if model is BackendValue:
            given = raw.get("config", {})
            if not isinstance(given, dict):
                raise ValueError(f"config is not a JSON object: {given!r}")
            known = BackendConfig.__struct_fields__
            config = parse_backend_config({field: given[field] for field in known if field in given})
            raw = {**raw, "config": msgspec.to_builtins(config)}
        value = msgspec.convert(raw, model)
        if isinstance(value, EndpointValue):
            check_endpoint(value)
        else:
            check_backend(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"{key}: {error}") from None
    return value

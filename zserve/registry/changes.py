"""Several records in one write, for ``zserve deploy``: all of them, or none.

Every change names its key, the whole new value and the stamp of the record that its author had seen.  All of that is
checked against the registry, and against what the registry would hold afterwards, before the first record is written,
in one event of one router.  Other routers may write meanwhile, of course: that is a conflict like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from ..errors import ConflictError
from .operations import Operation, Outcome, config_as_dict
from .registry import MAX_RECORDS, Registry
from .values import BACKEND, ENDPOINT, BackendValue, EndpointValue, Value, encode_value, parse_value, route_shape

__all__ = ["CHANGES", "MAX_CHANGES", "apply_changes", "list_records", "value_as_dict", "values_after"]

MAX_CHANGES = 10_000


class _Change:
    __slots__ = ("key", "parent", "text", "value")

    def __init__(self, key: str, value: Value | None, text: bytes | None, parent: bytes | None) -> None:
        self.key = key
        self.value = value
        self.text = text
        self.parent = parent


def list_records(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """Key to stamp (hex), revision and whole value of every live record."""
    return Outcome(
        {
            record.key: {
                "stamp": record.stamp.hex(),
                "revision": record.revision,
                "value": value_as_dict(registry.value(record.key)),
            }
            for record in registry.records()
            if record.value is not None
        }
    )


def apply_changes(registry: Registry, args: Mapping[str, Any], wall_ms: int) -> Outcome:
    """changes: a list of {key, value, parent}; value None deletes, parent None says that there is no such record.

    ``check``: True only checks, with the same errors.  ConflictError when a record is not the one that the author saw,
    TypeError and ValueError for what must not be written; nothing is written then.  The result is key to new stamp.
    """
    changes = _read(args)
    for change in changes:
        _refuse_conflict(registry, change)
    endpoints, backends = _after(registry, changes)
    _check_references(changes, endpoints, backends)
    _check_routes(endpoints)
    created = sum(registry.get(change.key) is None for change in changes)
    if len(registry) + created > MAX_RECORDS:
        raise ValueError(f"changes: the registry would hold more than {MAX_RECORDS} records")
    for change in changes:
        if change.value is not None:
            registry.vet(change.key, change.value)
    if args.get("check"):
        return Outcome({})
    written = []
    for change in changes:
        # A record with the stamp of a deleted one as its parent: the check above has looked at that already.
        current = registry.get(change.key)
        written.append(registry.write(change.key, change.text, None if current is None else current.stamp, wall_ms))
    return Outcome({record.key: record.stamp.hex() for record in written}, written)


CHANGES: dict[str, Operation] = {"list_records": list_records, "apply_changes": apply_changes}
"""These calls by name, beside :data:`zserve.registry.operations.OPERATIONS`."""


def values_after(
    registry: Registry, args: Mapping[str, Any]
) -> tuple[dict[str, EndpointValue], dict[str, BackendValue]]:
    """(endpoints, backends) by name as they would be after :func:`apply_changes`."""
    return _after(registry, _read(args))


def value_as_dict(value: Value) -> dict[str, Any]:
    """The whole of *value*, defaults included, as JSON can say it."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    if isinstance(value, BackendValue):
        plain["config"] = config_as_dict(value.config)
    return plain


# --- the arguments ----------------------------------------------------------------------------------------------------


def _read(args: Mapping[str, Any]) -> list[_Change]:
    unknown = sorted(set(args) - {"changes", "check"})
    if unknown:
        raise TypeError(f"unknown argument {', '.join(map(repr, unknown))}; known are: changes, check")
    given = args.get("changes")
    if not isinstance(given, list):
        raise TypeError(f"changes must be a list, not {type(given).__name__}")
    if len(given) > MAX_CHANGES:
        raise ValueError(f"changes: {len(given)} are more than {MAX_CHANGES} at a time")
    changes = [_change(item) for item in given]
    keys = [change.key for change in changes]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ValueError(f"changes: {', '.join(twice)} is changed twice")
    # Deletes first, so that whoever gets the records one by one has no two endpoints at one route.
    return sorted(changes, key=lambda change: change.value is not None)


def _change(item: Any) -> _Change:
    if not isinstance(item, dict) or not item.keys() <= {"key", "value", "parent"} or "key" not in item:
        raise TypeError(f"changes must hold objects with key, value and parent, not {str(item)[:200]}")
    key, given, parent = item["key"], item.get("value"), item.get("parent")
    if not isinstance(key, str) or not key.startswith((ENDPOINT, BACKEND)):
        raise ValueError(f"changes: key must begin with {ENDPOINT} or {BACKEND}, not {key!r}")
    if parent is not None and not isinstance(parent, str):
        raise TypeError(f"changes: parent of {key} must be a stamp in hex or null, not {parent!r}")
    try:
        stamp = None if parent is None else bytes.fromhex(parent)
    except ValueError:
        raise ValueError(f"changes: parent of {key} must be a stamp in hex, not {parent!r}") from None
    if given is None:
        return _Change(key, None, None, stamp)
    if not isinstance(given, dict):
        raise TypeError(f"changes: value of {key} must be an object or null, not {given!r}")
    value: Value = parse_value(key, orjson.dumps(given))
    return _Change(key, value, encode_value(value), stamp)


# --- checks -----------------------------------------------------------------------------------------------------------


def _refuse_conflict(registry: Registry, change: _Change) -> None:
    current = registry.get(change.key)
    live = current is not None and current.value is not None
    if change.parent is None:
        if live:
            raise ConflictError(f"{change.key} was created meanwhile; look at the difference again")
        if change.value is None:
            raise KeyError(f"{change.key} does not exist")
    elif current is None or not live:
        raise ConflictError(f"{change.key} was deleted meanwhile; look at the difference again")
    elif current.stamp != change.parent:
        raise ConflictError(
            f"{change.key} was changed meanwhile (it is at revision {current.revision}); look at the difference again"
        )


def _after(
    registry: Registry, changes: list[_Change]
) -> tuple[dict[str, EndpointValue], dict[str, BackendValue]]:
    endpoints, backends = dict(registry.endpoints()), dict(registry.backends())
    for change in changes:
        kind, _, name = change.key.partition("/")
        table: dict[str, Any] = endpoints if kind + "/" == ENDPOINT else backends
        if change.value is None:
            table.pop(name, None)
        else:
            table[name] = change.value
    return endpoints, backends


def _check_references(
    changes: list[_Change], endpoints: Mapping[str, EndpointValue], backends: Mapping[str, BackendValue]
) -> None:
    """No endpoint that is written here, and none whose backend is deleted here, names a backend that is missing."""
    written = {change.key for change in changes if change.value is not None}
    deleted = {change.key[len(BACKEND) :] for change in changes if change.value is None}
    for name, value in endpoints.items():
        for what, table in (("traffic", value.traffic), ("shadows", value.shadows)):
            for backend in table:
                if backend in backends:
                    continue
                if ENDPOINT + name in written:
                    raise ValueError(f"endpoint {name!r}: {what} names {backend!r}, and there is no such backend")
                if backend in deleted:
                    raise ValueError(f"backend {backend!r} is in use by endpoint {name!r} ({what})")


def _check_routes(endpoints: Mapping[str, EndpointValue]) -> None:
    taken: dict[tuple[str, str], str] = {}
    for name, value in endpoints.items():
        if value.route is None:
            continue
        for method in value.methods:
            other = taken.setdefault((route_shape(value.route), method), name)
            if other != name:
                raise ValueError(f"route {value.route!r} ({method}) would be that of endpoints {other!r} and {name!r}")

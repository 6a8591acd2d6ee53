"""The config of a backend: what may be set, its defaults, and the checks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

__all__ = ["QUEUE_ORDERS", "BackendConfig", "parse_backend_config", "user_config_digest"]


QUEUE_ORDERS = ("edf", "fifo")


class BackendConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Settings of one backend; a change reaches running replicas and routers without a restart.

    num_replicas: how many processes run it.
    max_batch_size: None for no batching; otherwise the largest batch that the callable is given (it must be declared
        with ``@accept_batch``).
    batch_wait_timeout: seconds that a batch may wait for more requests, from its first one; 0 never waits.
    max_concurrent_queries: requests that one replica holds at a time, over all routers together; None derives it.
    max_queued_requests: how many requests may wait in one router for this backend; more get 429.
    queue_order: which request is next: "edf", the one with the earliest deadline (those without one wait in line
        and never starve), or "fifo", first in, first out.
    slo_ms: default deadline of a request that brings none, in milliseconds; None for the gateway's default.
    retryable: a request may be run again when its replica dies under it, whatever its method.
    resources: labels and amounts that a worker node must have free to hold a replica.
    user_config: given to the instance's ``reconfigure(config)``.
    graceful_shutdown_timeout: seconds that a replica may take to finish what it runs when it is stopped.
    health_check_period: seconds between two calls of the instance's ``check_health()``, if it has one.
    health_check_timeout: seconds that one such call may take before the replica is replaced.
    """

    num_replicas: int = 1
    max_batch_size: int | None = None
    batch_wait_timeout: float = 0.0
    max_concurrent_queries: int | None = None
    max_queued_requests: int = 10_000
    queue_order: str = "edf"
    slo_ms: float | None = None
    retryable: bool = False
    resources: dict[str, float] = {}
    user_config: Any = None
    graceful_shutdown_timeout: float = 20.0
    health_check_period: float = 10.0
    health_check_timeout: float = 30.0


_LIMITS: dict[str, tuple[float, float]] = {
    "num_replicas": (0, 10_000),
    "max_batch_size": (1, 100_000),
    "batch_wait_timeout": (0.0, 3600.0),
    "max_concurrent_queries": (1, 1_000_000),
    "max_queued_requests": (0, 100_000_000),
    "slo_ms": (0.001, 86_400_000.0),
    "graceful_shutdown_timeout": (0.0, 86_400.0),
    "health_check_period": (0.05, 86_400.0),
    "health_check_timeout": (0.05, 86_400.0),
}


def parse_backend_config(
    given: Mapping[str, Any] | BackendConfig | None, base: BackendConfig | None = None
) -> BackendConfig:
    """*given* laid over *base* (default: the defaults), checked.

    Raises TypeError for a wrong type and ValueError for an unknown key or a bad value; both name the key and the value.
    """
    if isinstance(given, BackendConfig):
        given = {name: getattr(given, name) for name in BackendConfig.__struct_fields__}
    elif given is None:
        given = {}
    elif not isinstance(given, Mapping):
        raise TypeError(f"config must be a dict, not {type(given).__name__}: {given!r}")
    known = BackendConfig.__struct_fields__
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        raise ValueError(f"unknown backend config {', '.join(map(repr, unknown))}; the keys are: {', '.join(known)}")
    for key, value in given.items():
        _check(key, value)
    merged = {name: getattr(base, name) for name in known} if base is not None else {}
    merged.update(given)
    try:
        return msgspec.convert(merged, BackendConfig, strict=True)
    except msgspec.ValidationError as error:  # pragma: no cover - _check sees to it
        raise TypeError(f"backend config: {error}") from None


def user_config_digest(config: BackendConfig) -> bytes:
    """Eight bytes that tell one ``user_config`` from another."""
    return hashlib.blake2b(orjson.dumps(config.user_config, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()


def _check(key: str, value: Any) -> None:
    if key == "user_config":
        return
    if key == "queue_order":
        if value not in QUEUE_ORDERS:
            raise ValueError(f"{key} must be one of {', '.join(QUEUE_ORDERS)}, not {value!r}")
        return
    if key == "retryable":
        if not isinstance(value, bool):
            raise TypeError(f"{key} must be True or False, not {value!r}")
        return
    if key == "resources":
        _check_resources(value)
        return
    if value is None and getattr(BackendConfig(), key) is None:
        return
    whole = isinstance(getattr(BackendConfig(), key), int) or key in ("max_batch_size", "max_concurrent_queries")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{key} must be {'a whole number' if whole else 'a number'}, not {value!r}")
    low, high = _LIMITS[key]
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{key} must be between {low:g} and {high:g}, not {value!r}")


def _check_resources(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"resources must be a dict of label to amount, not {value!r}")
    for label, amount in value.items():
        if not isinstance(label, str):
            raise TypeError(f"resources: a label must be a string, not {label!r}")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)):
            raise TypeError(f"resources[{label!r}] must be a number, not {amount!r}")
        if not math.isfinite(amount) or amount < 0:
            raise ValueError(f"resources[{label!r}] must be 0 or more, not {amount!r}")

"""Checks of arguments that need no fabric: a wrong type is a TypeError, a wrong value a ValueError, both name it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..registry.values import check_policy
from .code import is_json

__all__ = [
    "WEIGHT_TOLERANCE",
    "check_callable",
    "check_methods",
    "check_name",
    "check_number",
    "check_proportion",
    "check_route",
    "check_traffic",
    "check_traffic_policy",
]

MAX_NAME = 200
WEIGHT_TOLERANCE = 1e-6
"""How far the weights of an endpoint may be from summing to 1."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110, 5.6.2


def check_name(argument: str, value: Any) -> str:
    """A name of an endpoint or a backend: 1 to 200 printable characters."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {type(value).__name__}: {value!r}")
    if not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        raise ValueError(f"{argument} must be 1 to {MAX_NAME} printable characters, not {value[:MAX_NAME]!r}")
    return value


def check_route(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"route must be a string or None, not {type(value).__name__}: {value!r}")
    if not value.startswith("/"):
        raise ValueError(f"route must begin with '/', not {value!r}")
    if value == "/-" or value.startswith("/-/"):
        raise ValueError(f"route {value!r}: paths under /-/ belong to the system")
    if any(character in "?#" or character.isspace() or not character.isprintable() for character in value):
        raise ValueError(f"route {value!r} must not hold spaces, '?' or '#'")
    return value


def check_methods(value: Any) -> list[str]:
    """HTTP methods in upper case, each once, in order."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, set, frozenset)):
        raise TypeError(f'methods must be a list such as ["GET", "POST"], not {value!r}')
    methods: list[str] = []
    for method in sorted(value) if isinstance(value, (set, frozenset)) else value:
        if not isinstance(method, str):
            raise TypeError(f"methods must hold strings, not {method!r}")
        if not _TOKEN.match(method):
            raise ValueError(f"methods: {method!r} is not an HTTP method")
        if method.upper() not in methods:
            methods.append(method.upper())
    if not methods:
        raise ValueError("methods must name at least one HTTP method")
    return methods


def check_number(argument: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number, not {value!r}")
    return value


def check_proportion(argument: str, value: Any) -> float:
    number = check_number(argument, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{argument} must be between 0 and 1, not {value!r}")
    return float(number)


def check_traffic(endpoint: str, traffic: Any) -> dict[str, float]:
    """Weights by backend: each 0 or more, summing to 1 within 1e-6."""
    if not isinstance(traffic, Mapping):
        raise TypeError(
            f"traffic of {endpoint!r} must be a dict of backend name to weight, not {type(traffic).__name__}: "
            f"{traffic!r}"
        )
    weights: dict[str, float] = {}
    for name, weight in traffic.items():
        if not isinstance(name, str):
            raise TypeError(f"traffic of {endpoint!r}: a backend name must be a string, not {name!r}")
        number = check_number(f"traffic of {endpoint!r}: the weight of {name!r}", weight)
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"traffic of {endpoint!r}: the weight of {name!r} must be 0 or more, not {weight!r}")
        weights[name] = float(number)
    total = math.fsum(weights.values())
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise ValueError(
            f"traffic of {endpoint!r}: the weights must sum to 1, these sum to {total:.9g}: {dict(traffic)!r}"
        )
    return weights


def check_traffic_policy(policy: Any, kwargs: Any, argument: str = "policy") -> dict[str, Any]:
    """Those of ``policy`` and ``policy_kwargs`` that are given, as arguments of a control call.

    Without the other one, either is checked by the router only, and so is whether a class of the user's is of use.
    """
    given: dict[str, Any] = {}
    if policy is not None:
        check_policy(policy, {} if kwargs is None else kwargs, argument)
        given["policy"] = policy
    if kwargs is not None:
        if not isinstance(kwargs, Mapping):
            raise TypeError(f"policy_kwargs must be a dict, not {kwargs!r}")
        given["policy_kwargs"] = dict(kwargs)
        if not is_json(given["policy_kwargs"]):
            raise TypeError(
                "policy_kwargs must be made of None, bool, int, finite float, str, and lists and dicts of them, "
                f"not {kwargs!r}"
            )
    return given


def check_callable(argument: str, target: Any, *, has_arguments: bool = False) -> Callable[..., Any]:
    """A function, a class or another callable; constructor arguments make sense for a class only."""
    if not callable(target):
        raise TypeError(f"{argument} must be a function or a class, not {type(target).__name__}: {target!r}")
    if has_arguments and not inspect.isclass(target):
        raise ValueError(
            f"{argument}: {getattr(target, '__qualname__', target)!r} is a function, which takes no init_args; "
            f"constructor arguments are for classes"
        )
    checked: Callable[..., Any] = target
    return checked

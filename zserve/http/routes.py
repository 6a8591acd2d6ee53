"""From method and path to an endpoint.

Routing is werkzeug's; what has no variables is looked up in a plain dict first, since that is most requests and twenty
times cheaper.  A table is immutable: a change of the registry makes a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import IntegerConverter, Map, RequestRedirect, Rule, ValidationError

__all__ = ["Match", "NoMatch", "RouteTable", "to_werkzeug"]

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_INT64_MAX = 2**63 - 1
_CONVERTERS = {None: "string", "str": "string", "string": "string", "int": "int", "float": "float", "path": "path"}

Match = tuple[str, dict[str, str | int | float]]
"""(endpoint, path variables)"""


class _Int64(IntegerConverter):
    """Whole numbers of 64 bits, which is what the wire has (and ``int()`` of thousands of digits raises an error)."""

    def to_python(self, value: str) -> int:
        if len(value.lstrip("0")) > 19 or (number := int(value)) > _INT64_MAX:
            raise ValidationError
        return number


class NoMatch(Exception):
    """No endpoint for this path (``allowed`` is None) or not for this method (``allowed`` says which)."""

    def __init__(self, allowed: list[str] | None = None) -> None:
        super().__init__(allowed)
        self.allowed = allowed


def to_werkzeug(route: str) -> str:
    """``/a/{name}/{n:int}`` as werkzeug writes it: ``/a/<string:name>/<int:n>``.  Raises ValueError."""

    def convert(match: re.Match[str]) -> str:
        name, kind = match.group(1), match.group(2)
        if kind not in _CONVERTERS:
            kinds = "int, float, path and string"
            raise ValueError(f"route {route!r}: unknown kind of variable {kind!r}; there are {kinds}")
        return f"<{_CONVERTERS[kind]}:{name}>"

    converted = _VARIABLE.sub(convert, route.replace("<", "%3C").replace(">", "%3E"))
    if "{" in converted or "}" in converted:
        raise ValueError(f"route {route!r}: braces enclose a variable, as in /a/{{name}} or /a/{{n:int}}")
    return converted


class RouteTable:
    """All routes of the fabric at one moment.

    *endpoints* yields (name, route, methods); those without a route (None) are not reachable over HTTP.
    """

    def __init__(self, endpoints: Iterable[tuple[str, str | None, Iterable[str]]] = ()) -> None:
        self._static: dict[str, dict[str, Match]] = {}
        self._listing: dict[str, list[object]] = {}
        rules = []
        for name, route, methods in endpoints:
            if route is None:
                continue
            allowed = sorted({method.upper() for method in methods})
            # Two endpoints may share a path with different methods: then the second pair follows the first.
            self._listing.setdefault(route, []).extend([name, list(allowed)])
            if "GET" in allowed and "HEAD" not in allowed:
                allowed.append("HEAD")
            if "{" in route:
                rules.append(Rule(to_werkzeug(route), endpoint=name, methods=allowed))
            else:
                here = self._static.setdefault(route, {})
                for method in allowed:
                    here[method] = (name, {})
        self._variable = None
        if rules:
            converters = {"int": _Int64}
            variable = Map(rules, strict_slashes=False, merge_slashes=False, converters=converters)
            self._variable = variable.bind("localhost")

    def match(self, method: str, path: str) -> Match:
        """The endpoint for a request, *path* percent-decoded.  Raises NoMatch."""
        here = self._static.get(path)
        if here is not None:
            found = here.get(method)
            if found is not None:
                return found
        return self._search(method, path, here)

    def _search(self, method: str, path: str, here: Mapping[str, Match] | None) -> Match:
        allowed = set(here) if here is not None else set()
        if self._variable is not None:
            try:
                endpoint, params = self._variable.match(path, method=method)
                return endpoint, dict(params)
            except MethodNotAllowed as error:
                allowed.update(error.valid_methods or ())
            except (NotFound, RequestRedirect):
                pass
        if allowed:
            raise NoMatch(sorted(allowed))
        raise NoMatch

    def listing(self) -> dict[str, list[object]]:
        """What ``/-/routes`` shows: ``{"/simple": ["simple_endpoint", ["GET"]]}``."""
        return dict(sorted(self._listing.items()))

"""What ``zserve deploy`` reads: a TOML file that says what a fabric is to serve.

    [backends."SVM:v1"]
    code = "digits:SVM"                     # package.module:attribute, importable on the worker nodes
    init_args = []                          # for the constructor of a class; init_kwargs likewise
    config = { num_replicas = 2, max_batch_size = 32 }

    [endpoints.digits]
    route = "/digits"
    methods = ["POST"]
    traffic = { "SVM:v1" = 1.0 }
    shadows = {}                            # backend to proportion
    policy = "fixed_packing"                # or any other, also a class of one's own, "package.module:Class"
    policy_kwargs = { packing_num = 8 }

A key that is left out has its default, whatever the fabric has now.  Everything is checked here that needs neither the
fabric nor the code; an error names file, line, table and key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from zserve.config import BackendConfig, parse_backend_config
from zserve.control.code import is_json
from zserve.errors import ServeError
from zserve.registry.values import (
    EndpointValue,
    check_endpoint,
    check_methods,
    check_name,
    check_proportion,
    check_route,
    check_weights,
)

from .toml_lines import TomlLines

__all__ = ["BackendEntry", "DeployFile", "DeployFileError", "EndpointEntry", "read_deploy_file"]

_KINDS = ("backends", "endpoints")
_BACKEND_KEYS = ("code", "init_args", "init_kwargs", "config", "version", "batchable")
_ENDPOINT_KEYS = ("route", "methods", "traffic", "shadows", "policy", "policy_kwargs")
_JSON_ONLY = "may hold strings, numbers, booleans, and lists and tables of them"
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_VERSION = re.compile(r"[\w.+-]{1,40}")

T = TypeVar("T")


class DeployFileError(ServeError):
    """The file cannot be used; the text names the place.  Ends the command like other bad usage."""

    exit_status = 2


class EndpointEntry(msgspec.Struct, frozen=True):
    """One table of endpoints.  ``has_policy``: whether the file names the policy, else it is the fabric's default."""

    name: str
    value: EndpointValue
    has_policy: bool


class BackendEntry(msgspec.Struct, frozen=True):
    """One table of backends.  ``version``, where given, is the user's own; then the code is not looked at."""

    name: str
    code: str
    init_args: list[Any]
    init_kwargs: dict[str, Any]
    config: BackendConfig
    version: str | None
    batchable: bool | None


class DeployFile:
    """The content of one file, checked.  :meth:`error` makes errors that name a place in it."""

    def __init__(
        self, path: Path, lines: TomlLines, endpoints: list[EndpointEntry], backends: list[BackendEntry]
    ) -> None:
        self.path = path
        self.endpoints = endpoints
        self.backends = backends
        self._lines = lines

    def error(self, place: Sequence[str], text: str) -> DeployFileError:
        """*place*: the table and key, such as ("backends", "SVM:v1", "code")."""
        return _error(self.path, self._lines, place, text)


def read_deploy_file(path: Path) -> DeployFile:
    """The file at *path*.  Raises :class:`DeployFileError` for the first thing that is wrong with it."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DeployFileError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DeployFileError(f"{path} is not text in UTF-8") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeployFileError(f"{path} is not valid TOML: {error}") from None
    return _Reader(path, TomlLines(text)).read(content)


class _Reader:
    def __init__(self, path: Path, lines: TomlLines) -> None:
        self._path = path
        self._lines = lines

    def read(self, content: Mapping[str, Any]) -> DeployFile:
        self._only((), content, _KINDS)
        endpoints = [self._endpoint(name, table) for name, table in self._tables(content, "endpoints")]
        backends = [self._backend(name, table) for name, table in self._tables(content, "backends")]
        if not endpoints and not backends:
            raise DeployFileError(f"{self._path} names no endpoint and no backend; `zserve deploy --help` shows how")
        return DeployFile(self._path, self._lines, endpoints, backends)

    def _tables(self, content: Mapping[str, Any], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        found = content.get(kind, {})
        if not isinstance(found, dict):
            raise self._fault((kind,), f"must be tables ([{kind}.NAME]), not {found!r}")
        for name, table in found.items():
            self._checked((kind, name), check_name, name)
            if not isinstance(table, dict):
                raise self._fault((kind, name), f"must be a table ([{kind}.NAME]), not {table!r}")
        return list(found.items())

    def _endpoint(self, name: str, table: Mapping[str, Any]) -> EndpointEntry:
        place = ("endpoints", name)
        self._only(place, table, _ENDPOINT_KEYS)
        given: dict[str, Any] = {}
        if "route" in table:
            given["route"] = self._checked((*place, "route"), check_route, table["route"])
        if "methods" in table:
            given["methods"] = self._checked((*place, "methods"), check_methods, table["methods"])
        if table.get("traffic", {}) != {}:
            given["traffic"] = self._checked((*place, "traffic"), check_weights, table["traffic"])
        shadows = self._typed(place, table, "shadows", dict, "a table of backend to proportion", {})
        for backend, share in shadows.items():
            self._checked((*place, "shadows", backend), check_proportion, share)
        given["shadows"] = {backend: float(share) for backend, share in shadows.items() if share > 0}
        given["policy_kwargs"] = self._typed(place, table, "policy_kwargs", dict, "a table", {})
        if given["policy_kwargs"] and "policy" not in table:
            raise self._fault((*place, "policy_kwargs"), "needs policy beside it")
        if "policy" in table:
            given["policy"] = table["policy"]
        return EndpointEntry(name, self._checked(place, _endpoint_value, given), "policy" in table)

    def _backend(self, name: str, table: Mapping[str, Any]) -> BackendEntry:
        place = ("backends", name)
        self._only(place, table, _BACKEND_KEYS)
        if "code" not in table:
            raise self._fault(place, 'needs code = "package.module:attribute"')
        code = self._typed(place, table, "code", str, "a string", "")
        if not _CODE.fullmatch(code):
            raise self._fault((*place, "code"), f"must look like 'package.module:attribute', not {code!r}")
        init_args = self._typed(place, table, "init_args", list, "a list", [])
        init_kwargs = self._typed(place, table, "init_kwargs", dict, "a table", {})
        for key, value in (("init_args", init_args), ("init_kwargs", init_kwargs)):
            if not is_json(value):
                raise self._fault((*place, key), _JSON_ONLY)
        config = self._typed(place, table, "config", dict, "a table", {})
        version = self._typed(place, table, "version", str, "a string", None)
        if version is not None and not _VERSION.fullmatch(version):
            raise self._fault((*place, "version"), f"must be 1 to 40 letters, digits or '.+-_', not {version!r}")
        batchable = self._typed(place, table, "batchable", bool, "true or false", None)
        if batchable is not None and version is None:
            raise self._fault((*place, "batchable"), "is for a backend with version; else it is seen from the code")
        return BackendEntry(
            name, code, init_args, init_kwargs, self._config((*place, "config"), config), version, batchable
        )

    def _config(self, place: tuple[str, ...], config: Mapping[str, Any]) -> BackendConfig:
        for key, value in config.items():  # one by one, so that the error has the line of the one that is wrong
            self._checked((*place, key), parse_backend_config, {key: value})
        if not is_json(config.get("user_config")):
            raise self._fault((*place, "user_config"), _JSON_ONLY)
        return parse_backend_config(config)

    # --- checks -----------------------------------------------------------------------------------------------------

    def _only(self, place: tuple[str, ...], table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                raise self._fault((*place, key), f"is not known here; the keys are: {', '.join(known)}")

    def _typed(
        self, place: tuple[str, ...], table: Mapping[str, Any], key: str, kind: type, what: str, default: Any
    ) -> Any:
        value = table.get(key, default)
        if value is not default and not isinstance(value, kind):
            raise self._fault((*place, key), f"must be {what}, not {value!r}")
        return value

    def _checked(self, place: tuple[str, ...], check: Callable[[Any], T], value: Any) -> T:
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            raise self._fault(place, str(error)) from None

    def _fault(self, place: Sequence[str], text: str) -> DeployFileError:
        return _error(self._path, self._lines, place, text)


def _endpoint_value(given: Mapping[str, Any]) -> EndpointValue:
    if not isinstance(given.get("policy", ""), str):
        raise TypeError(f"policy must be a string, not {given['policy']!r}")
    value = EndpointValue(**given)
    check_endpoint(value)
    return value


def _error(path: Path, lines: TomlLines, place: Sequence[str], text: str) -> DeployFileError:
    line = lines.find(place)
    table, key = place[:2], ".".join(place[2:])
    shown = f"{path}:{line}" if line else str(path)
    if len(place) > 1:
        shown += f": [{'.'.join(_quoted(part) for part in table)}]"
        key = f" {key}:" if key and not text.startswith(key) else ""
    else:
        key = f": {place[0]!r}" if place else ""
        text = text if text.startswith(("is ", "must ")) else f": {text}"
    return DeployFileError(f"{shown}{key} {text}")


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'

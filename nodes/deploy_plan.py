"""The difference between what a file says and what a fabric has, and the writes that make it go away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from zserve.registry.changes import value_as_dict
from zserve.registry.values import BACKEND, ENDPOINT, BackendValue, EndpointValue

from .deploy_file import BackendEntry, DeployFile

__all__ = ["CodeFacts", "Field", "Plan", "Step", "backend_value", "make_plan"]

_HIDDEN = frozenset(("schema", "is_class"))


class CodeFacts(msgspec.Struct, frozen=True):
    """What is known of the code behind a backend: ``version`` differs whenever the code does."""

    version: str
    is_class: bool
    batchable: bool


class Field(msgspec.Struct, frozen=True):
    """One field that differs, such as ``config.num_replicas``; ``before`` or ``after`` is None where there is none."""

    name: str
    before: Any
    after: Any


class Step(msgspec.Struct, frozen=True):
    """One record to write.

    action: "add", "change" or "remove"; key: of the record; value: what it is to hold, None to remove it; before: what
    it holds; parent: the stamp of the record that this was compared with.
    """

    action: str
    key: str
    fields: list[Field]
    value: dict[str, Any] | None
    before: dict[str, Any] | None
    parent: str | None

    @property
    def kind(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]

    def change(self) -> dict[str, Any]:
        """As ``apply_changes`` takes it."""
        return {"key": self.key, "value": self.value, "parent": self.parent}


class Plan(msgspec.Struct, frozen=True):
    """steps: what is to be written; unchanged: keys that are as the file says; left: keys that it does not name and
    that stay; serving: the backends that must be up for the file's endpoints to be served."""

    steps: list[Step]
    unchanged: list[str]
    left: list[str]
    serving: list[str]

    def of(self, kind: str, *actions: str) -> list[Step]:
        return [step for step in self.steps if step.kind == kind and step.action in actions]


def make_plan(
    file: DeployFile,
    facts: Mapping[str, CodeFacts],
    records: Mapping[str, Mapping[str, Any]],
    *,
    policy: str = "random",
    policy_kwargs: Mapping[str, Any] | None = None,
    prune: bool = False,
) -> Plan:
    """Compare *file* with *records* (what the control call ``list_records`` gives).

    *facts* tell of the code of each backend; *policy* is that of endpoints that name none.  Raises
    :class:`DeployFileError` for an endpoint that names a backend which will not be there.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for backend in file.backends:
        there = records.get(BACKEND + backend.name, {}).get("value")
        wanted[BACKEND + backend.name] = value_as_dict(backend_value(backend, facts[backend.name], there))
    for endpoint in file.endpoints:
        value = endpoint.value
        if not endpoint.has_policy:
            value = msgspec.structs.replace(value, policy=policy, policy_kwargs=dict(policy_kwargs or {}))
        wanted[ENDPOINT + endpoint.name] = value_as_dict(value)
    strangers = [key for key in records if key not in wanted]
    _check_backends_exist(file, {*wanted, *(() if prune else strangers)})
    steps, unchanged = [], []
    for key, value_dict in wanted.items():
        there = records.get(key)
        fields = list(_differences(there["value"] if there else _defaults(key), value_dict))
        if there is None:
            steps.append(Step("add", key, fields, value_dict, None, None))
        elif fields:
            steps.append(Step("change", key, fields, value_dict, dict(there["value"]), there["stamp"]))
        else:
            unchanged.append(key)
    if prune:
        steps += [
            Step("remove", key, [], None, dict(records[key]["value"]), records[key]["stamp"]) for key in strangers
        ]
    serving = {
        backend
        for endpoint in file.endpoints
        for backend in (*endpoint.value.traffic, *endpoint.value.shadows)
        if endpoint.value.traffic.get(backend, 1.0) > 0
    }
    return Plan(
        sorted(steps, key=lambda step: step.key), sorted(unchanged), [] if prune else sorted(strangers), sorted(serving)
    )


def backend_value(entry: BackendEntry, facts: CodeFacts, there: Mapping[str, Any] | None) -> BackendValue:
    """The record of *entry*.

    Its version is that of the code, with a hash of the constructor's arguments where there are any: replicas are
    replaced when either changes.  What runs already is left alone where only the way to name its version differs
    (``update_backend`` adds a suffix of its own, ``zserve run`` no hash).
    """
    version = facts.version
    arguments = [entry.init_args, entry.init_kwargs]
    if any(arguments):
        text = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
        version += "-" + hashlib.blake2b(text, digest_size=4).hexdigest()
    is_class = facts.is_class
    if there is not None and there["code"] == entry.code:
        is_class = is_class or (there["is_class"] and entry.version is not None)
        if arguments == [there["init_args"], there["init_kwargs"]]:
            running = str(there["version"])
            if running == facts.version or running.startswith(facts.version + "-"):
                version = running
    return BackendValue(
        code=entry.code,
        version=version,
        init_args=entry.init_args,
        init_kwargs=entry.init_kwargs,
        config=entry.config,
        batchable=facts.batchable,
        is_class=is_class,
    )


def _check_backends_exist(file: DeployFile, keys: set[str]) -> None:
    for endpoint in file.endpoints:
        for what, table in (("traffic", endpoint.value.traffic), ("shadows", endpoint.value.shadows)):
            for backend in table:
                if BACKEND + backend not in keys:
                    raise file.error(
                        ("endpoints", endpoint.name, what),
                        f"names backend {backend!r}, which is neither in this file nor (to stay) in the fabric",
                    )


def _defaults(key: str) -> dict[str, Any]:
    """What a new record differs from, so that its difference lists what is not at its default."""
    if key.startswith(ENDPOINT):
        return {**value_as_dict(EndpointValue()), "route": None, "methods": None}
    return {**value_as_dict(BackendValue(code="", version="")), "code": None, "version": None}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[Field]:
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if was == now or (not prefix and name in _HIDDEN):
            continue
        if not prefix and name == "methods" and was and set(was) == set(now or ()):
            continue
        if isinstance(was or {}, Mapping) and isinstance(now or {}, Mapping) and (was or now):
            yield from _differences(was or {}, now or {}, f"{prefix}{name}.")
        else:
            yield Field(prefix + name, was, now)

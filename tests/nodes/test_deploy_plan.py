"""The difference between a file and a fabric, and how it is written away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from zserve.nodes.deploy import apply_plan, check_plan
from zserve.nodes.deploy_file import DeployFileError, read_deploy_file
from zserve.nodes.deploy_plan import CodeFacts, Plan, make_plan
from zserve.nodes.deploy_view import plan_as_dict, render_plan

from zserve.errors import ApplicationError, ConflictError, ServeError
from zserve.registry.changes import CHANGES
from zserve.registry.operations import OPERATIONS
from zserve.registry.registry import Registry

APP = """
[backends.old]
code = "m:Old"
init_kwargs = { text = "x" }
[backends.new]
code = "m:new"
config = { num_replicas = 2 }
[endpoints.shop]
route = "/shop"
traffic = { old = 0.9, new = 0.1 }
"""
FACTS = {"old": CodeFacts("v-old", True, False), "new": CodeFacts("v-new", False, False)}


class Fabric:
    """A registry behind the control calls of ``zserve deploy``; *broken* backends never come up."""

    def __init__(self, *broken: str) -> None:
        self.registry = Registry(b"a" * 16)
        self.broken = set(broken)
        self.calls: list[str] = []
        self.before_call: Callable[[str], None] = lambda op: None

    def call(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = 30.0) -> Any:
        self.before_call(op)
        args = orjson.loads(orjson.dumps(args or {}))
        if op == "wait_configured":
            value = self.registry.backend(args["name"])
            if value is not None and value.config.user_config == "refused":
                raise ApplicationError("reconfigure() failed")
            return None
        if op == "wait_backend":
            self.calls.append(f"wait {args['name']}")
            value = self.registry.backend(args["name"])
            assert value is not None
            if value.code in self.broken:
                raise ApplicationError("ValueError: no such model file")
            return None
        if op == "apply_changes":
            keys = "+".join(sorted(change["key"].partition("/")[2] for change in args["changes"]))
            self.calls.append(f"{'check' if args.get('check') else 'write'} {keys}")
        return {**OPERATIONS, **CHANGES}[op](self.registry, args, 1_700_000_000_000).result

    def values(self) -> dict[str, Any]:
        return {key: record["value"] for key, record in self.call("list_records").items()}


def plan_of(
    tmp_path: Path, fabric: Fabric, text: str = APP, facts: dict[str, CodeFacts] = FACTS, **more: Any
) -> Plan:
    file = tmp_path / "app.toml"
    file.write_text(text)
    return make_plan(read_deploy_file(file), facts, fabric.call("list_records"), **more)


def deploy(tmp_path: Path, fabric: Fabric, text: str = APP, **more: Any) -> list[str]:
    said: list[str] = []
    apply_plan(fabric, plan_of(tmp_path, fabric, text, **more), timeout_s=10.0, say=said.append)
    return said


def fields(plan: Plan, key: str) -> dict[str, tuple[Any, Any]]:
    (step,) = [step for step in plan.steps if step.key == key]
    return {field.name: (field.before, field.after) for field in step.fields}


# --- the difference ---------------------------------------------------------------------------------------------------


def test_everything_is_new_on_an_empty_fabric(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, Fabric())
    assert [(step.action, step.key) for step in plan.steps] == [
        ("add", "backend/new"),
        ("add", "backend/old"),
        ("add", "endpoint/shop"),
    ]
    assert fields(plan, "backend/new") == {
        "code": (None, "m:new"),
        "version": (None, "v-new"),
        "config.num_replicas": (1, 2),
    }
    assert plan.serving == ["new", "old"]


def test_a_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    plan = plan_of(tmp_path, fabric)
    assert (plan.steps, plan.unchanged) == ([], ["backend/new", "backend/old", "endpoint/shop"])
    assert "= 3 as they should be" in render_plan(plan)


def test_each_field_that_differs_is_listed(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    other = (
        APP.replace("old = 0.9, new = 0.1", "old = 1.0")
        .replace("num_replicas = 2", "max_queued_requests = 5")
        .replace('"/shop"', '"/s"')
    )
    plan = plan_of(tmp_path, fabric, other)
    assert fields(plan, "endpoint/shop") == {
        "route": ("/shop", "/s"),
        "traffic.old": (0.9, 1.0),
        "traffic.new": (0.1, None),
    }
    assert fields(plan, "backend/new") == {
        "config.num_replicas": (2, 1),  # what the file leaves out has its default
        "config.max_queued_requests": (10_000, 5),
    }
    text = render_plan(plan)
    assert "~ endpoint shop" in text
    assert "(none)" in text
    change = plan_as_dict(plan)["changes"][0]
    assert (change["action"], change["kind"], change["name"]) == ("change", "backend", "new")
    assert {"field": "config.num_replicas", "before": 2, "after": 1} in change["fields"]


def test_new_code_and_new_arguments_make_a_new_version(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    code = plan_of(tmp_path, fabric, facts={**FACTS, "new": CodeFacts("v-newer", False, False)})
    assert fields(code, "backend/new") == {"version": ("v-new", "v-newer")}
    arguments = plan_of(tmp_path, fabric, APP.replace('"x"', '"y"'))
    assert fields(arguments, "backend/old").keys() == {"version", "init_kwargs.text"}


def test_what_was_started_in_another_way_is_recognised(tmp_path: Path) -> None:
    """``zserve run`` names versions without the arguments, ``update_backend`` with a suffix."""
    fabric = Fabric()
    common = {"code": "m:Old", "is_class": True, "init_kwargs": {"text": "x"}}
    fabric.call("create_backend", {"name": "old", "version": "v-old", **common})
    new = {"name": "new", "version": "v-new-1234", "code": "m:new", "config": {"num_replicas": 2}}
    fabric.call("create_backend", new)
    plan = plan_of(tmp_path, fabric)
    assert plan.unchanged == ["backend/new", "backend/old"]


def test_the_order_of_methods_is_no_difference(tmp_path: Path) -> None:
    fabric = Fabric()
    fabric.call("create_endpoint", {"name": "e", "route": "/e", "methods": ["POST", "GET"]})
    plan = plan_of(tmp_path, fabric, '[endpoints.e]\nroute = "/e"\nmethods = ["GET", "POST"]')
    assert plan.steps == []


def test_an_endpoint_that_names_no_policy_has_the_fabric_s(tmp_path: Path) -> None:
    fabric = Fabric()
    plan = plan_of(tmp_path, fabric, policy="round_robin")
    assert fields(plan, "endpoint/shop")["policy"] == ("random", "round_robin")
    named = APP + 'policy = "random"'
    assert "policy" not in fields(plan_of(tmp_path, fabric, named, policy="round_robin"), "endpoint/shop")


def test_what_the_file_does_not_name_stays_unless_pruned(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    less = '[backends.new]\ncode = "m:new"\nconfig = { num_replicas = 2 }'
    plan = plan_of(tmp_path, fabric, less)
    assert (plan.steps, plan.left) == ([], ["backend/old", "endpoint/shop"])
    assert "(--prune removes them)" in render_plan(plan)
    pruned = plan_of(tmp_path, fabric, less, prune=True)
    assert [step.key for step in pruned.steps] == ["backend/old", "endpoint/shop"]
    assert {step.action for step in pruned.steps} == {"remove"}


def test_traffic_needs_a_backend_that_is_there_to_stay(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    only = '[endpoints.more]\ntraffic = { old = 1.0 }'
    assert [step.key for step in plan_of(tmp_path, fabric, only).steps] == ["endpoint/more"]
    with pytest.raises(DeployFileError, match=r"app.toml:2: \[endpoints.more\] traffic: names backend 'old', which is"):
        plan_of(tmp_path, fabric, only, prune=True)


def test_nothing_in_a_name_controls_the_terminal(tmp_path: Path) -> None:
    text = render_plan(plan_of(tmp_path, Fabric(), '[backends.b]\ncode = "m:C"\ninit_args = ["\\u001b[2J"]',
                               {"b": CodeFacts("1", True, False)}))  # fmt: skip
    assert "\x1b[2J" not in text


# --- carrying it out --------------------------------------------------------------------------------------------------


def test_backends_are_up_before_traffic_points_at_them(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    assert fabric.calls == ["check new+old+shop", "write new+old", "wait new", "wait old", "write shop"]


def test_backends_go_after_the_endpoints_that_use_them(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    fabric.calls.clear()
    said = deploy(tmp_path, fabric, '[backends.new]\ncode = "m:new"\nconfig = { num_replicas = 2 }', prune=True)
    assert fabric.calls == ["check old+shop", "write shop", "write old"]
    assert said == ["removed endpoint shop", "removed backend old"]


def test_it_waits_for_what_serves_even_if_nothing_changed(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    fabric.calls.clear()
    fabric.broken.add("m:new")
    with pytest.raises(ApplicationError, match="no such model file"):
        deploy(tmp_path, fabric)
    assert fabric.calls == ["wait new"]


def test_a_backend_that_does_not_start_is_taken_back(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    before = fabric.values()
    fabric.broken.add("m:Newest")
    worse = APP.replace('"m:new"', '"m:Newest"').replace("old = 0.9, new = 0.1", "new = 1.0")
    worse += '[backends.third]\ncode = "m:third"\n'
    facts = {**FACTS, "new": CodeFacts("v2", False, False), "third": CodeFacts("v3", False, False)}
    with pytest.raises(ApplicationError, match="no such model file") as caught:
        deploy(tmp_path, fabric, worse, facts=facts)
    assert caught.value.exit_status == 3
    assert fabric.values() == before


def test_so_is_a_user_config_that_is_refused(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    before = fabric.values()
    with pytest.raises(ApplicationError, match="reconfigure"):
        deploy(tmp_path, fabric, APP.replace("num_replicas = 2", 'num_replicas = 2, user_config = "refused"'))
    assert fabric.values() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ServeError("1 of 2 replicas are up after the time given")])
def test_so_it_is_when_it_takes_too_long_or_is_interrupted(tmp_path: Path, error: BaseException) -> None:
    fabric = Fabric()

    def interrupt(op: str) -> None:
        if op == "wait_backend":
            raise error

    fabric.before_call = interrupt
    with pytest.raises(type(error)):
        deploy(tmp_path, fabric)
    assert fabric.values() == {}


def test_nothing_is_written_if_not_all_can_be(tmp_path: Path) -> None:
    fabric = Fabric()
    fabric.call("create_endpoint", {"name": "taken", "route": "/shop", "methods": ["GET"]})
    plan = plan_of(tmp_path, fabric)
    with pytest.raises(ServeError, match="would be that of endpoints"):
        apply_plan(fabric, plan, timeout_s=1.0, say=lambda text: None)
    assert fabric.calls == ["check new+old+shop"]


def test_a_write_in_between_stops_it(tmp_path: Path) -> None:
    fabric = Fabric()
    deploy(tmp_path, fabric)
    plan = plan_of(tmp_path, fabric, APP.replace("old = 0.9, new = 0.1", "old = 1.0").replace("num_replicas = 2", ""))

    def meddle(op: str) -> None:
        if op == "wait_backend":
            fabric.before_call = lambda op: None
            fabric.call("set_traffic", {"endpoint": "shop", "traffic": {"new": 1.0}})

    fabric.before_call = meddle
    with pytest.raises(ConflictError, match="endpoint/shop was changed meanwhile") as caught:
        apply_plan(fabric, plan, timeout_s=10.0, say=lambda text: None)
    assert "written: backend new; not written: endpoint shop" in str(caught.value)
    assert fabric.values()["endpoint/shop"]["traffic"] == {"new": 1.0}
    with pytest.raises(ConflictError):
        check_plan(fabric, plan)

"""A traffic policy of the user's, named in every way there is, on real routers with and without its module."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from zserve.control.client import ControlClient

from .fabric import APPS, Fabric, eventually
from .running import RunningApp

pytestmark = pytest.mark.integration

EXAMPLES = APPS.parents[2] / "examples"
OVERFLOW = ("--queueing-policy", "overflow:Overflow", "--policy-kwargs", '{"limit": 2}')


def zserve(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zserve", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env}
    )


def answers(url: str, number: int) -> Counter[str]:
    with httpx.Client() as client:
        told = [client.get(url, timeout=20) for _ in range(number)]
    assert {answer.status_code for answer in told} == {200}
    return Counter(answer.text for answer in told)


def backend(fabric: Fabric, name: str, code: str, **more: Any) -> None:
    fabric.call("create_backend", name=name, code=code, version="1", **more)
    fabric.call("wait_backend", name=name, timeout_s=60.0)


@pytest.fixture
def policies(fabric: Fabric) -> Fabric:
    """One router that has the example and the test's policies, a gateway and a worker node."""
    fabric.start("router", "--app-dir", str(EXAMPLES), *OVERFLOW, env={"PYTHONPATH": str(APPS)})
    fabric.start("gateway")
    fabric.start("worker")
    return fabric


def test_the_example_fills_one_backend_and_then_the_next(policies: Fabric) -> None:
    hold = policies.folder / "go"
    backend(policies, "small", "app_policies:Held", init_kwargs={"until": str(hold)}, is_class=True)
    backend(policies, "large", "app_policies:free")
    policies.call("create_endpoint", name="answers", route="/answers", methods=["GET"])
    policies.call("set_traffic", endpoint="answers", traffic={"small": 1.0, "large": 0.0})
    assert policies.call("status")["endpoints"]["answers"]["policy"] == "overflow:Overflow", "the router's default"
    url = policies.gateways[0].http + "/answers"
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(httpx.get, url, timeout=60) for _ in range(2)]
        eventually(
            lambda: sum(policies.call("stat")["backends"]["small"][part] for part in ("queued", "in_flight")) == 2,
            "the two that it takes are there",
        )
        assert answers(url, 5) == {"free": 5}
        hold.touch()
        assert [answer.result().text for answer in held] == ["held", "held"]
    assert answers(url, 3) == {"held": 3}

    status = zserve("status", "--address", policies.routers[0].address)
    assert "policy overflow:Overflow" in status.stdout


def test_what_is_refused_and_what_still_runs(policies: Fabric) -> None:
    for name in ("free", "old"):
        backend(policies, name, f"app_policies:{name}")
    policies.call("create_endpoint", name="shared", route="/shared", methods=["GET"], policy="random")
    policies.call("set_traffic", endpoint="shared", traffic={"free": 1.0, "old": 0.0})
    before = policies.call("list_records")
    address = policies.routers[0].address
    for policy, kwargs, says in (
        ("nowhere:Policy", "{}", "'nowhere:Policy' cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("overflow:Under", "{}", "'overflow:Under' cannot be imported: AttributeError"),
        ("overflow:Overflow", '{"limit": 0}', "cannot be made: ValueError: limit must be 1 or more, not 0"),
        ("app_policies:Only", '{"name": "new"}', "'app_policies:Only' chose 'new', which is none of 'free', 'old'"),
    ):
        done = zserve("traffic", "set", "shared", "free=0.5", "old=0.5", "--policy", policy, "--policy-kwargs", kwargs,
                      "--address", address)  # fmt: skip
        assert done.returncode == 1, done.stdout
        (line,) = done.stderr.splitlines()
        assert says in line
    file = policies.folder / "app.toml"
    table = '[backends.never]\ncode = "app_shop:new"\n[endpoints.shared]\nroute = "/shared"\n'
    file.write_text(table + 'traffic = { never = 1.0 }\npolicy = "nowhere:Policy"\n')
    deploy = ("deploy", str(file), "--yes", "--app-dir", str(APPS), "--address", address)
    done = zserve(*deploy)
    assert (done.returncode, "'nowhere:Policy' cannot be imported" in done.stderr) == (1, True), done.stderr
    assert policies.call("list_records") == before
    assert answers(policies.gateways[0].http + "/shared", 10) == {"free": 10}

    only = 'policy = "app_policies:Only"\npolicy_kwargs = { name = "old" }\n'
    file.write_text(table + "traffic = { free = 0.9, old = 0.1, never = 0.0 }\n" + only)
    done = zserve(*deploy)
    assert done.returncode == 0, done.stderr
    assert answers(policies.gateways[0].http + "/shared", 10) == {"old": 10}


def test_no_request_is_lost_where_the_policy_fails(policies: Fabric) -> None:
    """It raises for the second of three requests and names a stranger for the third; a second router has no such
    module at all."""
    for name in ("free", "old"):
        backend(policies, name, f"app_policies:{name}")
    policies.call("create_endpoint", name="shared", route="/shared", methods=["GET"])
    with ControlClient(policies.routers[0].address) as client:
        client.call(
            "set_traffic",
            {"endpoint": "shared", "traffic": {"free": 0.0, "old": 1.0}, "policy": "app_policies:Moody"},
        )
    url = policies.gateways[0].http + "/shared"
    assert answers(url, 30) == {"free": 10, "old": 20}
    told = policies.call("status")["endpoints"]["shared"]
    assert told["policy_fallbacks"] == 20
    assert "'app_policies:Moody' failed: LookupError: not in the mood (" in told["policy_faults"][0]["fault"]
    log = policies.routers[0].log
    assert log.read_text().count("shares its requests by weight at random instead") == 1

    bare = policies.start("router", "--app-dir", str(policies.folder))
    second = len(policies.routers) - 1

    def counted() -> bool:
        answers(url, 10)
        found: int = policies.call("status", second)["endpoints"].get("shared", {}).get("policy_fallbacks", 0)
        return found >= 20

    eventually(counted, "the second router gets requests")
    assert bare.log.read_text().count("shares its requests by weight at random instead") == 1
    status = zserve("status", "--address", policies.gateways[0].http).stdout
    assert f"endpoint shared shares by weight at random on router {bare.log.stem}: traffic policy" in status
    assert "'app_policies:Moody' cannot be imported: ModuleNotFoundError" in status
    assert "policy app_policies:Moody (failed " in status
    refused = zserve("traffic", "set", "shared", "old=1", "--address", bare.address)
    assert refused.returncode == 1
    assert "No module named 'app_policies'; every router needs it, see --app-dir" in refused.stderr
    assert f"(tried by router '{bare.log.stem}')" in refused.stderr
    assert zserve("traffic", "set", "shared", "old=1", "--policy", "random", "--address", bare.address).returncode == 0
    assert answers(url, 10) == {"old": 10}


def test_zserve_run_takes_one() -> None:
    only = ("--queueing-policy", "app_policies:Only", "--policy-kwargs", '{"name": "old"}')
    with RunningApp("app_policies", APPS, *only) as app:
        assert answers(app.url + "/shared", 10) == {"old": 10}
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        done = zserve("run", "app_policies", "--app-dir", str(APPS), "--port", "0", *only[:2], ZSERVE_RUN_DIR=folder)
    assert done.returncode == 3
    says = "zserve: error: cannot serve app_policies: traffic policy 'app_policies:Only' cannot be made: TypeError: "
    assert says in done.stderr


SCRIPT = """
import urllib.request
import zserve as serve

try:
    serve.init(http_port=0, queueing_policy="choices:Absent")
except serve.ServeError as error:
    print(error)
serve.init(http_port=0, queueing_policy="choices:Last")
for name in "ab":
    serve.create_backend(name, lambda name=name: name)
serve.create_endpoint("both", "/both")
serve.set_traffic("both", {"a": 0.5, "b": 0.5})
url = next(node["http"] for node in serve.status()["nodes"] if node["role"] == "gateway")

def ask():
    return "".join(urllib.request.urlopen(url + "/both").read().decode() for _ in range(8))

print(ask())
serve.set_traffic("both", {"a": 0.5, "b": 0.5}, "choices:First", {"least": 0})
print(ask())
for wrong in ({"policy": "choices:Absent"}, {"policy_kwargs": {"most": 1}}, {"policy_kwargs": {"least": float("nan")}}):
    try:
        serve.set_traffic("both", {"a": 0.5, "b": 0.5}, **wrong)
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
print(ask())
"""

CHOICES = """
import zserve as serve

class Last:
    def __init__(self, weights, rng, backlog):
        self.names = sorted(weights)

    def choose(self, shard):
        return self.names[-1]

class First(Last):
    def __init__(self, weights, rng, backlog, least):
        super().__init__(weights, rng, backlog)

    def choose(self, shard):
        return self.names[0]
"""


def test_a_script_names_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "choices.py").write_text(CHOICES)
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")],
            capture_output=True, text=True, timeout=90, check=False, env={**os.environ, "ZSERVE_RUN_DIR": folder},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    absent, by_default, set_later, *refused, still = done.stdout.splitlines()
    assert "'choices:Absent' cannot be imported: AttributeError" in absent
    assert (by_default, set_later, still) == ("b" * 8, "a" * 8, "a" * 8)
    assert "ValueError traffic policy 'choices:Absent' cannot be imported" in refused[0]
    assert "unexpected keyword argument 'most'" in refused[1]
    assert "TypeError policy_kwargs must be made of" in refused[2]
    assert "nan" in refused[2]

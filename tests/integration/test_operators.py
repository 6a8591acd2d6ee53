"""What an operator does, with real processes: deploy, traffic, routes, status, shutdown, through any node."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from .fabric import Fabric, eventually
from .load import Load

pytestmark = pytest.mark.integration

SHOP = """
[backends.old]
code = "app_shop:Greeting"
init_kwargs = { text = "old" }

[backends.new]
code = "app_shop:new"
config = { num_replicas = 2 }

[endpoints.shop]
route = "/shop"
traffic = { old = 1.0, new = 0.0 }
"""


def zserve(*arguments: str, fabric: Fabric, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ZSERVE_ADDRESS": fabric.routers[-1].address, "ZSERVE_RUN_DIR": str(fabric.folder / "run")}
    command = [sys.executable, "-m", "zserve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env, input=stdin)


def deploy(fabric: Fabric, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = fabric.folder / "app.toml"
    file.write_text(content)
    return zserve("deploy", str(file), "--app-dir", str(fabric.app_dir), *arguments, fabric=fabric)


def status(fabric: Fabric, *arguments: str) -> dict[str, Any]:
    done = zserve("status", "--json", *arguments, fabric=fabric)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def shop(fabric: Fabric) -> Fabric:
    """Two routers, two gateways, one worker node."""
    fabric.start("router")
    fabric.start("router")
    for role in ("gateway", "gateway", "worker"):
        fabric.start(role, "--join", fabric.routers[0].address)
    eventually(
        lambda: all(len(fabric.call("status", router)["nodes"]) == 5 for router in range(2)), "all five know each other"
    )
    return fabric


def replies(fabric: Fabric, path: str = "/shop") -> list[str]:
    return [httpx.get(gateway.http + path, timeout=10).text for gateway in fabric.gateways]


def test_deploy_shows_applies_waits_and_does_nothing_the_second_time(shop: Fabric) -> None:
    dry = deploy(shop, SHOP, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "+ endpoint shop\n" in dry.stdout
    assert "nothing was written" in dry.stdout
    assert shop.call("list_backends") == {}

    unasked = deploy(shop, SHOP)
    assert unasked.returncode == 2
    assert "--yes writes without asking" in unasked.stderr
    assert shop.call("list_backends") == {}

    first = deploy(shop, SHOP, "--yes")
    assert (first.returncode, first.stderr) == (0, "")
    assert replies(shop) == ["old", "old"], "it serves when the command is over"

    again = deploy(shop, SHOP, "--yes")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    revisions = status(shop)["versions"]
    assert revisions == {"backend/new": 1, "backend/old": 1, "endpoint/shop": 1}

    changed = deploy(shop, SHOP.replace("old = 1.0, new = 0.0", "old = 0.0, new = 1.0"), "--yes", "--json")
    assert changed.returncode == 0, changed.stderr
    (change,) = json.loads(changed.stdout)["changes"]
    assert change["fields"] == [
        {"field": "traffic.new", "before": 0.0, "after": 1.0},
        {"field": "traffic.old", "before": 1.0, "after": 0.0},
    ]
    assert replies(shop) == ["new", "new"]

    arguments = deploy(shop, SHOP.replace('text = "old"', 'text = "older"'), "--yes")
    assert arguments.returncode == 0, arguments.stderr
    assert "init_kwargs.text  old -> older" in arguments.stdout
    assert replies(shop) == ["older", "older"], "a constructor argument makes a new version"

    only = '[backends.new]\ncode = "app_shop:new"\nconfig = { num_replicas = 2 }\n'
    left = deploy(shop, only, "--dry-run")
    assert "not in the file and left alone: backend old, endpoint shop" in left.stdout
    pruned = deploy(shop, only, "--yes", "--prune")
    assert pruned.returncode == 0, pruned.stderr
    assert shop.call("list_endpoints") == {}
    assert list(shop.call("list_backends")) == ["new"]


def test_deploy_takes_back_what_does_not_start(shop: Fabric) -> None:
    assert deploy(shop, SHOP, "--yes").returncode == 0
    before = shop.call("list_records")
    broken = SHOP.replace("app_shop:new", "app_shop:NoModel").replace("old = 1.0, new = 0.0", "old = 0.5, new = 0.5")
    failed = deploy(shop, broken, "--yes")
    assert failed.returncode == 3
    assert "ValueError: no such model file" in failed.stderr
    assert "taken back: backend new" in failed.stdout
    after = shop.call("list_records")
    assert {key: record["value"] for key, record in after.items()} == {
        key: record["value"] for key, record in before.items()
    }
    assert after["endpoint/shop"]["revision"] == 1, "traffic was never touched"
    assert replies(shop) == ["old", "old"]

    late = SHOP.replace("num_replicas = 2", "num_replicas = 3") + "[backends.x]\ncode='app_shop:NoModel'\n"
    slow = deploy(shop, late, "--yes", "--timeout", "0")
    assert slow.returncode in (1, 3)
    assert "x" not in shop.call("list_backends")
    assert shop.call("get_backend_config", name="new")["num_replicas"] == 2


def test_deploy_refuses_the_whole_file_before_it_writes(shop: Fabric) -> None:
    too_many = deploy(shop, SHOP.replace("num_replicas = 2", "num_replicas = 500"), "--yes")
    assert too_many.returncode == 1
    assert "Cannot place backend 'new'" in too_many.stderr
    shop.call("create_endpoint", name="other", route="/shop", methods=["GET"])
    taken = deploy(shop, SHOP, "--yes")
    assert taken.returncode == 1
    assert "route '/shop' (GET) would be that of endpoints" in taken.stderr
    stranger = deploy(shop, SHOP.replace("old = 1.0", "older = 1.0"), "--yes")
    assert stranger.returncode == 2
    assert "app.toml:12: [endpoints.shop] traffic: names backend 'older'" in stranger.stderr
    unknown = deploy(shop, SHOP.replace("num_replicas", "num_replicsa"), "--yes")
    assert unknown.returncode == 2
    assert "app.toml:8: [backends.new] config.num_replicsa: unknown backend config" in unknown.stderr
    assert shop.call("list_backends") == {}


def test_status_adds_up_what_both_routers_counted(shop: Fabric) -> None:
    shop.serve("fails", "app_shop:fails")
    shop.serve("batched", "app_shop:batched", batchable=True, config={"max_batch_size": 8})
    for gateway in shop.gateways:
        for _ in range(30):
            assert httpx.get(gateway.http + "/batched").text == "1"
    with Load([gateway.http for gateway in shop.gateways], "/fails") as load:  # many at once: both routers get some
        load.wait_for(200)
    assert set(load.answers) == {500}
    found = status(shop)
    assert [router["answers"] for router in found["routers"]] == [True, True]
    assert all(router["requests"] > 0 for router in found["routers"]), "else there is nothing to add up"
    counters = found["backends"]["fails"]["counters"]
    assert counters["completed"] == counters["errors"] == load.count
    assert found["backends"]["batched"]["counters"]["errors"] == 0
    assert found["versions"]["endpoint/fails"] == 1
    assert found["disagree"] == []
    assert [hint.split()[0] for hint in found["hints"]] == ["batched"]
    by_url = status(shop, "--address", shop.gateways[0].http)
    assert by_url["backends"]["fails"]["counters"]["errors"] == load.count
    text = zserve("status", fabric=shop).stdout
    assert "hint: batched takes batches, but none of 60 requests shared one" in text


def test_status_marks_a_router_that_does_not_answer(shop: Fabric) -> None:
    silent = shop.routers[0]
    os.kill(silent.process.pid, signal.SIGSTOP)
    try:
        found = status(shop)  # asks the other one
        text = zserve("status", fabric=shop).stdout
    finally:
        os.kill(silent.process.pid, signal.SIGCONT)
    assert {router["name"]: router["answers"] for router in found["routers"]} == {"router-0": False, "router-1": True}
    assert "router router-0 does not answer, its counts are missing" in text
    rows = [line for line in text.splitlines() if line.split()[:2] == ["router", "router-0"]]
    # By then the other router may have noticed, too.
    assert any("no answer" in row or " suspect " in row for row in rows), text


def test_any_node_will_do(shop: Fabric) -> None:
    assert deploy(shop, SHOP, "--yes").returncode == 0
    gateway, router = shop.gateways[1].http, shop.routers[0].address
    routers = httpx.get(gateway + "/-/fabric").json()["routers"]
    assert sorted(routers) == sorted(router.address for router in shop.routers)
    done = zserve("traffic", "set", "shop", "old=0", "new=1", "--address", gateway, fabric=shop)
    assert (done.returncode, done.stdout) == (0, "shop: old=0 new=1\n"), done.stderr
    assert replies(shop) == ["new", "new"]
    listed = zserve("routes", "--json", "--address", router, fabric=shop)
    assert json.loads(listed.stdout) == {"/shop": ["shop", ["GET"]]}
    nobody = zserve("routes", "--address", "http://127.0.0.1:1", fabric=shop)
    assert nobody.returncode == 1
    assert "no gateway answers at http://127.0.0.1:1" in nobody.stderr
    wrong = zserve("traffic", "set", "shop", "olt=1", fabric=shop)
    assert wrong.returncode == 1
    assert "there is no backend 'olt'" in wrong.stderr

    done = zserve("shutdown", "--address", gateway, fabric=shop)
    assert done.returncode == 0, done.stderr
    assert [node.process.wait(30) for node in shop.nodes] == [0] * 5


def test_a_write_in_between_stops_a_deploy(shop: Fabric, tmp_path: Path) -> None:
    from zserve.nodes.deploy import apply_plan
    from zserve.nodes.deploy_file import read_deploy_file
    from zserve.nodes.deploy_plan import CodeFacts, make_plan

    from zserve.control.client import ControlClient
    from zserve.errors import ConflictError

    assert deploy(shop, SHOP, "--yes").returncode == 0
    file = tmp_path / "app.toml"
    file.write_text(SHOP.replace("old = 1.0, new = 0.0", "old = 0.5, new = 0.5").replace("num_replicas = 2", ""))
    said: list[str] = []

    class Meddler(ControlClient):
        """Somebody else changes the traffic while the backends are waited for."""

        def call(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = 30.0) -> Any:
            if op == "wait_backend" and not said.count("meddled"):
                said.append("meddled")
                shop.call("set_traffic", endpoint="shop", traffic={"old": 0.7, "new": 0.3})
            return super().call(op, args, timeout_s=timeout_s)

    with Meddler(shop.routers[0].address) as client:
        versions = {name: value["version"] for name, value in client.call("list_backends").items()}
        facts = {
            "old": CodeFacts(versions["old"].partition("-")[0], True, False),
            "new": CodeFacts(versions["new"], False, False),
        }
        plan = make_plan(read_deploy_file(file), facts, client.call("list_records"))
        with pytest.raises(ConflictError, match="endpoint/shop was changed meanwhile") as caught:
            apply_plan(client, plan, timeout_s=30, say=said.append)
    assert "written: backend new; not written: endpoint shop" in str(caught.value)
    assert shop.call("list_endpoints")["shop"]["traffic"] == {"old": 0.7, "new": 0.3}


POLICY = """
import sys, urllib.request
import zserve as serve

kwargs = {"packing_num": 3} if sys.argv[1] == "fixed_packing" else None
serve.init(http_port=0, queueing_policy=sys.argv[1], policy_kwargs=kwargs)
for name in "ab":
    serve.create_backend(name, lambda name=name: name)
serve.create_endpoint("both", "/both")
serve.set_traffic("both", {"a": 0.5, "b": 0.5})
url = next(node["http"] for node in serve.status()["nodes"] if node["role"] == "gateway")
print("".join(urllib.request.urlopen(url + "/both").read().decode() for _ in range(12)))
print(serve.status()["endpoints"]["both"]["policy"])
"""


@pytest.mark.parametrize(("policy", "runs"), [("round_robin", {1}), ("fixed_packing", {3})])
def test_init_names_the_policy_of_endpoints_that_name_none(tmp_path: Path, policy: str, runs: set[int]) -> None:
    script = tmp_path / "script.py"
    script.write_text(POLICY)
    env = {**os.environ, "ZSERVE_RUN_DIR": tempfile.mkdtemp(prefix="zs-")}
    done = subprocess.run(
        [sys.executable, str(script), policy], capture_output=True, text=True, timeout=60, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    drawn, used = done.stdout.split()
    assert used == policy
    assert {len(list(group)) for _, group in itertools.groupby(drawn)} == runs, drawn

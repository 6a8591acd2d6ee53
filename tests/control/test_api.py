from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from importlib.metadata import version

import pytest

import zserve as serve
from zserve.config import BackendConfig
from zserve.control import fabrics
from zserve.errors import ApplicationError, FabricUnreachable, NotInitialized, ServeError


def handle_request(request):
    return "hello world"


@serve.accept_batch
def batcher(requests):
    return requests


class RequestHandler:
    def __init__(self, word="hello", **settings):
        self.word = word

    def __call__(self, request):
        return self.word


CALLS = [
    ("create_endpoint", ("e", "/e")),
    ("delete_endpoint", ("e",)),
    ("list_endpoints", ()),
    ("create_backend", ("b", handle_request)),
    ("update_backend", ("b", handle_request)),
    ("delete_backend", ("b",)),
    ("list_backends", ()),
    ("get_backend_config", ("b",)),
    ("update_backend_config", ("b", {})),
    ("set_traffic", ("e", {"b": 1.0})),
    ("split", ("e", {"b": 1.0})),
    ("link", ("e", "b")),
    ("shadow_traffic", ("e", "b", 0.1)),
    ("stat", ()),
    ("status", ()),
]


@pytest.mark.parametrize(("call", "arguments"), CALLS)
def test_every_call_before_init_says_to_call_it(call, arguments):
    with pytest.raises(NotInitialized, match=r"call serve\.init\(\)"):
        getattr(serve, call)(*arguments)


def test_shutdown_before_init_does_nothing():
    serve.shutdown()
    serve.shutdown()


@pytest.fixture
def joined(router):
    serve.init(router.address)
    router.calls.clear()
    return router


def test_the_names_are_the_packages(joined):
    assert {name for name, _ in CALLS} < set(serve.__all__)
    assert set(serve.__all__) <= set(dir(serve))
    for name in serve.__all__:
        assert getattr(serve, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'creat_endpoint'"):
        _ = serve.creat_endpoint
    assert serve.__version__ == version("zserve")


def test_seed_key_concepts(joined):
    serve.create_endpoint("simple_endpoint", "/simple")
    assert serve.list_endpoints()["simple_endpoint"]["methods"] == ["GET"]
    serve.delete_endpoint("simple_endpoint")
    assert serve.list_endpoints() == {}
    serve.create_backend("simple_backend", handle_request)
    serve.create_backend("simple_backend_class", RequestHandler)
    assert sorted(serve.list_backends()) == ["simple_backend", "simple_backend_class"]
    assert joined.args("create_backend") == {
        "name": "simple_backend_class",
        "code": f"{__name__}:RequestHandler",
        "version": joined.args("create_backend")["version"],
        "init_args": [],
        "init_kwargs": {},
        "batchable": False,
        "is_class": True,
        "config": {},
    }


def test_what_the_router_is_asked(joined):
    serve.create_endpoint("e", "/e", ["post", "GET"], backend=None)
    assert joined.calls[-1] == (
        "create_endpoint",
        {"name": "e", "route": "/e", "methods": ["POST", "GET"], "backend": None},
    )
    serve.create_backend("b", batcher, config={"max_batch_size": 8})
    assert joined.ops()[-2:] == ["create_backend", "wait_backend"]
    created = joined.args("create_backend")
    assert (created["batchable"], created["is_class"], created["config"]) == (True, False, {"max_batch_size": 8})
    assert joined.args("wait_backend") == {"name": "b", "timeout_s": 300.0}
    serve.create_backend("c", RequestHandler, "hi", config=BackendConfig(num_replicas=2), rate=0.5)
    created = joined.args("create_backend")
    assert (created["init_args"], created["init_kwargs"], created["config"]) == (
        ["hi"],
        {"rate": 0.5},
        {"num_replicas": 2},
    )
    serve.update_backend("c", RequestHandler, "ho")
    assert joined.ops()[-2:] == ["update_backend", "wait_backend"]
    assert joined.args("update_backend")["config"] is None
    assert joined.args("update_backend")["version"] != created["version"]
    serve.set_traffic("e", {"b": 1})
    serve.split("e", {"b": 0.25, "c": 0.75})
    assert joined.calls[-1] == ("set_traffic", {"endpoint": "e", "traffic": {"b": 0.25, "c": 0.75}})
    serve.link("e", "c")
    assert joined.calls[-1] == ("set_traffic", {"endpoint": "e", "traffic": {"c": 1.0}})
    serve.shadow_traffic("e", "b", 1)
    assert joined.calls[-1] == ("shadow_traffic", {"endpoint": "e", "backend": "b", "proportion": 1.0})
    serve.update_backend_config("b", {"max_batch_size": None})
    assert joined.calls[-1] == ("update_backend_config", {"name": "b", "config": {"max_batch_size": None}})
    joined.answers["get_backend_config"] = lambda args: {"result": {"num_replicas": 1, "of": args["name"]}}
    assert serve.get_backend_config("b") == {"num_replicas": 1, "of": "b"}
    joined.answers["status"] = lambda _args: {"result": {"nodes": []}}
    assert serve.status() == {"nodes": [], "address": joined.address}
    figures = {"answered": 2, "errors": 1, "latest_s": 3e-6, "histogram": {"0": 2}}
    counted = {"endpoints": {"e": figures}, "backends": {"b": {"sent": 1}}}
    joined.answers["stat"] = lambda _args: {"result": counted}
    stat = serve.stat()
    assert stat["backends"] == {"b": {"sent": 1}}
    assert (stat["endpoints"]["e"]["answered"], stat["endpoints"]["e"]["errors"]) == (2, 1)
    serve.delete_backend("b")
    assert joined.calls[-1] == ("delete_backend", {"name": "b"})


def test_a_policy_is_sent_as_it_is_given(joined):
    joined.endpoints["e"] = {"traffic": {}}
    named = {"endpoint": "e", "traffic": {"b": 1.0}}
    serve.set_traffic("e", {"b": 1}, "my.policies:Nearest", {"zone": "eu", "spread": [1, 2]})
    assert joined.calls[-1] == (
        "set_traffic",
        {**named, "policy": "my.policies:Nearest", "policy_kwargs": {"zone": "eu", "spread": [1, 2]}},
    )
    serve.split("e", {"b": 1}, policy="round_robin")
    assert joined.calls[-1] == ("set_traffic", {**named, "policy": "round_robin"})
    serve.set_traffic("e", {"b": 1}, policy_kwargs={"packing_num": 4})
    assert joined.calls[-1] == ("set_traffic", {**named, "policy_kwargs": {"packing_num": 4}})


def test_weights_may_miss_one_by_a_rounding_error(joined):
    joined.endpoints["e"] = {}
    serve.set_traffic("e", {str(n): 0.1 for n in range(10)})
    serve.set_traffic("e", {"a": 0.5000004, "b": 0.5})
    assert joined.ops() == ["set_traffic", "set_traffic"]


BAD = [
    ("create_endpoint", (7,), {}, TypeError, "name must be a string, not int: 7"),
    ("create_endpoint", ("",), {}, ValueError, "name must be"),
    ("create_endpoint", ("a\nb",), {}, ValueError, "name must be"),
    ("create_endpoint", ("x" * 201,), {}, ValueError, "name must be"),
    ("create_endpoint", ("e", 7), {}, TypeError, "route must be a string or None, not int: 7"),
    ("create_endpoint", ("e", "x"), {}, ValueError, "route must begin with '/', not 'x'"),
    ("create_endpoint", ("e", "/-/x"), {}, ValueError, "belong to the system"),
    ("create_endpoint", ("e", "/e", "GET"), {}, TypeError, "methods must be a list"),
    ("create_endpoint", ("e", "/e", ["G T"]), {}, ValueError, "'G T' is not an HTTP method"),
    ("create_endpoint", ("e",), {"backend": 7}, TypeError, "backend must be a string"),
    ("delete_endpoint", (None,), {}, TypeError, "name must be a string"),
    ("create_backend", (7, handle_request), {}, TypeError, "name must be a string"),
    ("create_backend", ("b", "not callable"), {}, TypeError, "func_or_class must be a function or a class, not str"),
    ("create_backend", ("b", handle_request, 1), {}, ValueError, "'handle_request' is a function"),
    ("create_backend", ("b", handle_request), {"k": 1}, ValueError, "'handle_request' is a function"),
    ("create_backend", ("b", handle_request), {"config": 7}, TypeError, "config must be a dict"),
    (
        "create_backend",
        ("b", handle_request),
        {"config": {"replicas": 1}},
        ValueError,
        "unknown backend config 'replicas'",
    ),
    (
        "create_backend",
        ("b", handle_request),
        {"config": {"num_replicas": -1}},
        ValueError,
        "num_replicas must be between",
    ),
    (
        "create_backend",
        ("b", handle_request),
        {"config": {"num_replicas": "2"}},
        TypeError,
        "num_replicas must be a whole",
    ),
    (
        "create_backend",
        ("b", handle_request),
        {"config": {"max_batch_size": 2}},
        ValueError,
        "needs code declared with",
    ),
    ("create_backend", ("b", handle_request), {"config": {"user_config": {1}}}, TypeError, "user_config.*not .1."),
    ("create_backend", ("b", RequestHandler, {1}), {}, TypeError, r"init_args\[0\] \(set\) cannot be sent"),
    ("create_backend", ("b", lambda request: 1), {}, ServeError, "cannot import"),
    ("update_backend", ("b", 7), {}, TypeError, "func_or_class"),
    ("delete_backend", (7,), {}, TypeError, "name"),
    ("get_backend_config", (7,), {}, TypeError, "name"),
    ("update_backend_config", ("b", None), {}, TypeError, "config must be a dict"),
    ("update_backend_config", ("b", {"x": 1}), {}, ValueError, "unknown backend config 'x'"),
    ("set_traffic", (7, {"b": 1}), {}, TypeError, "endpoint must be a string"),
    ("set_traffic", ("e", ["b"]), {}, TypeError, "dict of backend name to weight"),
    ("set_traffic", ("e", {"b": "1"}), {}, TypeError, "the weight of 'b' must be a number, not '1'"),
    ("set_traffic", ("e", {"b": True}), {}, TypeError, "the weight of 'b' must be a number, not True"),
    ("set_traffic", ("e", {7: 1}), {}, TypeError, "a backend name must be a string, not 7"),
    ("set_traffic", ("e", {"b": float("nan")}), {}, ValueError, "must be 0 or more, not nan"),
    ("set_traffic", ("e", {"b": 0.5, "c": 0.4}), {}, ValueError, "must sum to 1, these sum to 0.9"),
    ("set_traffic", ("e", {}), {}, ValueError, "these sum to 0"),
    ("set_traffic", ("e", {"b": 1}, "best"), {}, ValueError, "policy must be one of .*, or 'package.module:Class'"),
    ("set_traffic", ("e", {"b": 1}, 7), {}, TypeError, "policy must be a string, not 7"),
    ("set_traffic", ("e", {"b": 1}, "m:P", [1]), {}, TypeError, "policy_kwargs must be a dict"),
    ("set_traffic", ("e", {"b": 1}, None, "x"), {}, TypeError, "policy_kwargs must be a dict, not 'x'"),
    ("split", ("e", {"b": 1}, "m:P", {"x": object()}), {}, TypeError, "policy_kwargs must be made of None, bool, int"),
    ("split", ("e", {"b": 1}, "random", {"packing_num": 2}), {}, ValueError, "'packing_num' is unknown"),
    ("split", ("e", {"b": 1.1}), {}, ValueError, "these sum to 1.1"),
    ("link", ("e", None), {}, TypeError, "backend must be a string"),
    ("shadow_traffic", ("e", "b", 1.1), {}, ValueError, "proportion must be between 0 and 1, not 1.1"),
    ("shadow_traffic", ("e", "b", float("nan")), {}, ValueError, "proportion must be between"),
    ("shadow_traffic", ("e", "b", "x"), {}, TypeError, "proportion must be a number"),
]


@pytest.mark.parametrize(("call", "arguments", "keywords", "error", "text"), BAD)
def test_bad_arguments_are_named_and_nothing_is_asked(joined, call, arguments, keywords, error, text):
    with pytest.raises(error, match=text):
        getattr(serve, call)(*arguments, **keywords)
    assert joined.calls == []


def raising(error):
    def answer(_args):
        raise error

    return answer


def test_a_constructor_that_fails_leaves_no_backend(joined):
    joined.fail_backends["b"] = 'Traceback (most recent call last):\n  File "model.py"\nOSError: no weights'
    with pytest.raises(ApplicationError, match="OSError: no weights"):
        serve.create_backend("b", RequestHandler)
    assert serve.list_backends() == {}


@pytest.mark.parametrize("meddled", [False, True])
def test_an_update_that_fails_is_taken_back_unless_somebody_has_written_since(joined, meddled):
    serve.create_backend("b", batcher)
    before = joined.backends["b"]
    joined.fail_backends["b"] = "ValueError: no such file"
    if meddled:
        joined.answers["wait_backend"] = lambda args: (joined._update_backend(before), joined._wait_backend(args))
    with pytest.raises(ApplicationError, match="no such file"):
        serve.update_backend("b", RequestHandler)
    if meddled:
        assert "apply_changes" not in joined.ops()
    else:
        assert joined.args("apply_changes") == {"changes": [{"key": "backend/b", "value": before, "parent": "02"}]}


def test_a_user_config_that_is_refused_is_taken_back(joined):
    serve.create_backend("b", RequestHandler)
    before = joined.backends["b"]
    joined.answers["update_backend_config"] = lambda args: joined._update_backend({**before, **args})
    joined.answers["wait_configured"] = raising(ApplicationError("reconfigure() failed"))
    with pytest.raises(ApplicationError, match="reconfigure"):
        serve.update_backend_config("b", {"user_config": {"bad": 1}})
    assert joined.args("apply_changes") == {"changes": [{"key": "backend/b", "value": before, "parent": "02"}]}
    joined.calls.clear()
    serve.update_backend_config("b", {"max_batch_size": 1})
    assert joined.ops() == ["update_backend_config"], "other settings have nothing to wait for"


def test_an_existing_backend_is_not_taken_away_by_a_second_create(joined):
    serve.create_backend("b", handle_request)
    with pytest.raises(ValueError, match="'b' exists"):
        serve.create_backend("b", handle_request)
    assert sorted(serve.list_backends()) == ["b"]


# --- decorators after init --------------------------------------------------------------------------------------------


def test_declarations_before_init_are_served_by_it(router):
    serve.route("/hello")(handle_request)
    assert router.calls == []
    serve.init(router.address)
    assert router.endpoints["handle_request"]["route"] == "/hello"
    assert sorted(router.backends) == ["handle_request"]


def test_declarations_after_init_are_served_at_once(joined):
    routed = serve.route("/batcher")(serve.accept_batch(batcher))
    assert joined.endpoints["batcher"]["traffic"] == {"batcher": 1.0}
    routed.set_max_batch_size(100)
    assert joined.args("update_backend_config") == {"name": "batcher", "config": {"max_batch_size": 100}}
    routed.scale(2)
    assert joined.args("update_backend_config") == {"name": "batcher", "config": {"num_replicas": 2}}
    serve.shutdown()
    joined.calls.clear()
    routed.scale(3)  # nothing runs: only written down
    assert joined.calls == []


def test_accept_batch_above_route_reaches_what_runs_already(joined):
    plain = lambda requests: requests  # noqa: E731
    plain.__name__ = plain.__qualname__ = "plain"
    plain.__module__ = __name__
    globals()["plain"] = plain
    try:
        routed = serve.route("/plain")(plain)
        assert joined.args("create_backend")["batchable"] is False
        serve.accept_batch(routed)
        assert joined.args("update_backend")["batchable"] is True
    finally:
        del globals()["plain"]


def test_a_declaration_that_fails_undoes_init(router):
    serve.route("/hello")(handle_request)
    router.fail_backends["handle_request"] = "Traceback: bad"
    with pytest.raises(ApplicationError, match="bad"):
        serve.init(router.address)
    with pytest.raises(NotInitialized):
        serve.list_endpoints()


# --- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"address": 7}, TypeError, "address must be a string"),
        ({"address": "nowhere"}, ValueError, "address must look like"),
        ({"http_host": 7}, TypeError, "http_host"),
        ({"http_host": ""}, ValueError, "http_host"),
        ({"http_port": "8000"}, TypeError, "http_port must be a whole number, not '8000'"),
        ({"http_port": 65536}, ValueError, "http_port must be between 0 and 65535, not 65536"),
        ({"http_port": True}, TypeError, "http_port"),
        ({"blocking": 1}, TypeError, "blocking"),
        ({"queueing_policy": "fastest"}, ValueError, "queueing_policy must be one of random, round_robin"),
        ({"queueing_policy": 1}, TypeError, "queueing_policy"),
        ({"policy_kwargs": [1]}, TypeError, "policy_kwargs"),
        ({"name": ""}, ValueError, "name"),
        ({"name": 7}, TypeError, "name"),
    ],
)
def test_bad_arguments_of_init(keywords, error, text):
    with pytest.raises(error, match=text):
        serve.init(**keywords)


def test_init_says_that_a_fabric_that_is_joined_has_a_policy_of_its_own(router):
    with pytest.warns(serve.ServeWarning, match="queueing_policy='m:P' has no effect: .*set_traffic") as told:
        serve.init(router.address, queueing_policy="m:P")
    assert told[0].filename == __file__


def test_init_joins_the_address_of_the_environment(router, monkeypatch):
    monkeypatch.setenv("ZSERVE_ADDRESS", router.address)
    serve.init()
    assert serve.list_endpoints() == {}
    monkeypatch.setenv("ZSERVE_ADDRESS", "nonsense")
    with pytest.raises(ValueError, match="address must look like"):
        serve.init(name="other")


def test_init_again_is_a_no_op(router):
    serve.init(router.address)
    calls = len(router.calls)
    serve.init(router.address)
    serve.init()
    assert len(router.calls) == calls


def test_init_with_another_address_is_refused(router):
    serve.init(router.address)
    with pytest.raises(ServeError, match=f"already joined {router.address}.*name="):
        serve.init("tcp://127.0.0.1:1")


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(FabricUnreachable, match="no such socket"):
        serve.init(f"ipc://{tmp_path}/x")
    with pytest.raises(NotInitialized):
        serve.status()


@pytest.mark.parametrize(
    ("variable", "where"),
    [("ZSERVE_REPLICA", "a replica, which imports"), ("ZSERVE_ROUTER", "a router, which imports")],
)
def test_init_inside_of_a_process_of_the_fabric_explains_itself(monkeypatch, variable, where):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ServeError, match=f"inside of {where}.*__main__"):
        serve.init()


# --- the embedded fabric ----------------------------------------------------------------------------------------------

CHILD = """
import json, os, sys
arguments = sys.argv[1:]
code_dir, address, behaviour = arguments[0], arguments[1], arguments[2]
if behaviour == "fails":
    print(json.dumps({"error": "port 8000 is taken; choose another with http_port=", "exit": 1, "class": "PortInUse"}))
    sys.exit(1)
if behaviour == "bad app":
    print(json.dumps({"error": "no module x", "exit": 3}))
    sys.exit(3)
if behaviour == "crashes":
    sys.exit(7)
if behaviour == "noise":
    print("hello", flush=True)
with open(code_dir + "/arguments", "w") as file:
    json.dump(arguments[3:], file)
facts = {"address": address, "http": "http://127.0.0.1:8000", "code_dir": code_dir, "run_dir": code_dir}
print(json.dumps(facts), flush=True)
if behaviour != "dies":
    sys.stdin.read()  # until the parent lets go
open(code_dir + "/ended", "w").close()
"""


@pytest.fixture
def embed(router, tmp_path, monkeypatch):
    """init() starts a small script in place of the fabric; its router is the fake one."""
    (tmp_path / "child.py").write_text(CHILD)
    behaviours = {"behaviour": "serves"}
    original = fabrics.EmbeddedFabric

    def start(**keywords):
        command = [sys.executable, "-P", str(tmp_path / "child.py"), str(tmp_path), router.address]
        return original(command=[*command, behaviours["behaviour"]], **keywords)

    monkeypatch.setattr(fabrics, "EmbeddedFabric", start)
    return behaviours


def test_init_starts_a_child_that_ends_with_shutdown(embed, router, tmp_path):
    serve.init(http_port=8123, queueing_policy="fixed_packing", policy_kwargs={"packing_num": 8})
    arguments = (tmp_path / "arguments").read_text()
    for part in ('"--host", "127.0.0.1"', '"--port", "8123"', '"--queueing-policy", "fixed_packing"', "--app-dir"):
        assert part in arguments
    assert r'"--policy-kwargs", "{\"packing_num\":8}"' in arguments
    assert not (tmp_path / "ended").exists()
    serve.create_backend("lambda", lambda request: "x")
    assert router.args("create_backend")["code"].startswith("file:")
    serve.shutdown()
    assert (tmp_path / "ended").exists()
    with pytest.raises(NotInitialized):
        serve.list_backends()


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        ("fails", serve.PortInUse, "port 8000 is taken"),
        ("bad app", ApplicationError, "no module x"),
        ("crashes", ServeError, r"did not start \(exit status 7\)"),
        ("noise", ServeError, "did not start.*: hello"),
    ],
)
def test_a_child_that_does_not_start(embed, behaviour, error, text):
    embed["behaviour"] = behaviour
    with pytest.raises(error, match=text):
        serve.init()
    with pytest.raises(NotInitialized):
        serve.list_backends()


def test_a_child_that_has_died_is_reported_and_replaced(embed, tmp_path):
    embed["behaviour"] = "dies"
    serve.init()
    assert fabrics._current is not None
    assert fabrics._current.embedded is not None
    fabrics._current.embedded.wait()
    with pytest.raises(FabricUnreachable, match=r"has ended; call serve\.init"):
        serve.list_backends()
    embed["behaviour"] = "serves"
    serve.init()
    assert serve.list_backends() == {}


def test_init_says_when_it_does_not_move_the_fabric(embed):
    serve.init()
    with pytest.warns(serve.ServeWarning, match=r"does not move it to 127\.0\.0\.1:9000"):
        serve.init(http_port=9000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        serve.init()


def test_a_second_fabric_by_name(embed):
    serve.init()
    first = fabrics._current
    serve.init(name="second", http_port=8001)
    second = fabrics._current
    assert second is not first
    serve.init(name="second", http_port=8001)
    assert fabrics._current is second
    serve.init()
    assert fabrics._current is first
    serve.shutdown()
    assert first is not None
    assert second is not None
    assert not first.running()
    assert not second.running()


def test_blocking_ends_with_the_child(embed):
    embed["behaviour"] = "dies"
    with pytest.raises(ServeError, match=r"has ended \(exit status 0\)"):
        serve.init(blocking=True)
    with pytest.raises(NotInitialized):
        serve.list_backends()


def test_ctrl_c_ends_blocking(embed, monkeypatch, tmp_path):
    monkeypatch.setattr("zserve.control.embedded.EmbeddedFabric.wait", lambda self: raise_interrupt())
    serve.init(blocking=True)
    assert (tmp_path / "ended").exists()


def raise_interrupt():
    raise KeyboardInterrupt


def test_a_forked_child_neither_stops_the_fabric_nor_keeps_it(embed, tmp_path):
    import os

    serve.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        pid = os.fork()
    if pid == 0:
        try:
            serve.list_backends()
        except NotInitialized:
            serve.shutdown()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not (tmp_path / "ended").exists()
    assert serve.list_backends() == {}


def test_leaving_the_interpreter_by_kill_ends_the_child(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    script = f"""
import os, signal, sys
from zserve.control.embedded import EmbeddedFabric
command = [sys.executable, "-P", {str(tmp_path / "child.py")!r}, {str(tmp_path)!r}, "ipc:///x", "serves"]
fabric = EmbeddedFabric(host="127.0.0.1", port=8000, command=command)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=20, check=False)
    assert done.returncode == -9
    wait_for(tmp_path / "ended")


def wait_for(path):
    pause = threading.Event()
    for _ in range(1000):
        if path.exists():
            return
        pause.wait(0.01)
    raise AssertionError(f"{path} did not appear")


def test_import_is_cheap():
    heavy = ["zmq", "msgspec", "orjson", "werkzeug", "click", "uvicorn", "cloudpickle", "asyncio", "subprocess"]
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}; import zserve; print([n for n in {heavy!r} if n in sys.modules])"
    )
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "[]"

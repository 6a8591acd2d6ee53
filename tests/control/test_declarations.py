from __future__ import annotations

import pickle
import sys
import types

import cloudpickle
import pytest

import zserve as serve
from zserve.control import declarations
from zserve.control.client import ControlClient
from zserve.control.declarations import apply, collect, declared
from zserve.control.operations import Operations
from zserve.errors import ApplicationError, ServeError


def old(request):
    return "old"


def new(request):
    return "new"


class Adder:
    def __init__(self, amount):
        self.amount = amount

    def __call__(self, request):
        return self.amount

    @classmethod
    def make(cls):
        return cls(3)


def module(name: str, source: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec("import zserve as serve\n" + source, made.__dict__)
    return made


# --- @route -----------------------------------------------------------------------------------------------------------


def test_route_declares_an_endpoint_and_a_backend_of_the_functions_name():
    @serve.route("/predict", methods=["POST"])
    def predict(request):
        return "x"

    [declaration] = declared()
    assert (declaration.name, declaration.route, declaration.methods) == ("predict", "/predict", ["POST"])
    assert declaration.traffic == {"predict": 1.0}
    assert declaration.backends["predict"].target is predict.__zserve_target__
    assert predict(None) == "x"


@pytest.mark.parametrize("order", ["route first", "accept_batch first"])
def test_route_and_accept_batch_compose_in_either_order(order):
    def batcher(many_requests):
        return ["many_response" for _ in range(len(many_requests))]

    if order == "route first":
        routed = serve.route("/batcher")(serve.accept_batch(batcher))
    else:
        routed = serve.accept_batch(serve.route("/batcher")(batcher))
    assert batcher.__zserve_accept_batch__ is True
    routed.set_max_batch_size(100)
    routed.scale(3)
    [declaration] = declared()
    assert declaration.backends["batcher"].config == {"max_batch_size": 100, "num_replicas": 3}
    assert routed([1, 2]) == ["many_response"] * 2


def test_a_routed_class_is_still_a_class():
    routed = serve.route("/add")(Adder)
    assert isinstance(routed(2), routed)
    assert not isinstance(7, routed)
    assert routed.make().amount == 3
    assert routed(2)(None) == 2

    class Sub(routed):  # type: ignore[misc,valid-type]
        pass

    assert issubclass(Sub, Adder)
    assert routed.__name__ == "Adder"


def test_batches_need_accept_batch():
    routed = serve.route("/old")(old)
    with pytest.raises(ValueError, match=r"'old': max_batch_size=8 needs code declared with @serve.accept_batch"):
        routed.set_max_batch_size(8)
    assert declared()[0].backends["old"].config == {}


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), ("8", TypeError), (True, TypeError)])
def test_settings_are_checked_where_they_are_made(size, error):
    routed = serve.route("/batch")(serve.accept_batch(lambda requests: requests))
    with pytest.raises(error, match="max_batch_size"):
        routed.set_max_batch_size(size)


def test_a_second_route_is_a_second_endpoint_of_the_same_backend():
    routed = serve.route("/a")(serve.route("/b")(old))
    assert [(d.name, d.route, list(d.backends)) for d in declared()] == [
        ("old", "/b", ["old"]),
        ("old:/a", "/a", ["old"]),
    ]
    assert routed.__zserve_declarations__ == declared()


@pytest.mark.parametrize("path", ["predict", "", "/a b", "/a?x", "/-/routes", "/-"])
def test_bad_paths_are_refused(path):
    with pytest.raises(ValueError, match="route"):
        serve.route(path)


@pytest.mark.parametrize("methods", ["GET", b"GET", 7, None, [7]])
def test_bad_types_of_methods_are_refused(methods):
    with pytest.raises(TypeError, match="methods"):
        serve.route("/x", methods=methods)
    with pytest.raises(ValueError, match="methods"):
        serve.route("/x", methods=["GET /"])
    with pytest.raises(ValueError, match="methods"):
        serve.route("/x", methods=[])


def test_what_cannot_be_called_has_no_route():
    with pytest.raises(TypeError, match="function or a class, not int"):
        serve.route("/x")(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="accept_batch"):
        serve.accept_batch(7)  # type: ignore[type-var]
    assert declared() == []


def test_a_handle_needs_a_fabric_with_handles():
    with pytest.raises(ServeError):
        _ = serve.route("/old")(old).handle


def test_a_routed_function_is_pickled_as_the_function_itself():
    # Of an importable module by name; of a script, by value and without its declaration.
    importable = module("zserve_test_importable", "@serve.route('/f')\ndef f(): return 'f'")
    sys.modules[importable.__name__] = importable
    try:
        assert pickle.loads(pickle.dumps(importable.f)) is importable.f
    finally:
        del sys.modules[importable.__name__]
    script = module("__main__", "@serve.route('/g')\ndef g(): return 'g'")
    loaded = pickle.loads(cloudpickle.dumps(script.g))
    assert type(loaded) is types.FunctionType
    assert loaded() == "g"


# --- declare_endpoint -------------------------------------------------------------------------------------------------


def test_several_backends_behind_one_endpoint():
    serve.declare_endpoint(
        "shop",
        "/shop",
        methods=["get", "POST", "GET"],
        backends={"old": old, "add": serve.backend(Adder, 5, config={"num_replicas": 2})},
        traffic={"old": 0.9, "add": 0.1},
        config={"num_replicas": 1, "slo_ms": 50},
    )
    [declaration] = declared()
    assert declaration.methods == ["GET", "POST"]
    assert declaration.traffic == {"old": 0.9, "add": 0.1}
    assert declaration.backends["old"].config == {"num_replicas": 1, "slo_ms": 50}
    assert declaration.backends["add"].config == {"num_replicas": 2, "slo_ms": 50}
    assert declaration.backends["add"].init_args == (5,)
    assert declaration.module == __name__


def test_without_traffic_all_get_the_same_share():
    assert serve.declare_endpoint("e", backends={"a": old, "b": new}).traffic == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"backends": {}}, ValueError, "at least one backend"),
        ({"backends": [old]}, TypeError, "backends must be a dict"),
        ({"backends": {"a": 7}}, TypeError, "function or a class, not int"),
        ({"backends": {"": old}}, ValueError, "backend name"),
        ({"backends": {7: old}}, TypeError, "backend name"),
        ({"backends": {"a": old}, "traffic": {"a": 0.9}}, ValueError, "sum to 0.9"),
        ({"backends": {"a": old}, "traffic": {"a": 1.5, "b": -0.5}}, ValueError, "'b' must be 0 or more, not -0.5"),
        ({"backends": {"a": old}, "traffic": {"b": 1}}, ValueError, "names 'b', not among|names 'b', which is not"),
        ({"backends": {"a": old}, "traffic": {"a": "1"}}, TypeError, "the weight of 'a' must be a number"),
        ({"backends": {"a": old}, "traffic": 1}, TypeError, "dict of backend name to weight"),
        ({"backends": {"a": old}, "config": 7}, TypeError, "config must be a dict"),
        ({"backends": {"a": old}, "route": "x"}, ValueError, "route must begin with '/'"),
        ({"backends": {"a": old}, "route": 7}, TypeError, "route must be a string"),
    ],
)
def test_bad_declarations_name_the_argument(arguments, error, text):
    with pytest.raises(error, match=text):
        serve.declare_endpoint("e", **arguments)
    assert declared() == []


def test_a_function_takes_no_constructor_arguments():
    with pytest.raises(ValueError, match="'old' is a function, which takes no init_args"):
        serve.backend(old, 1)


# --- collecting -------------------------------------------------------------------------------------------------------


def test_collect_finds_what_a_module_declares_in_order():
    app = module("app", "@serve.route('/f')\ndef f(): return 1\nserve.declare_endpoint('e', '/e', backends={'b': f})")
    module("other", "@serve.route('/x')\ndef x(): return 1")
    part = module("app.part", "@serve.route('/p')\ndef p(): return 1")
    assert [d.name for d in collect(app)] == ["f", "e", "p"]
    assert [d.name for d in collect(part)] == ["p"]


def test_collect_includes_routed_functions_that_were_imported_by_name():
    other = module("other", "@serve.route('/x')\ndef x(): return 1\n@serve.route('/y')\ndef y(): return 1")
    app = module("app", "@serve.route('/f')\ndef f(): return 1")
    app.x = other.x  # type: ignore[attr-defined]
    assert [d.name for d in collect(app)] == ["x", "f"]


def test_running_a_cell_again_replaces_its_declaration():
    source = "@serve.route('{}')\ndef f(): return 1"
    module("__main__", source.format("/f"))
    again = module("__main__", source.format("/g"))
    [declaration] = declared()
    assert declaration.route == "/g"
    assert declaration.backends["f"].target is again.f.__zserve_target__


def test_two_functions_of_one_name_in_a_module_are_an_error():
    with pytest.raises(ValueError, match="app declares endpoint 'f' twice, at /f and at /g"):
        module("app", "@serve.route('/f')\ndef f(): return 1\n@serve.route('/g')\ndef f(): return 2")


# --- applying ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def control(router):
    with ControlClient(router.address) as client:
        yield Operations(client)


def test_backends_start_together_and_endpoints_follow(router, control):
    serve.declare_endpoint("shop", "/shop", backends={"old": old, "new": new}, traffic={"old": 0.9, "new": 0.1})
    serve.route("/add")(new)
    apply(declared()[:1], control)
    assert router.ops() == [
        "list_backends",
        "list_endpoints",
        "create_backend",
        "create_backend",
        "wait_backend",
        "wait_backend",
        "create_endpoint",
        "set_traffic",
    ]
    assert router.endpoints["shop"]["traffic"] == {"old": 0.9, "new": 0.1}
    assert router.backends["old"]["code"] == f"{__name__}:old"


def test_a_single_backend_needs_no_traffic_call(router, control):
    serve.route("/old")(old)
    apply(declared(), control)
    assert router.ops()[-1] == "create_endpoint"
    assert router.endpoints["old"] == {"route": "/old", "methods": ["GET"], "traffic": {"old": 1.0}, "shadows": {}}


def test_applied_again_it_updates(router, control):
    serve.route("/old")(old)
    apply(declared(), control)
    router.calls.clear()
    apply(declared(), control)
    assert router.ops() == ["list_backends", "list_endpoints", "update_backend", "wait_backend", "set_traffic"]
    assert router.args("update_backend")["version"] != router.args("update_backend")["code"]


def test_a_changed_route_makes_the_endpoint_anew(router, control):
    serve.route("/old")(old)
    router.endpoints["old"] = {"route": "/elsewhere", "methods": ["GET"], "traffic": {}}
    apply(declared(), control)
    assert router.ops()[-2:] == ["delete_endpoint", "create_endpoint"]
    assert router.endpoints["old"]["route"] == "/old"


def test_a_backend_that_fails_takes_everything_back(router, control):
    router.fail_backends["new"] = "Traceback: no such model"
    serve.declare_endpoint("shop", "/shop", backends={"old": old, "new": new})
    with pytest.raises(ApplicationError, match="no such model"):
        apply(declared(), control)
    assert router.backends == {}
    assert router.endpoints == {}


def test_an_endpoint_that_fails_takes_everything_back(router, control):
    serve.route("/old")(old)
    serve.route("/new")(new)
    answers = iter([None, ValueError("route /new is taken")])

    def create(args):
        error = next(answers)
        if error is not None:
            raise error
        return router._create_endpoint(args)

    router.answers["create_endpoint"] = create
    with pytest.raises(ValueError, match="is taken"):
        apply(declared(), control)
    assert router.backends == {}
    assert router.endpoints == {}


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (
            "@serve.route('/a')\ndef f(): return 1",
            "@serve.route('/b')\ndef f(): return 1",
            "'f' is declared by a and by b",
        ),
        ("@serve.route('/a')\ndef f(): return 1", "@serve.route('/a')\ndef g(): return 1", "route /a is declared for"),
        (
            "serve.declare_endpoint('e', backends={'x': len})",
            "serve.declare_endpoint('d', backends={'x': max})",
            "backend 'x' is declared twice",
        ),
    ],
)
def test_contradictions_are_found_before_anything_is_done(router, control, first, second, text):
    module("a", first)
    module("b", second)
    with pytest.raises(ValueError, match=text):
        apply(declared(), control)
    assert router.calls == []


def test_what_could_not_be_served_is_not_declared():
    def refuse(_declaration):
        raise ServeError("full")

    declarations.on_declare(refuse)
    try:
        with pytest.raises(ServeError, match="full"):
            serve.route("/old")(old)
    finally:
        declarations.on_declare(None)
    assert declared() == []

from __future__ import annotations

import collections
import hashlib
import importlib.util
import json
import stat
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import zserve as serve
from zserve.control.code import CodeNamer, is_batchable, is_json
from zserve.errors import ServeError
from zserve.handler.load import load


def handler(request):
    return "handler"


class Model:
    def __init__(self, *args, **kwargs):
        self.args = args

    def __call__(self, request):
        return self.args


@pytest.fixture
def code_dir(tmp_path) -> Path:
    path = tmp_path / "code"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def user_module(tmp_path):
    """An imported module of the user's, in a folder of its own."""
    folder = tmp_path / "app"
    folder.mkdir()
    path = folder / "zserve_user_app.py"
    path.write_text("import zserve as serve\ndef f(r): return 'f'\nclass C:\n  def m(self): pass\ng = lambda r: 'g'\n")
    spec = importlib.util.spec_from_file_location("zserve_user_app", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zserve_user_app"] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    yield module
    del sys.modules["zserve_user_app"]


def content(code_dir: Path, code: str):
    return cloudpickle.loads((code_dir / code.removeprefix("file:")).read_bytes())


def test_importable_code_is_named(user_module, code_dir):
    namer = CodeNamer(code_dir, [str(Path(user_module.__file__).parent)])
    name = namer.name(user_module.f)
    assert (name.code, name.is_class, name.batchable) == ("zserve_user_app:f", False, False)
    name = namer.name(user_module.C, [1, "x", None], {"k": {"a": [1.5, True]}})
    assert (name.code, name.is_class) == ("zserve_user_app:C", True)
    assert (name.init_args, name.init_kwargs) == ([1, "x", None], {"k": {"a": [1.5, True]}})
    assert namer.name(json.dumps).code == "json:dumps"
    assert namer.name(collections.OrderedDict).code == "collections:OrderedDict"
    assert list(code_dir.iterdir()) == []


def test_the_version_changes_with_the_file(user_module, code_dir):
    namer = CodeNamer(code_dir)
    before = namer.name(user_module.f).version
    assert before == namer.name(user_module.f).version
    assert before != namer.name(user_module.C).version
    path = Path(user_module.__file__)
    path.write_text(path.read_text() + "# edited\n")
    assert namer.name(user_module.f).version != before


def test_a_routed_function_has_its_functions_name(user_module, code_dir):
    user_module.f = serve.route("/f")(user_module.f)
    assert CodeNamer().name(user_module.f).code == "zserve_user_app:f"
    assert CodeNamer().name(user_module.f.__zserve_target__).code == "zserve_user_app:f"


def closure(word):
    def say(request):
        return word

    return say


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda module: lambda request: "lambda", "it is a lambda"),
        (lambda module: module.g, "it is a lambda"),
        (lambda module: closure("closure"), "it is defined inside of a function"),
        (lambda module: Model(), "it has no name of its own"),
        (lambda module: module.C.m, None),
    ],
)
def test_code_that_cannot_be_imported_is_explained_in_a_joined_fabric(user_module, make, reason):
    namer = CodeNamer()
    target = make(user_module)
    if reason is None:
        assert namer.name(target).code == "zserve_user_app:C.m"
        return
    target.__call__ = None if not callable(target) else target
    with pytest.raises(ServeError, match=f"cannot import .*: {reason}.*--app-dir"):
        namer.name(target)


def test_a_name_that_means_something_else_now_is_not_used(user_module, code_dir):
    original = user_module.f
    user_module.f = len
    with pytest.raises(ServeError, match=r"zserve_user_app\.f is something else"):
        CodeNamer().name(original)
    assert CodeNamer(code_dir).name(original).code.startswith("file:")


def test_the_script_that_runs_is_explained_in_a_joined_fabric(monkeypatch):
    monkeypatch.setattr(handler, "__module__", "__main__")
    with pytest.raises(ServeError, match=r"'handler': it is defined in the script or session that runs now"):
        CodeNamer().name(handler)


def test_the_embedded_fabric_gets_a_private_file(code_dir):
    name = CodeNamer(code_dir, []).name(closure("private"))
    digest = name.code.removeprefix("file:").removesuffix(".pkl")
    [path] = code_dir.iterdir()
    assert path.name == f"{digest}.pkl"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert content(code_dir, name.code)(None) == "private"
    assert name.version == digest[:16]
    assert CodeNamer(code_dir, []).name(closure("private")).code == name.code  # the same content, one file
    assert len(list(code_dir.iterdir())) == 1


def test_the_handler_loads_what_was_written(code_dir):
    namer = CodeNamer(code_dir, [])
    assert load(namer.name(closure("x")).code, None, str(code_dir)).target(None) == "x"
    array = np.arange(3)
    name = namer.name(Model, [(1, 2), array])
    loaded = load(name.code, None, str(code_dir))
    assert loaded.init_args is not None
    assert loaded.init_args[0] == (1, 2)
    assert loaded.init_args[1].tolist() == [0, 1, 2]
    assert (name.init_args, name.init_kwargs, name.is_class) == ([], {}, True)


def test_a_module_off_the_workers_path_goes_by_value(user_module, code_dir):
    name = CodeNamer(code_dir, ["/elsewhere"]).name(user_module.f)
    assert name.code.startswith("file:")
    del sys.modules["zserve_user_app"]
    try:
        assert content(code_dir, name.code)(None) == "f"
        assert "zserve_user_app" not in sys.modules
    finally:
        sys.modules["zserve_user_app"] = user_module
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_what_cannot_be_pickled_is_explained(code_dir):
    import threading

    lock = threading.Lock()
    with pytest.raises(ServeError, match=r"cannot be handed to a replica process .TypeError: .*lock"):
        CodeNamer(code_dir, []).name(lambda request: lock)
    assert list(code_dir.iterdir()) == []
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_constructor_arguments_of_a_joined_fabric_are_json(user_module):
    with pytest.raises(TypeError, match=r"init_args\[1\] \(tuple\) cannot be sent"):
        CodeNamer().name(user_module.C, [1, (2, 3)])
    with pytest.raises(TypeError, match=r"rate= \(float\) cannot be sent"):
        CodeNamer().name(user_module.C, [], {"rate": float("nan")})


@pytest.mark.parametrize("value", [None, True, 2**63 - 1, -1.5, "é", [], {}, [{"a": [None]}], {"a": {"b": 1}}])
def test_json_values(value):
    assert is_json(value)
    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    "value", [(1,), {1}, b"x", 2**63, float("inf"), {1: 2}, "\ud800", object(), np.float64(1), [()]]
)
def test_values_that_json_changes_or_refuses(value):
    assert not is_json(value)


def test_values_nested_without_end_are_refused():
    loop: list = []
    loop.append(loop)
    assert not is_json(loop)


def test_batchable_by_function_class_call_or_base():
    class OnCall:
        @serve.accept_batch
        def __call__(self, requests):
            return requests

    class Derived(OnCall):
        pass

    class Whole:
        pass

    assert not is_batchable(handler)
    assert not is_batchable(Whole)
    serve.accept_batch(Whole)
    assert is_batchable(Whole)
    assert is_batchable(OnCall)
    assert is_batchable(Derived)


def test_code_that_goes_by_value_keeps_the_name_of_its_file_for_tracebacks(code_dir):
    def outer(request):
        def inner():
            raise LookupError("in there")

        return inner()

    name = CodeNamer(code_dir).name(outer)
    target = load(name.code, None, str(code_dir)).target
    assert target.__code__.co_filename == __file__
    with pytest.raises(LookupError, match="in there") as caught:
        target(None)
    frames = caught.traceback
    assert {str(frame.path) for frame in frames} == {__file__}
    assert str(frames[-1].statement).strip() == 'raise LookupError("in there")'

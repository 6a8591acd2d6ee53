"""The examples in docstrings are right.  Those of the control API are run on a fabric."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import zserve
import zserve as serve
from zserve.control import api, declarations, fabrics

pytestmark = pytest.mark.integration

OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
LIVE: dict[str, Any] = {
    **{name: getattr(api, name) for name in api.__all__ if name not in ("shutdown", "register_type")},
    "remote": serve.ServeHandle.remote,
    "options": serve.ServeHandle.options,
    "result": serve.ServeAnswer.result,
}
MODULES = [
    found.name
    for found in pkgutil.walk_packages(zserve.__path__, "zserve.")
    if not found.name.startswith("zserve.nodes") and found.name != "zserve.__main__"
]


def examples(name: str, found: Any, space: dict[str, Any]) -> doctest.DocTest | None:
    text = inspect.getdoc(found) or ""
    if ">>>" not in text:
        return None
    return doctest.DocTestParser().get_doctest(text, space, name, inspect.getsourcefile(found), 0)


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.fixture(scope="module")
def fabric() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="zs-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSERVE_RUN_DIR", folder)
        patch.delenv("ZSERVE_ADDRESS", raising=False)
        patch.setattr(declarations, "_declared", {})
        serve.init(http_port=0)
        try:
            yield
        finally:
            serve.shutdown()


def prepare(name: str) -> None:
    """What the examples take for granted: two endpoints with their backends, and one each for two of the handles."""
    backends, endpoints = serve.list_backends(), serve.list_endpoints()
    wanted: dict[str, Callable[..., Any]] = {
        "simple_backend": lambda: "hello world",
        "SVM:v1": lambda: "svm",
        "ResNet50:v2": lambda: "resnet",
        "ResNet50:v3": lambda: "new resnet",
        "greet": lambda request: f"hello {request.data['name']}",
        "square": lambda x: x * x,
        "model": type("Model", (), {"predict": lambda self, request: sum(request.data)}),
    }
    serve.delete_endpoint("simple_endpoint")
    if name in ("create_backend", "delete_backend", "update_backend"):
        serve.delete_backend("simple_backend")
        backends.pop("simple_backend", None)
        if name == "create_backend":
            del wanted["simple_backend"]
    for backend, code in wanted.items():
        if backend not in backends:
            serve.create_backend(backend, code)
    handles = {"image classifier": "SVM:v1", "greet": "greet", "model": "model", "square": "square"}
    for endpoint, backend in handles.items():
        if endpoint not in endpoints:
            serve.create_endpoint(endpoint, backend=backend)
    if "simple_backend" in wanted and name not in ("create_endpoint", "delete_backend"):
        serve.create_endpoint("simple_endpoint", "/simple", backend="simple_backend")
    if name == "stat":
        serve.get_handle("simple_endpoint").remote().result(30)


@pytest.mark.parametrize("name", LIVE)
def test_control_calls(fabric: None, name: str) -> None:
    test = examples(name, LIVE[name], {})
    assert test is not None, f"{name} has no example"
    assert not any(doctest.SKIP in example.options for example in test.examples), "an example that is not run"
    prepare(name)
    run(test)


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others, which need no fabric."""
    monkeypatch.setattr(declarations, "_declared", {})
    monkeypatch.setattr(declarations, "_listener", None)
    monkeypatch.setattr(fabrics, "_current", None)
    module = importlib.import_module(name)
    live = {id(found) for found in LIVE.values()} | {id(fabrics.init)}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"__name__": "__main__"}):
        found: Any = module
        for part in test.name[len(name) + 1 :].split("."):
            found = getattr(found, part, None) if part else found
        if test.examples and id(found) not in live:
            run(test)

"""From names to code, and what is said when that fails."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zserve.errors import ApplicationError
from zserve.handler.load import load, resolve


@pytest.fixture
def app_dir(tmp_path: Path) -> Iterator[Path]:
    before = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if getattr(sys.modules[name], "__file__", "") and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def code_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir(mode=0o700)
    return folder


def put(folder: Path, value: object, mode: int = 0o600) -> str:
    content = cloudpickle.dumps(value)
    path = folder / f"{hashlib.sha256(content).hexdigest()}.pkl"
    path.write_bytes(content)
    path.chmod(mode)
    return f"file:{path.name}"


def message_of(code: str, app_dir: Path | None = None, code_dir: Path | None = None) -> str:
    with pytest.raises(ApplicationError) as caught:
        load(code, str(app_dir) if app_dir else None, str(code_dir) if code_dir else None)
    return str(caught.value)


def test_attribute_of_a_module_in_the_application_folder(app_dir: Path) -> None:
    (app_dir / "app_a.py").write_text(
        "class Model:\n    class Part:\n        @staticmethod\n        def f(): return 5\n"
    )
    loaded = load("app_a:Model.Part.f", str(app_dir))
    assert loaded.target() == 5
    assert (loaded.init_args, loaded.init_kwargs) == (None, None)
    assert sys.path[0] == str(app_dir)
    load("app_a:Model", str(app_dir))
    assert sys.path.count(str(app_dir)) == 1


def test_package_and_declared_object() -> None:
    assert resolve("tests.handler.samples:plain")() == "plain"
    assert load("tests.handler.samples:declared").target() == "plain"


@pytest.mark.parametrize(
    "code",
    ["", "app", "app:", ":f", "app:f()", "../app:f", "app:f:g", "a b:c", "app:f.", "os:system\n", "app/x:f", "1a:f"],
)
def test_names_that_are_none(code: str) -> None:
    assert "package.module:attribute" in message_of(code)


def test_code_that_is_no_string() -> None:
    with pytest.raises(ApplicationError, match="must be a string"):
        load(None)  # type: ignore[arg-type]


def test_unknown_module_says_where_it_looked(app_dir: Path) -> None:
    text = message_of("no_such_module_x:f", app_dir)
    assert "'no_such_module_x'" in text
    assert str(app_dir) in text
    assert "--app-dir" in text
    assert "'no_such_package_x'" in message_of("no_such_package_x.part:f")


def test_missing_application_folder(tmp_path: Path) -> None:
    assert "does not exist" in message_of("app:f", tmp_path / "nowhere")


def test_missing_dependency_is_told_apart_from_a_missing_module(app_dir: Path) -> None:
    (app_dir / "app_b.py").write_text("x = 1\nimport torch_of_another_kind\n")
    text = message_of("app_b:f", app_dir)
    assert "needs 'torch_of_another_kind'" in text
    assert "app_b.py" in text
    assert "line 2" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n", "syntax error"),
        ("def g(): return 1 / 0\ng()\n", "ZeroDivisionError"),
        ("import sys; sys.exit('bye')\n", "SystemExit"),
        ("raise BaseExceptionGroup('many', [ValueError(1)])\n", "many"),
    ],
)
def test_modules_that_fail_carry_the_users_traceback(app_dir: Path, source: str, said: str) -> None:
    (app_dir / "app_c.py").write_text(source)
    text = message_of("app_c:f", app_dir)
    sys.modules.pop("app_c", None)
    assert said in text
    assert "app_c.py" in text
    assert "importlib" not in text
    assert "zserve/handler" not in text


def test_unknown_attribute_suggests_close_ones() -> None:
    text = message_of("tests.handler.samples:plian")
    assert "no attribute 'plian'" in text
    assert "'plain'" in text
    assert "'tests.handler.samples:Counter' has no attribute 'q'" in message_of("tests.handler.samples:Counter.q")


def test_not_callable() -> None:
    assert "a int, not a function or class" in message_of("tests.handler.samples:not_callable")


# --- code files -------------------------------------------------------------------------------------------------------


def test_code_file(code_dir: Path) -> None:
    captured = 41
    loaded = load(put(code_dir, lambda: captured + 1), None, str(code_dir))
    assert loaded.target() == 42


def test_code_file_with_constructor_arguments(code_dir: Path) -> None:
    loaded = load(put(code_dir, (dict, (), {"a": 1})), None, str(code_dir))
    assert loaded.target(*(loaded.init_args or ()), **(loaded.init_kwargs or {})) == {"a": 1}
    assert "not (target, args, kwargs)" in message_of(put(code_dir, (dict, 1)), None, code_dir)


def test_code_file_without_a_folder() -> None:
    assert "embedded fabric" in message_of(f"file:{'a' * 64}.pkl")


@pytest.mark.parametrize(
    "name",
    [
        "x.pkl",
        "../" + "a" * 64 + ".pkl",
        "A" * 64 + ".pkl",
        "a" * 64,
        "a" * 64 + ".pkl/..",
        "/tmp/" + "a" * 64 + ".pkl",
    ],
)
def test_code_file_names_are_plain(code_dir: Path, name: str) -> None:
    assert "is not a code file" in message_of(f"file:{name}", None, code_dir)


def test_code_file_that_is_not_there(code_dir: Path) -> None:
    assert "cannot be read" in message_of(f"file:{'a' * 64}.pkl", None, code_dir)


def test_code_file_with_other_content(code_dir: Path) -> None:
    marker = code_dir / "ran"
    code = put(code_dir, print)
    (code_dir / code.removeprefix("file:")).write_bytes(cloudpickle.dumps(marker.touch))
    assert "does not have the content" in message_of(code, None, code_dir)
    assert not marker.exists()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_code_file_that_others_may_use(code_dir: Path, mode: int) -> None:
    assert "it must be 0600" in message_of(put(code_dir, print, mode), None, code_dir)


def test_code_folder_that_others_may_use(code_dir: Path) -> None:
    code = put(code_dir, print)
    code_dir.chmod(0o755)
    assert "a folder: 0700" in message_of(code, None, code_dir)


def test_code_file_that_is_a_link(code_dir: Path, tmp_path: Path) -> None:
    code = put(code_dir, print)
    real = code_dir / code.removeprefix("file:")
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    assert "cannot be read" in message_of(code, None, code_dir)


def test_code_folder_that_is_a_link(code_dir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(code_dir)
    assert "is not a folder" in message_of(put(code_dir, print), None, link)


def test_code_file_that_is_a_fifo(code_dir: Path) -> None:
    os.mkfifo(code_dir / f"{'b' * 64}.pkl", 0o600)
    assert "is not a plain file" in message_of(f"file:{'b' * 64}.pkl", None, code_dir)


def test_code_file_of_another_user(code_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = put(code_dir, print)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "belongs to user" in message_of(code, None, code_dir)


def test_code_file_that_cannot_be_unpickled(code_dir: Path) -> None:
    content = b"not a pickle"
    name = hashlib.sha256(content).hexdigest() + ".pkl"
    (code_dir / name).write_bytes(content)
    (code_dir / name).chmod(0o600)
    assert "could not be loaded" in message_of(f"file:{name}", None, code_dir)


@given(st.text(max_size=80))
def test_any_text_is_an_error_of_ours_or_code(code: str) -> None:
    if code.partition(":")[0].isidentifier() and ":" in code:
        return  # may name a real module
    with pytest.raises(ApplicationError):
        load(code)

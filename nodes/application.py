"""The user's module: imported, and asked what it declares."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from zserve.errors import ApplicationError

__all__ = ["Application", "load_application", "load_code"]


class Application:
    """What one ``module`` or ``module:name`` declares.  ``hint``: a line for people, such as a curl command."""

    def __init__(self, module: ModuleType, declarations: list[Any]) -> None:
        self.declarations = declarations
        hint = getattr(module, "__serve_hint__", "")
        self.hint = hint if isinstance(hint, str) else ""


def load_application(target: str, app_dir: Path) -> Application:
    """Import *target* from *app_dir* and find what it wants served.

    Raises :class:`ApplicationError`, with the user's part of the traceback above one clear line, when the module cannot
    be imported, and when it declares nothing.
    """
    name, _, attribute = target.partition(":")
    module = _import(name, app_dir)
    from zserve.control.declarations import Declaration, collect

    if not attribute:
        declarations = collect(module)
        if not declarations:
            raise ApplicationError(
                f"{name} declares nothing to serve; put @serve.route(\"/path\") over a function or class in it"
            )
        return Application(module, declarations)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ApplicationError(f"{name} has no {attribute!r}; `zserve run {name}` serves all it declares") from None
    declarations = [found] if isinstance(found, Declaration) else list(getattr(found, "__zserve_declarations__", ()))
    if not declarations:
        raise ApplicationError(f"{target} is not declared; put @serve.route(\"/path\") over it")
    return Application(module, declarations)


def load_code(code: str, app_dir: Path) -> Any:
    """What *code*, ``package.module:attribute``, names.  Raises :class:`ApplicationError` if there is no such thing."""
    name, _, attribute = code.partition(":")
    found: Any = _import(name, app_dir)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ApplicationError(f"{code}: {name} has no {attribute!r}") from None
    return found


def _import(name: str, app_dir: Path) -> ModuleType:
    if str(app_dir) not in sys.path:
        sys.path.insert(0, str(app_dir))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ApplicationError(
                f"there is no module {error.name!r} in {app_dir}; say where it is with --app-dir"
            ) from None
        raise ApplicationError(_explain(name, error)) from error
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise ApplicationError(
            f"importing {name} ended the program (exit {error.code!r}); put what only a script does under "
            "`if __name__ == \"__main__\":`"
        ) from error
    except BaseException as error:
        raise ApplicationError(_explain(name, error)) from error


def _explain(name: str, error: BaseException) -> str:
    """The traceback from the user's first frame on, and one line."""
    trace = error.__traceback__
    while trace is not None and _ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    return f"cannot import {name}: {last}\n{text}"


def _ours(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen importlib") or "/importlib/" in filename

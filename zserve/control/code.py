"""What a piece of user code is called, so that a replica in another process finds it.

Code is named, never sent over a socket: ``module:qualname`` for what a worker node can import.  What cannot be imported
elsewhere (a function of the running script or of a notebook, a lambda, a closure) is written by the *embedded* fabric,
and only by it, to a private file that its own replica processes read: ``file:<sha256>.pkl``.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import inspect
import io
import math
import os
import sys
import tempfile
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ServeError
from .paths import interpreter_paths

__all__ = ["CodeName", "CodeNamer", "is_batchable", "is_json", "unwrap"]

TARGET = "__zserve_target__"
BATCHABLE = "__zserve_accept_batch__"

_MAX_INT = 2**63 - 1
_pickling = threading.Lock()


class CodeName(NamedTuple):
    """The name and version of a callable, and the constructor arguments that remain to be sent with it."""

    code: str
    version: str
    is_class: bool
    batchable: bool
    init_args: list[Any]
    init_kwargs: dict[str, Any]


def unwrap(target: Any) -> Any:
    """The function or class behind what ``@serve.route`` made of it."""
    return getattr(target, TARGET, target)


def is_batchable(target: Any) -> bool:
    """Whether *target*, or the ``__call__`` of a class, was declared with ``@serve.accept_batch``."""
    target = unwrap(target)
    if getattr(target, BATCHABLE, False):
        return True
    return inspect.isclass(target) and bool(getattr(inspect.getattr_static(target, "__call__", None), BATCHABLE, False))


class CodeNamer:
    """Names callables for the workers of one fabric.

    code_dir: the embedded fabric's private folder for pickled code; None for a fabric that was joined, where everything
        has to be importable.
    paths: what was on the search path of the workers when they were started (None: not known, so trusted).
    """

    def __init__(self, code_dir: str | os.PathLike[str] | None = None, paths: Sequence[str] | None = None) -> None:
        self._code_dir = Path(code_dir) if code_dir is not None else None
        self._roots = None if paths is None else {os.path.realpath(path) for path in paths}

    def name(
        self, target: Callable[..., Any], init_args: Sequence[Any] = (), init_kwargs: Mapping[str, Any] | None = None
    ) -> CodeName:
        """The name of *target*.

        Raises ServeError when the workers could not get at it, with what to do; TypeError when an argument of the
        constructor cannot travel to a joined fabric.
        """
        target = unwrap(target)
        keywords = dict(init_kwargs or {})
        is_class = inspect.isclass(target)
        batchable = is_batchable(target)
        obstacle = self._obstacle(target)
        unsendable = _unsendable(init_args, keywords)
        if obstacle is None and unsendable is None:
            code = f"{target.__module__}:{target.__qualname__}"
            return CodeName(code, _version(code, target), is_class, batchable, list(init_args), keywords)
        label = getattr(target, "__qualname__", None) or repr(target)
        if self._code_dir is None:
            if obstacle is not None:
                raise ServeError(
                    f"the workers of this fabric cannot import {label!r}: {obstacle}. Code is named, not sent: put it "
                    f"at the top level of a module that is installed on the worker nodes or lies in their --app-dir, "
                    f"and import it from there"
                )
            raise TypeError(
                f"{unsendable} cannot be sent to a joined fabric: constructor arguments may be None, bool, int, finite "
                f"float, str, and lists and dicts of them"
            )
        content: Any = target
        if unsendable is not None:
            # The arguments go into the file too, so that they arrive as what they are (a tuple, an array, an object).
            content = (target, tuple(init_args), keywords)
            init_args, keywords = (), {}
        digest = self._write(_dump(content, target, label, by_value=obstacle is not None))
        return CodeName(f"file:{digest}.pkl", digest[:16], is_class, batchable, list(init_args), keywords)

    # --- can it be imported elsewhere? --------------------------------------------------------------------------------

    def _obstacle(self, target: Any) -> str | None:
        """Why a worker could not import *target*; None if it can."""
        module_name = getattr(target, "__module__", None)
        qualname = getattr(target, "__qualname__", None)
        if not isinstance(module_name, str) or not isinstance(qualname, str):
            return "it has no name of its own"
        if module_name == "__main__":
            return "it is defined in the script or session that runs now (__main__)"
        if "<lambda>" in qualname:
            return "it is a lambda"
        if "<locals>" in qualname:
            return "it is defined inside of a function"
        module = sys.modules.get(module_name)
        if module is None:
            return f"its module {module_name!r} is not imported here"
        found: Any = module
        for part in qualname.split("."):
            found = getattr(found, part, None)
        # While the module is still being imported, a decorated name is not bound yet (or not again, in a reload).
        loading = bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
        if unwrap(found) is not target and not loading:
            return f"{module_name}.{qualname} is something else"
        if self._roots is not None and not self._reachable(module_name, module):
            return f"its module {module_name!r} is not on the workers' search path"
        return None

    def _reachable(self, module_name: str, module: Any) -> bool:
        file = getattr(module, "__file__", None)
        if file is None or self._roots is None:
            return True  # built in, or a frozen module: every Python has it
        folder = Path(os.path.realpath(file)).parent
        levels = module_name.count(".") + (1 if hasattr(module, "__path__") else 0)
        root = folder if levels == 0 else folder.parents[levels - 1] if levels <= len(folder.parents) else None
        if root is not None and (str(root) in self._roots or str(root) in interpreter_paths()):
            return True
        return _editable(module_name.partition(".")[0])

    # --- the private file ---------------------------------------------------------------------------------------------

    def _write(self, pickled: bytes) -> str:
        assert self._code_dir is not None
        digest = hashlib.sha256(pickled).hexdigest()
        path = self._code_dir / f"{digest}.pkl"
        if not path.exists():
            handle, temporary = tempfile.mkstemp(prefix=".code-", dir=self._code_dir)  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(pickled)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        return digest


def _editable(top: str) -> bool:
    """Whether an editable install, which the workers' Python has too, provides the package *top*."""
    for finder in sys.meta_path:
        owner = getattr(finder, "__module__", "") or type(finder).__module__
        if not owner.startswith("__editable__"):
            continue
        try:
            spec: importlib.machinery.ModuleSpec | None = finder.find_spec(top, None, None)
        except (ImportError, AttributeError):
            continue
        if spec is not None:
            return True
    return False


def _dump(content: Any, target: Any, label: str, *, by_value: bool) -> bytes:
    import cloudpickle

    module = sys.modules.get(getattr(target, "__module__", "") or "") if by_value else None
    if module is sys.modules.get("__main__"):
        module = None  # cloudpickle takes __main__ by value anyway
    with _pickling:
        registered = module is not None and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
        if registered:
            cloudpickle.register_pickle_by_value(module)
        try:
            return _pickled(content)
        except Exception as error:
            raise ServeError(
                f"{label!r} cannot be handed to a replica process ({type(error).__name__}: {error}); make what it "
                f"needs in the constructor of a class, or move it to a module that can be imported"
            ) from error
        finally:
            if registered:
                cloudpickle.unregister_pickle_by_value(module)


def _pickled(content: Any) -> bytes:
    """As ``cloudpickle.dumps``, but code keeps the name of its file: from 3.1.3 on it has "<dynamic-code>" in place of
    that, and the traceback of a handler that fails would not show a line of it."""
    import cloudpickle

    reducers = cloudpickle.CloudPickler.dispatch_table

    def reduce_code(code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
        make, arguments = reducers[types.CodeType](code)
        return make, tuple(code.co_filename if one == "<dynamic-code>" else one for one in arguments)

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        dispatch_table = ChainMap({types.CodeType: reduce_code}, reducers)

    file = io.BytesIO()
    Pickler(file).dump(content)
    return file.getvalue()


def _version(code: str, target: Any) -> str:
    """16 hex digits that change when the file which defines *target* does."""
    digest = hashlib.sha256(code.encode())
    file = getattr(sys.modules.get(target.__module__), "__file__", None)
    if file is not None:
        try:
            digest.update(Path(file).read_bytes())
        except OSError:
            pass
    return digest.hexdigest()[:16]


def _unsendable(init_args: Sequence[Any], init_kwargs: Mapping[str, Any]) -> str | None:
    """The first constructor argument that JSON would change or refuse, described; None if all can be sent."""
    named = [(f"init_args[{index}]", value) for index, value in enumerate(init_args)]
    named += [(f"{name}=", value) for name, value in init_kwargs.items()]
    for label, value in named:
        if not is_json(value):
            return f"{label} ({type(value).__name__})"
    return None


def is_json(value: Any, depth: int = 0) -> bool:
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if kind is int:
        return -_MAX_INT <= int(value) <= _MAX_INT
    if kind is float:
        return math.isfinite(float(value))
    if depth > 100:
        return False
    if kind is list:
        return all(is_json(item, depth + 1) for item in value)
    if kind is dict:
        return all(type(key) is str and is_json(key) and is_json(item, depth + 1) for key, item in value.items())
    return False

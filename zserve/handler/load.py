"""From the name of user code to the function or class.

Code is *named*, never received: "package.module:attribute" is imported, with the application's folder first on the
path.  The embedded fabric may also name "file:<sha256>.pkl", a file in its own private folder, where it has left a
function that cannot be imported (a lambda, a closure).  This is the one place in the fabric that loads a pickle; it
does so only for a plain file name, in a folder and from a file that nobody but this user can write or read, and when
the content has the hash that the name says.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import re
import stat
import sys
from typing import Any, NamedTuple

from ..errors import ApplicationError
from .frames import user_traceback

__all__ = ["Loaded", "load", "resolve"]

_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_FILE = re.compile(r"file:([0-9a-f]{64})\.pkl")
MAX_FILE_BYTES = 1 << 30


class Loaded(NamedTuple):
    """The user's function or class, and the constructor arguments where they came with it (else None)."""

    target: Any
    init_args: tuple[Any, ...] | None = None
    init_kwargs: dict[str, Any] | None = None


def load(code: str, app_dir: str | None = None, code_dir: str | None = None) -> Loaded:
    """The function or class that *code* names.

    app_dir: put first on ``sys.path``.  code_dir: the private folder for "file:" names; None where there is none.
    A file holds either the function or class, or a tuple of it, its positional and its keyword arguments.
    Raises ApplicationError, which says what was wrong, where, and what to do.
    """
    if not isinstance(code, str):
        raise ApplicationError(f"code must be a string like 'package.module:attribute', not {code!r}")
    file = _FILE.fullmatch(code)
    if file is not None:
        loaded = _load_file(code[len("file:") :], file.group(1), code_dir)
    elif code.startswith("file:"):
        raise ApplicationError(f"{code!r} is not a code file: it must be 'file:', 64 hexadecimal digits and '.pkl'")
    else:
        loaded = Loaded(resolve(code, app_dir))
    target = getattr(loaded.target, "__zserve_target__", loaded.target)
    if not callable(target):
        raise ApplicationError(f"{code!r} is {_describe(target)}, not a function or class; name one that can be called")
    return loaded._replace(target=target)


def resolve(code: str, app_dir: str | None = None) -> Any:
    """The attribute that "package.module:attribute.of.it" names, as it is.  Raises ApplicationError."""
    match = _NAME.fullmatch(code)
    if match is None:
        raise ApplicationError(f"{code!r} does not name code: write 'package.module:attribute'")
    module_name, path = match.groups()
    if app_dir:
        app_dir = os.path.abspath(app_dir)
        if not os.path.isdir(app_dir):
            raise ApplicationError(f"the application folder {app_dir!r} does not exist; set it with --app-dir")
        if app_dir not in sys.path:
            sys.path.insert(0, app_dir)
            importlib.invalidate_caches()
    found = _import(module_name, app_dir)
    done = module_name
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ApplicationError(f"{done!r} has no attribute {name!r}{_suggestion(name, found)}") from None
        except Exception as error:
            raise ApplicationError(f"reading {name!r} of {done!r} failed:\n{user_traceback(error)}") from error
        done = f"{done}:{name}" if done == module_name else f"{done}.{name}"
    return found


def _import(module_name: str, app_dir: str | None) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            where = f"in {app_dir!r} or elsewhere on the Python path" if app_dir else "on the Python path"
            advice = "start the node in the folder that holds it, name that with --app-dir, or install the package"
            raise ApplicationError(f"there is no module {missing!r} {where}; {advice}") from None
        text = f"importing {module_name!r} failed: it needs {missing!r}, which is not installed here"
        raise ApplicationError(f"{text}:\n{user_traceback(error)}") from error
    except SyntaxError as error:
        raise ApplicationError(f"{module_name!r} has a syntax error:\n{user_traceback(error)}") from error
    except (Exception, SystemExit) as error:
        raise ApplicationError(f"importing {module_name!r} failed:\n{user_traceback(error)}") from error


def _suggestion(name: str, owner: Any) -> str:
    names = [known for known in dir(owner) if not known.startswith("_")]
    close = difflib.get_close_matches(name, names, 3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _describe(target: Any) -> str:
    return f"a {type(target).__name__}"


# --- code files -------------------------------------------------------------------------------------------------------


def _load_file(name: str, digest: str, code_dir: str | None) -> Loaded:
    if not code_dir:
        raise ApplicationError(
            f"code file {name!r} was named, but only the embedded fabric of serve.init() has such files: "
            "put the function in a module that this node can import"
        )
    content = _read_private(code_dir, name)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ApplicationError(f"code file {name!r} in {code_dir!r} does not have the content that its name says")
    import cloudpickle  # 18 ms that only code files need

    try:
        found = cloudpickle.loads(content)
    except (Exception, SystemExit) as error:
        raise ApplicationError(f"code file {name!r} could not be loaded:\n{user_traceback(error)}") from error
    if type(found) is tuple:
        if len(found) != 3 or not isinstance(found[1], (tuple, list)) or not isinstance(found[2], dict):
            raise ApplicationError(f"code file {name!r} holds a tuple that is not (target, args, kwargs)")
        return Loaded(found[0], tuple(found[1]), found[2])
    return Loaded(found)


def _read_private(code_dir: str, name: str) -> bytes:
    """The content of a file that only this user can have written."""
    try:
        _check_private(os.lstat(code_dir), code_dir, stat.S_ISDIR, "a folder")
        path = os.path.join(code_dir, name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_private(status, path, stat.S_ISREG, "a plain file")
            if status.st_size > MAX_FILE_BYTES:
                raise ApplicationError(f"code file {path!r} has {status.st_size} bytes, more than {MAX_FILE_BYTES}")
            return file.read()
    except OSError as error:
        raise ApplicationError(f"code file {name!r} in {code_dir!r} cannot be read: {error.strerror}") from None


def _check_private(status: os.stat_result, path: str, is_kind: Any, kind: str) -> None:
    if not is_kind(status.st_mode):
        raise ApplicationError(f"{path!r} is not {kind}; code files are loaded from nowhere else")
    if status.st_uid != os.geteuid():
        raise ApplicationError(f"{path!r} belongs to user {status.st_uid}, not to this process's ({os.geteuid()})")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ApplicationError(f"{path!r} has mode {mode:04o}: others may use it; it must be 0600 (a folder: 0700)")

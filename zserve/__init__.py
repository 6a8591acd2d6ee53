"""zserve: a ZeroMQ peer-to-peer serving fabric.

Python functions and models behind HTTP, run by independent nodes::

    import zserve as serve

    @serve.route("/hello")
    def hello():
        return "hello"

    serve.init()        # or, without this line: zserve run module

Everything named here is loaded when it is first used, so that the import itself costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import context as context
    from .config import BackendConfig as BackendConfig
    from .control.api import create_backend as create_backend
    from .control.api import create_endpoint as create_endpoint
    from .control.api import delete_backend as delete_backend
    from .control.api import delete_endpoint as delete_endpoint
    from .control.api import get_backend_config as get_backend_config
    from .control.api import get_handle as get_handle
    from .control.api import init as init
    from .control.api import link as link
    from .control.api import list_backends as list_backends
    from .control.api import list_endpoints as list_endpoints
    from .control.api import set_traffic as set_traffic
    from .control.api import shadow_traffic as shadow_traffic
    from .control.api import shutdown as shutdown
    from .control.api import split as split
    from .control.api import stat as stat
    from .control.api import status as status
    from .control.api import update_backend as update_backend
    from .control.api import update_backend_config as update_backend_config
    from .control.declarations import backend as backend
    from .control.declarations import declare_endpoint as declare_endpoint
    from .control.decorators import accept_batch as accept_batch
    from .control.decorators import route as route
    from .errors import ApplicationError as ApplicationError
    from .errors import ConflictError as ConflictError
    from .errors import DeadlineExceeded as DeadlineExceeded
    from .errors import FabricUnreachable as FabricUnreachable
    from .errors import NoSuchEndpoint as NoSuchEndpoint
    from .errors import NoSuchMethod as NoSuchMethod
    from .errors import NotInitialized as NotInitialized
    from .errors import Overloaded as Overloaded
    from .errors import PortInUse as PortInUse
    from .errors import RemoteError as RemoteError
    from .errors import ReplicaDied as ReplicaDied
    from .errors import ServeError as ServeError
    from .errors import ServeWarning as ServeWarning
    from .handles.answer import ServeAnswer as ServeAnswer
    from .handles.handle import ServeHandle as ServeHandle
    from .handles.named import register_type as register_type

__version__ = "0.1.0"

_HOMES = {
    "config": ("BackendConfig",),
    "control.api": (
        "create_backend",
        "create_endpoint",
        "delete_backend",
        "delete_endpoint",
        "get_backend_config",
        "get_handle",
        "init",
        "link",
        "list_backends",
        "list_endpoints",
        "set_traffic",
        "shadow_traffic",
        "shutdown",
        "split",
        "stat",
        "status",
        "update_backend",
        "update_backend_config",
    ),
    "control.declarations": ("backend", "declare_endpoint"),
    "control.decorators": ("accept_batch", "route"),
    "errors": (
        "ApplicationError",
        "ConflictError",
        "DeadlineExceeded",
        "FabricUnreachable",
        "NoSuchEndpoint",
        "NoSuchMethod",
        "NotInitialized",
        "Overloaded",
        "PortInUse",
        "RemoteError",
        "ReplicaDied",
        "ServeError",
        "ServeWarning",
    ),
    "handles.answer": ("ServeAnswer",),
    "handles.handle": ("ServeHandle",),
    "handles.named": ("register_type",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", "context", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name == "context":
        return import_module(".context", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), "context", *_HOME})

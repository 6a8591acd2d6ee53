"""The fabrics that this process has started or joined, and which of them is current: the only global state.

``init()`` adds one, ``shutdown()`` ends them all; see the module functions of :mod:`zserve.control.api` for the rest.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any
from warnings import warn

from ..errors import FabricUnreachable, NotInitialized, ServeError, ServeWarning
from . import declarations as _declarations
from .callers import user_stacklevel
from .checks import check_name, check_traffic_policy
from .client import ControlClient, normal_address
from .code import CodeNamer
from .declarations import Declaration
from .embedded import EmbeddedFabric
from .operations import Operations
from .paths import user_paths

__all__ = ["control", "current_control", "init", "shutdown"]


class _Fabric:
    """One fabric that this process uses: started here (``embedded``) or joined."""

    def __init__(self, name: str | None, asked: tuple[str, int] | None, address: str, embedded: EmbeddedFabric | None):
        self.name = name
        self.asked = asked  # host and port, of one that was started here
        self.address = address
        self.embedded = embedded
        self.client = ControlClient(address, name=name or "")
        if embedded is None:
            self.control = Operations(self.client, CodeNamer())
        else:
            self.control = Operations(self.client, CodeNamer(embedded.code_dir, embedded.app_dirs))

    def running(self) -> bool:
        return self.embedded is None or self.embedded.running()

    def close(self) -> None:
        self.client.close()
        if self.embedded is not None:
            self.embedded.stop()
        lines = sys.modules.get("zserve.handles.lines")
        if lines is not None:  # behind the rest: what runs is still answered
            lines.hang_up(self.address)


_lock = threading.RLock()
_fabrics: dict[str | None, _Fabric] = {}
_current: _Fabric | None = None
_exit_hooked = False


def init(
    address: str | None = None,
    http_host: str = "127.0.0.1",
    http_port: int = 8000,
    *,
    blocking: bool = False,
    queueing_policy: str = "random",
    policy_kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> None:
    """Start a fabric on this machine, or join one, and serve what has been declared with ``@serve.route``.

    Without an address (and without ZSERVE_ADDRESS in the environment) a gateway, a router and a worker node are started
    as child processes; the call returns when HTTP answers.  They end with :func:`shutdown`, and with this process.
    With an address, ``tcp://host:port`` of a router, this process becomes a client of the fabric there.

    Calling it again changes nothing.  With another *name* (and port) it starts a second fabric beside the first and
    makes it the current one; with the first name again it goes back to it.

    address: a router of the fabric to join, as ``status()["address"]`` says it.
    http_host, http_port: where the gateway listens; port 0 picks a free one (``status()`` tells which).
    blocking: do not return before Ctrl-C, then shut down.
    queueing_policy: which backend of an endpoint gets a request: "random" (by weight), "round_robin", "power_of_two",
        "fixed_packing", or a class of yours as "package.module:Class" (docs/scheduling.md); *policy_kwargs* are its
        settings, such as ``{"packing_num": 8}``.  ``set_traffic`` may say otherwise for one endpoint.

    Raises TypeError and ValueError for bad arguments, PortInUse, FabricUnreachable when nobody answers at the address
    (within 5 s), and ApplicationError when what was declared does not start.

    >>> import zserve as serve
    >>> serve.init()
    """
    _check_init(http_host, http_port, blocking, queueing_policy, policy_kwargs, name)
    for variable, who in (
        ("ZSERVE_REPLICA", "replica, which imports the module that defines its backend"),
        ("ZSERVE_ROUTER", "router, which imports the module that defines a traffic policy"),
    ):
        if os.environ.get(variable):
            raise ServeError(
                f'serve.init() was called inside of a {who}; put the call under `if __name__ == "__main__":`'
            )
    wanted = address if address is not None else os.environ.get("ZSERVE_ADDRESS") or None
    if wanted is not None:
        wanted = normal_address(wanted)
    with _lock:
        _forget_after_fork()
        fabric = _known(name)
        if fabric is not None:
            _check_same(fabric, address=wanted if address is not None else None, host=http_host, port=http_port)
        else:
            fabric = _open(name, wanted, http_host, http_port, queueing_policy, policy_kwargs)
            _fabrics[name] = fabric
            try:
                _declarations.apply(_declarations.declared(), fabric.control)
            except BaseException:
                del _fabrics[name]
                fabric.close()
                raise
        _make_current(fabric)
    if blocking:
        _block(fabric)


def shutdown() -> None:
    """Stop every fabric that ``init()`` started (running requests finish first) and leave those that it joined.

    Also happens at interpreter exit.  Without a fabric: nothing to do.
    """
    with _lock:
        _forget_after_fork()
        fabrics = list(_fabrics.values())
        _fabrics.clear()
        _make_current(None)
    for fabric in fabrics:
        fabric.close()


def current_control() -> Operations | None:
    """The calls of the current fabric; None before ``init()``."""
    fabric = _current
    if fabric is None or (fabric.embedded is not None and fabric.embedded.owner != os.getpid()):
        return None
    return fabric.control


def control() -> Operations:
    """The calls of the current fabric.  Raises NotInitialized before ``init()``."""
    fabric = _current
    calls = current_control()
    if fabric is None or calls is None:
        raise NotInitialized("no fabric yet: call serve.init() first")
    if not fabric.running():
        raise FabricUnreachable("the fabric that serve.init() started has ended; call serve.init() to start it again")
    return calls


def _known(name: str | None) -> _Fabric | None:
    """The running fabric that ``init(name=name)`` means; without a name, the unnamed one or else the current one."""
    fabric = _fabrics.get(name)
    if fabric is None and name is None:
        fabric = _current
    if fabric is not None and not fabric.running():
        _fabrics.pop(fabric.name, None)
        fabric.close()
        return None
    return fabric


def _check_same(fabric: _Fabric, *, address: str | None, host: str, port: int) -> None:
    """A repeated ``init`` is a no-op, but not a silent one when it asks for something else."""
    if address is not None and address != fabric.address:
        raise ServeError(
            f"serve.init() has already joined {fabric.address}; call serve.shutdown() first, or join {address} under "
            f"another name=..."
        )
    if fabric.asked is not None and (host, port) not in (fabric.asked, ("127.0.0.1", 8000)):
        warn(
            f"this fabric already serves on {fabric.embedded.http if fabric.embedded else fabric.asked}; serve.init() "
            f"does not move it to {host}:{port} (another name=... starts a second one)",
            ServeWarning,
            stacklevel=user_stacklevel(),
        )


def _open(
    name: str | None,
    address: str | None,
    host: str,
    port: int,
    queueing_policy: str,
    policy_kwargs: Mapping[str, Any] | None,
) -> _Fabric:
    _hook_exit()
    if address is not None:
        fabric = _Fabric(name, None, address, None)
        try:
            fabric.client.call("list_endpoints")  # somebody is there
        except BaseException:
            fabric.close()
            raise
        if queueing_policy != "random" or policy_kwargs:
            warn(
                f"queueing_policy={queueing_policy!r} has no effect: the fabric at {address} has a default of its own; "
                "name the policy of an endpoint with set_traffic(..., policy=...)",
                ServeWarning,
                stacklevel=user_stacklevel(),
            )
        return fabric
    embedded = EmbeddedFabric(
        host=host,
        port=port,
        name=name,
        queueing_policy=queueing_policy,
        policy_kwargs=policy_kwargs,
        app_dirs=user_paths(),
    )
    return _Fabric(name, (host, port), embedded.address, embedded)


def _make_current(fabric: _Fabric | None) -> None:
    global _current
    _current = fabric
    _declarations.on_declare(_serve_declaration if fabric is not None else None)


def _serve_declaration(declaration: Declaration) -> None:
    _declarations.apply([declaration], control())


def _block(fabric: _Fabric) -> None:
    try:
        if fabric.embedded is not None:
            status_ = fabric.embedded.wait()
            raise ServeError(f"the fabric that serve.init() started has ended (exit status {status_})")
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        shutdown()


def _hook_exit() -> None:
    global _exit_hooked
    if not _exit_hooked:
        _exit_hooked = True
        atexit.register(shutdown)
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    _forget_after_fork()


def _forget_after_fork() -> None:
    """What the parent process started is the parent's: a forked child must neither stop it nor keep it alive."""
    for name, fabric in list(_fabrics.items()):
        if fabric.embedded is not None and fabric.embedded.owner != os.getpid():
            fabric.embedded.forget()
            del _fabrics[name]
            if _current is fabric:
                _make_current(None)


def _check_init(
    http_host: Any, http_port: Any, blocking: Any, queueing_policy: Any, policy_kwargs: Any, name: Any
) -> None:
    if not isinstance(http_host, str):
        raise TypeError(f"http_host must be a string, not {http_host!r}")
    if not http_host:
        raise ValueError("http_host must not be empty")
    if isinstance(http_port, bool) or not isinstance(http_port, int):
        raise TypeError(f"http_port must be a whole number, not {http_port!r}")
    if not 0 <= http_port <= 65535:
        raise ValueError(f"http_port must be between 0 and 65535, not {http_port}")
    if not isinstance(blocking, bool):
        raise TypeError(f"blocking must be True or False, not {blocking!r}")
    if queueing_policy is None:
        raise TypeError("queueing_policy must be a string, not None")
    check_traffic_policy(queueing_policy, policy_kwargs, "queueing_policy")
    if name is not None:
        check_name("name", name)

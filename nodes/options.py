"""What each program can be told, whoever tells it: the command line, the all-in-one, or a test.

Plain values only, so that options travel as one JSON line to a child process.  Times are seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from zserve.http.limits import HttpLimits
from zserve.registry.neighbours import DEFAULT_MAX_ROUTERS
from zserve.scheduling.room import QUEUED_BYTES

__all__ = [
    "AnyOptions",
    "GatewayOptions",
    "NodeOptions",
    "RouterOptions",
    "TogetherOptions",
    "WorkerOptions",
    "decode_options",
    "encode_options",
]


class NodeOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every program can be told.

    join: addresses of routers ("ipc://..." or "tcp://host:port"); a DNS name may stand for several.
    name: a name for people, shown in ``zserve status``.
    insecure: plain tcp beyond loopback is allowed.
    key, known_keys: files with the key of this node and with the keys of all ("" for none: plain links).
    join_timeout_s: how long to try before it is an error that no router of ``join`` answers; 0 tries for ever.
    max_routers: how many routers a gateway or worker node has links with; 0 for all, as routers have among each other.
    grace_s: how long a drain may take before the program gives up and ends.
    lifeline: standard input is a pipe from the parent; its end means that the parent is gone, and the program drains,
    for orphan_grace_s at the longest.
    status_fd: a pipe on which the program reports as JSON lines what becomes of it (see :func:`program.report`), or -1.
    debug: show tracebacks of errors that a user can cause, and answer clients with the tracebacks of their handlers.
    """

    join: list[str] = []
    name: str = ""
    insecure: bool = False
    key: str = ""
    known_keys: str = ""
    join_timeout_s: float = 30.0
    max_routers: int = 0
    grace_s: float = 30.0
    log_level: str = "info"
    debug: bool = False
    lifeline: bool = False
    orphan_grace_s: float = 5.0
    status_fd: int = -1


class RouterOptions(NodeOptions, kw_only=True, tag="router"):
    """bind: address of the ROUTER socket; publish: of the PUB socket ("" for one derived from ``bind``).

    advertise: the address that others are told ("" for the bound one); state_dir: where the registry is kept ("" for
    nowhere); node_id: 16 bytes as hex ("" for the one in the state directory, or a new one).

    policy, policy_kwargs: how endpoints that do not say otherwise choose a backend (see the traffic policies);
    app_dirs: folders that the policies of users are imported from.  max_queued_bytes: of the requests that wait here
    for a replica, all backends together.
    """

    bind: str = "tcp://127.0.0.1:7700"
    publish: str = ""
    advertise: str = ""
    state_dir: str = ""
    node_id: str = ""
    policy: str = "random"
    policy_kwargs: dict[str, Any] = {}
    app_dirs: list[str] = []
    max_queued_bytes: int = QUEUED_BYTES


class GatewayOptions(NodeOptions, kw_only=True, tag="gateway"):
    """http_host, http_port: where to listen (port 0 picks a free one); http_fd: a socket that listens already, or -1.

    limits: of HTTP; max_requests: how many it holds at a time.  Each is answered with its own status when it is hit.
    default_timeout_s: the deadline of a request that brings none; 0 for no deadline.
    tokens: a file with the hashes of the bearer tokens that clients have to show ("": anyone may come in).
    tls_cert, tls_key: files in PEM format for HTTPS ("": HTTP).  processes: how many share the port.
    busy_poll: it may poll for requests and answers (see :mod:`zserve.channel.busy_poll`).  direct_answers: replicas on
    its machine may bring it their answers themselves (see :mod:`zserve.cores.shortcuts`).
    """

    max_routers: int = DEFAULT_MAX_ROUTERS
    http_host: str = "127.0.0.1"
    http_port: int = 8000
    http_fd: int = -1
    limits: HttpLimits = HttpLimits()
    max_requests: int = 20_000
    default_timeout_s: float = 30.0
    tokens: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    processes: int = 1
    busy_poll: bool = True
    direct_answers: bool = True


class WorkerOptions(NodeOptions, kw_only=True, tag="worker"):
    """slots: how many replicas this node may hold; resources: labels and amounts that it offers.

    app_dirs: folders that user code is imported from; code_dir: where the embedded fabric leaves the code files of its
    own user ("" for none).  told_elsewhere: whoever has a backend made is told on the same terminal why it cannot
    start, so the log has that as information only.  head_start_s: one replica process is started before it is known
    what it will run, and kept for so long until it is needed; 0 for none.  busy_poll: replicas may poll for calls.
    """

    max_routers: int = DEFAULT_MAX_ROUTERS
    slots: int = 64
    resources: dict[str, float] = {}
    app_dirs: list[str] = []
    code_dir: str = ""
    told_elsewhere: bool = False
    head_start_s: float = 0.0
    busy_poll: bool = True


class TogetherOptions(NodeOptions, kw_only=True, tag="together"):
    """A router and a gateway in one process.  What all programs can be told is taken from here for both of them."""

    router: RouterOptions
    gateway: GatewayOptions


AnyOptions: TypeAlias = RouterOptions | GatewayOptions | WorkerOptions | TogetherOptions


def encode_options(options: NodeOptions) -> bytes:
    """One line of JSON; its "type" says which program it is for."""
    return msgspec.json.encode(options)


def decode_options(line: bytes | str) -> AnyOptions:
    """The reverse of :func:`encode_options`.  Raises ``msgspec.ValidationError`` for anything else."""
    kinds: Any = AnyOptions
    options: AnyOptions = msgspec.json.decode(line, type=kinds)
    return options

"""The protocol messages, one struct each.

All are msgpack arrays that begin with the message's number (``tag``).  The number and the order of the fields are the
wire format: fields are only ever appended, with a default, so that a node of the version before ignores what it does
not know and a node of the version after fills in what it was not sent.

Units: ``*_us`` are microseconds as integers; a deadline travels as the *remaining budget* (``budget_us``, -1 for none),
so that hosts need no common clock.  ``head`` and ``body`` are the sizes in bytes of a message's two parts, which travel
outside of the index frame (see :mod:`zserve.wire.codec`); routers pass them on without looking inside.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..registry.record import Record

__all__ = [
    "FLAG_DEFAULT_DEADLINE",
    "FLAG_IDEMPOTENT",
    "FLAG_STREAMS",
    "FLAG_WEB",
    "MIN_VERSION",
    "NO_BUDGET",
    "STREAM_BROKEN",
    "STREAM_DONE",
    "STREAM_MORE",
    "VERSION",
    "Call",
    "Cancel",
    "Chunk",
    "Confirm",
    "Confirmed",
    "Consumed",
    "Control",
    "ControlReply",
    "Demand",
    "Goodbye",
    "Grant",
    "Hello",
    "Message",
    "NodeInfo",
    "Ping",
    "Pull",
    "Records",
    "ReplicaStatus",
    "Report",
    "Request",
    "Reset",
    "Result",
    "Return",
    "Shutdown",
    "View",
]

VERSION = 1
"""The protocol version that this code speaks."""
MIN_VERSION = 1
"""The oldest version that it still understands (N and N-1 work together)."""

NO_BUDGET = -1

FLAG_IDEMPOTENT = 1
"""The request may be run again when its replica dies under it."""
FLAG_WEB = 2
"""The request came over HTTP (``serve.context.web``)."""
FLAG_DEFAULT_DEADLINE = 4
"""The client stated no deadline; the budget is the gateway's default."""
FLAG_STREAMS = 8
"""Who asks can take the answer in pieces; without it a generator's items are collected into one body."""

STREAM_MORE, STREAM_DONE, STREAM_BROKEN = 0, 1, 2
"""What follows a :class:`Chunk`: others, nothing (it is complete), nothing (it broke off)."""


class Part(msgspec.Struct, array_like=True, gc=False):
    """Something inside a message."""


class NodeInfo(Part):
    """Who a node is, as it says itself.

    ``node`` is its 16-byte id, ``boot`` an 8-byte nonce drawn at each process start; ``address`` and ``publish`` are
    where a router's ROUTER and PUB sockets are reached ("" for other roles); ``slots`` how many replicas a worker node
    may hold; ``leaving`` is set once the node has begun to drain.  Of a replica: ``backend`` and ``code`` are what it
    runs, ``worker`` is the id of its worker node.
    """

    node: bytes
    boot: bytes
    role: str
    name: str = ""
    address: str = ""
    publish: str = ""
    http: str = ""
    slots: int = 0
    resources: dict[str, float] = {}
    pid: int = 0
    host: str = ""
    leaving: bool = False
    backend: str = ""
    code: str = ""
    worker: bytes = b""


class ReplicaStatus(Part):
    """One replica process, as its worker node sees it.

    ``state`` is "starting", "ready", "draining", "failed" (its code could not be loaded or constructed; ``reason`` has
    the traceback) or "dead" (the process ended; ``reason`` says how).
    """

    node: bytes
    backend: str
    index: int
    code: str
    state: str
    pid: int = 0
    reason: str = ""
    restarts: int = 0


class _Message(msgspec.Struct, array_like=True, gc=False):
    pass


# --- links ------------------------------------------------------------------------------------------------------------


class Hello(_Message, tag=1):
    """First message on every link, in both directions."""

    version: int
    min_version: int
    info: NodeInfo
    backend: str = ""  # of a replica: what it serves
    code: str = ""  # of a replica: the version of the code that it runs


class Reset(_Message, tag=2):
    """To a peer that is not known here: open a new socket and say HELLO again."""

    reason: str


class Goodbye(_Message, tag=3):
    """Ends a link cleanly: nothing more will come from the sender."""

    reason: str = ""


class Ping(_Message, tag=4):
    """Heartbeat, once a second both ways.  Any other message counts as one too.

    ``digest`` is the sender's registry digest, ``view`` the serial of its own membership view (routers),
    ``progress_us`` how long ago a replica last finished an item (-1: has nothing to do), ``unready`` the endpoints that
    a router could not serve now.  ``leaving``: the sender drains; send it nothing new.
    """

    digest: bytes = b""
    view: int = 0
    progress_us: int = -1
    unready: list[str] = []
    leaving: bool = False


# --- requests ---------------------------------------------------------------------------------------------------------


class Request(_Message, tag=10):
    """Gateway to router: one request.  ``id`` is 16 bytes, unique, and the same when it is sent again."""

    id: bytes
    endpoint: str
    budget_us: int = NO_BUDGET
    flags: int = 0
    shard: str = ""
    method: str = ""
    attempt: int = 0
    priority: int = 0
    head: int = 0
    body: int = 0


class Call(_Message, tag=11):
    """Router to replica: one request of a batch.  The ``size`` calls of ``batch`` follow each other in one message."""

    id: bytes
    batch: int
    size: int
    endpoint: str
    budget_us: int = NO_BUDGET
    flags: int = 0
    method: str = ""
    head: int = 0
    body: int = 0


class Result(_Message, tag=12):
    """The one terminal answer to a request; replica to router to gateway.

    ``status`` is the HTTP status; ``kind`` names the content type (see :mod:`zserve.http.answers`; the header pairs of
    kind 0 are in the head).  ``origin`` says who answered: 0 the user's code, 1 the replica (the code failed), 2 the
    router, 3 the gateway.  ``retry_after_us`` -1: none.  ``streams``: this is the beginning only; :class:`Chunk`
    messages follow, the last of which ends the request.
    """

    id: bytes
    status: int = 200
    kind: int = 0
    origin: int = 0
    queue_us: int = 0
    batch_us: int = 0
    run_us: int = 0
    retry_after_us: int = -1
    head: int = 0
    body: int = 0
    streams: bool = False


class Return(_Message, tag=13):
    """These requests were not started and come back: to be sent elsewhere (a draining router or replica)."""

    ids: list[bytes]
    reason: str = ""


class Cancel(_Message, tag=14):
    """Nobody waits for these requests any more."""

    ids: list[bytes]


class Chunk(_Message, tag=15):
    """The next piece of a streamed answer; replica to router to gateway.

    ``seq`` counts from 1.  ``end`` is STREAM_MORE, STREAM_DONE or STREAM_BROKEN; the latter two free the request.
    """

    id: bytes
    seq: int
    end: int = 0
    head: int = 0
    body: int = 0


class Consumed(_Message, tag=16):
    """Gateway to router to replica: the client has taken this much of a streamed answer, from its beginning on.

    Absolute, in the units of :mod:`zserve.wire.flow`, so harmless when lost or repeated as long as another follows."""

    id: bytes
    total: int


# --- credits ----------------------------------------------------------------------------------------------------------


class Grant(_Message, tag=20):
    """Replica to router: you may have sent at most ``limit`` requests since ``epoch`` began.

    Absolute, so harmless when lost, repeated or reordered."""

    epoch: int
    limit: int


class Demand(_Message, tag=21):
    """Router to replica: how many requests wait here for its backend, and the budget of the most urgent one.

    ``epoch`` and ``sent`` say how much of its grant the router has used, which answers a recall (a lowered limit)."""

    epoch: int
    sent: int
    queued: int
    urgent_us: int = NO_BUDGET


# --- config and membership --------------------------------------------------------------------------------------------


class Records(_Message, tag=30):
    """Registry records, published on change or pulled; ``want`` asks for keys that are newer on the other side."""

    records: list[Record]
    want: list[str] = []


class Pull(_Message, tag=31):
    """Anti-entropy: what I have, as (key, stamp of the record); answer with what differs.  ``view``: your view too."""

    have: list[tuple[str, bytes]]
    view: bool = False


class View(_Message, tag=32):
    """The nodes that one router has links with, itself included.  Only that router writes it; ``serial`` orders it."""

    router: bytes
    boot: bytes
    serial: int
    members: list[NodeInfo]


class Confirm(_Message, tag=33):
    """Router to node: answer once you have applied this record (or a later one of the same key)."""

    key: str
    stamp: bytes


class Confirmed(_Message, tag=34):
    key: str
    stamp: bytes


class Report(_Message, tag=35):
    """Worker node to routers: all its replicas.  Replaces the report before."""

    replicas: list[ReplicaStatus]


# --- control ----------------------------------------------------------------------------------------------------------


class Control(_Message, tag=40):
    """Client to router: a control call; ``args`` is a JSON object."""

    id: int
    op: str
    args: bytes


class ControlReply(_Message, tag=41):
    """``ok``: payload is the JSON result.  Otherwise a JSON object {"error": class name, "message": text}."""

    id: int
    ok: bool
    payload: bytes


class Shutdown(_Message, tag=42):
    """Router to all its peers: the whole fabric is to end.  Each router tells it on once."""

    reason: str


Message: TypeAlias = (
    Hello
    | Reset
    | Goodbye
    | Ping
    | Request
    | Call
    | Result
    | Return
    | Cancel
    | Chunk
    | Consumed
    | Grant
    | Demand
    | Records
    | Pull
    | View
    | Confirm
    | Confirmed
    | Report
    | Control
    | ControlReply
    | Shutdown
)

"""The protocol messages, one struct each.

All are msgpack arrays that begin with the message's number (``tag``).  The number and the order of the fields are the
wire format: fields are only ever appended, with a default, so that a node of the version before ignores what it does
not know and a node of the version after fills in what it was not sent.

Units: ``*_us`` are microseconds as integers; a deadline travels as the *remaining budget* (``budget_us``, -1 for none),
so that hosts need no common clock.  ``head`` and ``body`` are the sizes in bytes of a message's two parts, which travel
outside of the index frame (see :mod:`zserve.wire.codec`); routers pass them on without looking inside.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from ..registry.record import Record

__all__ = [
    "ASK_FOR_HELLO",
    "FLAG_AGAIN",
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
    "Answered",
    "Call",
    "Cancel",
    "Chunk",
    "Confirm",
    "Confirmed",
    "Consumed",
    "Control",
    "ControlReply",
    "Demand",
    "Doubt",
    "Goodbye",
    "Grant",
    "Hello",
    "Message",
    "NodeInfo",
    "Ping",
    "Pull",
    "Recall",
    "Recalled",
    "Records",
    "ReplicaStatus",
    "Report",
    "Request",
    "Reset",
    "Result",
    "Return",
    "Shutdown",
    "View",
    "ViewChange",
    "Word",
]

VERSION = 4
"""The protocol version that this code speaks.  4 added Answered, which is sent only to who speaks it, Call.waited_us,
and links of replicas with gateways.  3 added wire messages in one frame (see :mod:`.codec`).  2 added Doubt, Word,
Recall and Recalled, which are sent only to who speaks it, and ViewChange, which is published: who does not know it sees
by the next heartbeat that a view is newer, and pulls it."""
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

FLAG_AGAIN = 16
"""The request was sent before, through a router that is gone, and must not be run twice: replicas are asked first."""

STREAM_MORE, STREAM_DONE, STREAM_BROKEN = 0, 1, 2
"""What follows a :class:`Chunk`: others, nothing (it is complete), nothing (it broke off)."""


Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""Bytes; checked as a message is decoded."""


class Part(msgspec.Struct, array_like=True, gc=False):
    """Something inside a message."""


class NodeInfo(Part):
    """Who a node is, as it says itself.

    ``node`` is its 16-byte id, ``boot`` an 8-byte nonce drawn at each process start; ``address`` and ``publish`` are
    where a router's ROUTER and PUB sockets are reached ("" for other roles, but ``address`` of a gateway is where
    replicas on its machine bring their answers, if they may); ``slots`` how many replicas a worker node
    may hold; ``leaving`` is set once the node has begun to drain.  Of a replica: ``backend`` and ``code`` are what it
    runs, ``worker`` is the id of its worker node.  ``pid_space`` names the kernel's table that ``pid`` is of (0: not
    known), and its network: nodes with the same host and the same one can look at each other's processes.
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
    pid_space: int = 0


class ReplicaStatus(Part):
    """One replica process, as its worker node sees it.

    ``state`` is "starting", "ready", "draining", "failed" (its code could not be loaded or constructed; ``reason`` has
    the traceback) or "dead" (the process ended; ``reason`` says how).  ``configured`` and ``refused`` say which
    ``user_config`` it works with, and which one its ``reconfigure`` raised at (``reason`` has the traceback), as
    :func:`zserve.config.user_config_digest` names them.
    """

    node: bytes
    backend: str
    index: int
    code: str
    state: str
    pid: int = 0
    reason: str = ""
    restarts: int = 0
    configured: bytes = b""
    refused: bytes = b""


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


ASK_FOR_HELLO = "say hello first"
"""The usual reason of a :class:`Reset`."""


class Reset(_Message, tag=2):
    """To a peer that is not known here: open a new socket and say HELLO again."""

    reason: str


class Goodbye(_Message, tag=3):
    """Ends a link cleanly: nothing more will come from the sender."""

    reason: str = ""


class Ping(_Message, tag=4):
    """Heartbeat, once a second both ways.  Any other message counts as one too.

    ``digest`` is the sender's registry digest, ``view`` the serial of its own membership view (routers),
    ``progress_us`` how long ago a replica last finished an item (-1: it has nothing to do, or a place for more),
    ``unready`` the endpoints that a router could not serve now, and why.  ``leaving``: the sender drains; send it
    nothing new.  ``known``: from a router to those that follow the whole membership, a hash over the versions of all
    views (and, to routers, reports) that it has.  ``absent_ms``: from a router that does not trust its own records,
    when it last ran (-1: it had none at all).
    """

    digest: bytes = b""
    view: int = 0
    progress_us: int = -1
    unready: list[str] = []
    leaving: bool = False
    known: bytes = b""
    absent_ms: int = 0


class Doubt(_Message, tag=5):
    """To others that may hear it: I have not heard this node for a while; have you?

    ``host``, ``pid_space`` and ``pid`` are what it said of itself, for who runs on the same machine."""

    node: bytes
    boot: bytes
    host: str = ""
    pid_space: int = 0
    pid: int = 0


class Word(_Message, tag=6):
    """The answer to a :class:`Doubt`.

    ``heard_us`` is how long ago something came from that boot of the node here (-1: there is no link with it).
    ``process`` is "stopped", "runs", "ended" or, where it can not be told, ""."""

    node: bytes
    boot: bytes
    heard_us: int = -1
    process: str = ""


# --- requests ---------------------------------------------------------------------------------------------------------


class Request(_Message, tag=10):
    """Gateway to router: one request.  ``id`` is 16 bytes, unique, and the same when it is sent again.

    ``age_us``: how long ago it was sent for the first time."""

    id: bytes
    endpoint: str
    budget_us: int = NO_BUDGET
    flags: int = 0
    shard: str = ""
    method: str = ""
    attempt: int = 0
    priority: int = 0
    head: Size = 0
    body: Size = 0
    age_us: int = 0


class Call(_Message, tag=11):
    """Router to replica: one request of a batch.  The ``size`` calls of ``batch`` follow each other in one message.

    ``waited_us``: how long it has waited at the router."""

    id: bytes
    batch: int
    size: int
    endpoint: str
    budget_us: int = NO_BUDGET
    flags: int = 0
    method: str = ""
    head: Size = 0
    body: Size = 0
    waited_us: Size = 0


class Result(_Message, tag=12):
    """The one terminal answer to a request; replica to router to gateway, or past the router (see :class:`Answered`).

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
    head: Size = 0
    body: Size = 0
    streams: bool = False


class Answered(_Message, tag=19):
    """Replica to router: these requests have their answers, which went to their gateway and not through this router.

    ``ids``: one behind the other, 16 bytes each.  Of each, ``run_us`` is as in its Result, ``waited_us`` how long it
    waited at the replica, and ``ago_us`` how long ago its Result was sent.  None of them has failed."""

    ids: bytes
    run_us: list[Size]
    waited_us: list[Size]
    ago_us: list[Size]


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
    head: Size = 0
    body: Size = 0


class Consumed(_Message, tag=16):
    """Gateway to router to replica: the client has taken this much of a streamed answer, from its beginning on.

    Absolute, in the units of :mod:`zserve.wire.flow`, so harmless when lost or repeated as long as another follows."""

    id: bytes
    total: int


class Recall(_Message, tag=17):
    """Router to replica: do you know these requests?  Their gateways sent them before, through a router that is gone.

    From now on the replica takes them from nobody else.  ``age_us``: how long ago the oldest was sent first."""

    ids: list[bytes]
    age_us: int


class Recalled(_Message, tag=18):
    """The answer to a :class:`Recall`.

    ``unknown``: not run here, and will not be unless it is sent anew.  ``held``: it runs or has run; its Result follows
    as if it had been sent here on this link.  ``lost``: it has run, or may have, and there is no answer to give."""

    unknown: list[bytes] = []
    held: list[bytes] = []
    lost: list[bytes] = []


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
    """Registry records, published on change or pulled; ``want`` asks for keys that are newer on the other side.

    ``forget``: keys of the pull that were deleted so long ago that not even that is remembered."""

    records: list[Record]
    want: list[str] = []
    forget: list[str] = []


class Pull(_Message, tag=31):
    """Anti-entropy: what I have, as (key, stamp of the record); answer with what differs.  ``view``: your view too.

    ``records`` False: only what follows is of interest.  ``known``: (node, boot, serial) of the views and reports that
    I have; answer with those of others that are newer."""

    have: list[tuple[str, bytes]]
    view: bool = False
    records: bool = True
    known: list[tuple[bytes, bytes, int]] | None = None


class View(_Message, tag=32):
    """The nodes that one router has links with, itself included.  Only that router writes it; ``serial`` orders it.

    Other routers pass it on to those that have no link with its writer."""

    router: bytes
    boot: bytes
    serial: int
    members: list[NodeInfo]


class ViewChange(_Message, tag=36):
    """What is different in a view since version ``base``: nodes as they are now, and nodes that are gone.

    It holds the last word about each, so it makes version ``serial`` of any version from ``base`` on."""

    router: bytes
    boot: bytes
    base: int
    serial: int
    joined: list[NodeInfo]
    left: list[bytes]


class Confirm(_Message, tag=33):
    """Router to node: answer once you have applied this record (or a later one of the same key)."""

    key: str
    stamp: bytes


class Confirmed(_Message, tag=34):
    key: str
    stamp: bytes


class Report(_Message, tag=35):
    """Worker node to routers: all its replicas.  Replaces the report before.

    Routers pass it on to others that have no link with the worker node; ``worker``, ``boot`` and ``serial`` say whose
    it is and order it.  On the worker node's own link the first two go without saying."""

    replicas: list[ReplicaStatus]
    worker: bytes = b""
    boot: bytes = b""
    serial: int = 0


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
    | Doubt
    | Word
    | Request
    | Call
    | Result
    | Answered
    | Return
    | Cancel
    | Chunk
    | Consumed
    | Recall
    | Recalled
    | Grant
    | Demand
    | Records
    | Pull
    | View
    | ViewChange
    | Confirm
    | Confirmed
    | Report
    | Control
    | ControlReply
    | Shutdown
)

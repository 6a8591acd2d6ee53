"""One message of each type, as a node could send it."""

from __future__ import annotations

from typing import Any

from zserve.registry.record import Record
from zserve.wire import messages as m

__all__ = ["ID", "samples"]

ID = bytes(range(16))
_INFO = m.NodeInfo(b"n" * 16, b"b" * 8, "router", "r1", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", pid=1, host="h")


def samples() -> list[Any]:
    """New ones each time: encoding a message fills in its sizes."""
    return [
        m.Hello(1, m.VERSION, _INFO, "b", "v"),
        m.Reset("why"),
        m.Goodbye("bye"),
        m.Ping(b"\x01\x02", 3, -1, ["e"], True, b"\x07", 9),
        m.Doubt(b"n" * 16, b"b" * 8, "h", 9, 7),
        m.Word(b"n" * 16, b"b" * 8, -1, "stopped"),
        m.Request(ID, "echo", 100_000, 3, "s", "m", 1),
        m.Call(ID, 7, 2, "echo", 5, 1, "m", 0, 0, 8),
        m.Result(ID, 200, 2, 0, 10, 11, 12, -1),
        m.Answered(ID + ID, [1, 2], [3, 4], [5, 6]),
        m.Chunk(ID, 3, m.STREAM_DONE),
        m.Consumed(ID, 65_792),
        m.Recall([ID], 7),
        m.Recalled([], [ID]),
        m.Return([ID], "r"),
        m.Cancel([ID]),
        m.Grant(1, 300),
        m.Demand(1, 2, 3, -1),
        m.Records([Record("endpoint/forged", 1, 2, b"w" * 16, 1, b"", b"{}")], ["k"]),
        m.Pull([("k", b"s")], True, False, [(b"n", b"b", 3)]),
        m.View(b"r" * 16, b"b" * 8, 3, [_INFO]),
        m.ViewChange(b"r" * 16, b"b" * 8, 3, 5, [], [b"n" * 16]),
        m.Confirm("k", b"s"),
        m.Confirmed("k", b"s"),
        m.Report([m.ReplicaStatus(b"n" * 16, "echo", 0, "v", "dead", 1, "forged", 2)], b"w" * 16, b"b" * 8, 4),
        m.Control(1, "shutdown", b"{}"),
        m.ControlReply(1, True, b"{}"),
        m.Shutdown("forged"),
    ]

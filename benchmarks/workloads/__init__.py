"""The workloads, by name."""

from __future__ import annotations

from .batch import Batch
from .digits import Digits
from .echo import Echo
from .handle import Handle
from .mix import Mix
from .overload import Overload
from .payload import Payload
from .scale import Scale
from .startup import StartUp
from .stream import Stream
from .workload import Settings, Workload

__all__ = ["WORKLOADS", "Settings", "Workload"]

WORKLOADS: dict[str, type[Workload]] = {
    workload.name: workload
    for workload in (Echo, Batch, Payload, Overload, Mix, Digits, Stream, Handle, StartUp, Scale)
}

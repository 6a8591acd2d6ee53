"""The workloads, by name."""

from __future__ import annotations

from .batch import Batch
from .digits import Digits
from .echo import Echo
from .mix import Mix
from .overload import Overload
from .payload import Payload
from .scale import Scale
from .startup import StartUp
from .workload import Settings, Workload

__all__ = ["NOT_YET", "WORKLOADS", "Settings", "Workload"]

WORKLOADS: dict[str, type[Workload]] = {
    workload.name: workload for workload in (Echo, Batch, Payload, Overload, Mix, Digits, StartUp, Scale)
}

NOT_YET = {
    "stream": "first byte and gaps of a streamed answer: this workload is not written yet",
    "handle": "calls a second and latency from Python: this workload is not written yet",
}
"""Named here so that nobody looks for them in vain."""

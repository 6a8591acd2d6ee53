"""Which request goes where, and when: queueing, admission, batching, credits, and the choice of backend and replica.

Pure code under injected time and chance.  Start reading at :mod:`zserve.scheduling.backend_queue`.
"""

from .backend_queue import BackendQueue
from .credits import CreditPool, derive_capacity
from .entry import NO_DEADLINE, Dispatch, Entry

__all__ = ["NO_DEADLINE", "BackendQueue", "CreditPool", "Dispatch", "Entry", "derive_capacity"]

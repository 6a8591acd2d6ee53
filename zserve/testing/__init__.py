"""Test applications, and the fabric itself, on a simulated network and a clock that jumps.

:func:`cluster` is for users: it runs their application on several nodes in one process, without sockets or sleeps.
The rest is what the project tests itself with: :func:`zserve.testing.simulate.simulate` runs a whole fabric under
faults, from one seed.
"""

from __future__ import annotations

from .cluster import Cluster, cluster
from .web import Pending, Response

__all__ = ["Cluster", "Pending", "Response", "cluster"]

"""A traffic policy of one's own: a backend gets everything until it is busy, the next one what is too much for it.

    zserve node --role router --app-dir examples ...
    zserve traffic set answers small=1 large=0 --policy overflow:Overflow --policy-kwargs '{"limit": 4}'
"""

from __future__ import annotations


class Overflow:
    """The backend with the most weight that has fewer than *limit* requests; if all have more, the one with the fewest.

    It counts the requests that this router holds for a backend, queued and running.
    """

    def __init__(self, weights, rng, backlog, limit=8):
        if limit < 1:
            raise ValueError(f"limit must be 1 or more, not {limit!r}")
        self.names = sorted(weights, key=weights.get, reverse=True)
        self.backlog = backlog
        self.limit = limit

    def choose(self, shard):
        for name in self.names:
            if self.backlog(name) < self.limit:
                return name
        return min(self.names, key=self.backlog)

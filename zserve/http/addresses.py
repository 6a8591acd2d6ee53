"""How many connections each client address has."""

from __future__ import annotations

import ipaddress

__all__ = ["AddressCounts"]


class AddressCounts:
    """Open connections by client address.  A /64 network of IPv6 counts as one: that is what one client is given."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, host: str) -> tuple[str, int]:
        """A connection from *host*: the name that it counts under, for :meth:`leave`, and how many there are now."""
        name = _client_of(host)
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return name, count

    def leave(self, name: str) -> None:
        """A connection that counted under *name* is gone."""
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]


def _client_of(host: str) -> str:
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return host
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))

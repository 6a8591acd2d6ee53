"""Addresses as people type them."""

from __future__ import annotations

import ipaddress

__all__ = ["beyond_loopback", "node_address", "split_host_port"]


def node_address(text: str) -> str:
    """*text* as a ZeroMQ address: ``host:port`` stands for ``tcp://host:port``.

    Port 0 (or ``*``) picks a free one, where something listens.  Raises ValueError for anything else than
    ``tcp://host:port`` and ``ipc://path``.
    """
    address = text.strip()
    if "://" not in address:
        address = f"tcp://{address}"
    scheme, _, rest = address.partition("://")
    if scheme == "ipc" and rest:
        return address
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and (port == "*" or (port.isdecimal() and int(port) < 65536)):
        return address
    raise ValueError(f"{text!r} is not an address; they look like tcp://host:port or ipc:///path/to/socket")


def beyond_loopback(address: str) -> bool:
    """True if others than this machine's own processes can reach *address*, or be reached there."""
    scheme, _, rest = address.partition("://")
    if scheme != "tcp":
        return False
    host = rest.rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return False
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return True  # a name, an interface, or "*"


def split_host_port(text: str, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``PORT``; IPv6 hosts in brackets.  Raises ValueError for anything else."""
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ValueError(f"{text!r} is not HOST:PORT, as in 127.0.0.1:8000")
    return host.strip("[]") or default_host, int(port)

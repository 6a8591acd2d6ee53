from __future__ import annotations

import pytest
from zserve.nodes.addresses import beyond_loopback, node_address, split_host_port


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7700", "tcp://127.0.0.1:7700"),
        (" tcp://routers.example:7700 ", "tcp://routers.example:7700"),
        ("tcp://[::1]:0", "tcp://[::1]:0"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("ipc:///tmp/x.sock", "ipc:///tmp/x.sock"),
    ],
)
def test_node_address(text: str, address: str) -> None:
    assert node_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "tcp://host", "tcp://:1", "ipc://", "udp://h:1", "h:65536", "h:x"])
def test_not_a_node_address(text: str) -> None:
    with pytest.raises(ValueError, match="they look like tcp://host:port"):
        node_address(text)


@pytest.mark.parametrize(
    ("address", "beyond"),
    [
        ("tcp://127.0.0.1:1", False),
        ("tcp://127.8.8.8:1", False),
        ("tcp://localhost:1", False),
        ("tcp://[::1]:1", False),
        ("ipc:///tmp/x", False),
        ("tcp://0.0.0.0:1", True),
        ("tcp://*:1", True),
        ("tcp://[::]:1", True),
        ("tcp://eth0:1", True),
        ("tcp://10.0.0.1:1", True),
        ("tcp://routers.example:1", True),
    ],
)
def test_beyond_loopback(address: str, beyond: bool) -> None:
    assert beyond_loopback(address) is beyond


def test_host_and_port() -> None:
    assert split_host_port("8000") == ("127.0.0.1", 8000)
    assert split_host_port(":0") == ("127.0.0.1", 0)
    assert split_host_port("0.0.0.0:80") == ("0.0.0.0", 80)
    assert split_host_port("[::1]:80") == ("::1", 80)
    for bad in ("", "host:", "host", "::1", "h:70000", "h:-1"):
        with pytest.raises(ValueError, match="is not HOST:PORT"):
            split_host_port(bad)

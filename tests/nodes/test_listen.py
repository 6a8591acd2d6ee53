from __future__ import annotations

import os
import socket

import pytest
from zserve.nodes.listen import adopt, listen, stop_taking, url_of

from zserve.errors import PortInUse, ServeError


def test_port_0_picks_a_free_one_that_accepts_connections() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_a_wildcard_is_reached_at_loopback() -> None:
    with listen("0.0.0.0", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_port_in_use_names_the_port_and_what_to_do() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} on 127.0.0.1 is in use; .* another port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "x" * 300])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(ServeError, match="not an address of this machine"):
        listen(host, 0)


def test_connections_that_nobody_has_accepted_survive_the_listener() -> None:
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    clients = [socket.create_connection(address, timeout=30) for _ in range(3)]
    served = stop_taking(listener)
    try:
        assert {connection.getpeername() for connection in served} == {client.getsockname() for client in clients}
        for connection in served:
            connection.sendall(b"hello")
        assert [client.recv(5) for client in clients] == [b"hello"] * 3
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=30)
    finally:
        for connection in (*served, *clients):
            connection.close()


def test_a_socket_that_a_parent_holds_takes_connections_again_for_the_next_child() -> None:
    with listen("127.0.0.1", 0) as parents:
        assert stop_taking(parents.dup()) == []
        with adopt(os.dup(parents.fileno())) as listener:
            client = socket.create_connection(parents.getsockname(), timeout=30)
            with client, listener.accept()[0] as connection:
                assert connection.getpeername() == client.getsockname()

"""A fabric with keys, and a gateway with tokens and TLS, as real processes over tcp on loopback."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

import zserve as serve
from zserve.channel.sockets import dial_publisher, dial_router
from zserve.control.client import ControlClient
from zserve.errors import FabricUnreachable, ServeError
from zserve.security.identity import KEY_VARIABLE, KNOWN_KEYS_VARIABLE
from zserve.security.keys import KeyPair, has_curve, new_key_pair, read_key, write_private
from zserve.security.known_keys import known_line, owner_of
from zserve.security.roles import may_send
from zserve.wire.codec import decode, encode
from zserve.wire.messages import VERSION, Control, Hello, NodeInfo, Ping, Shutdown

from ..wire.samples import samples
from .fabric import Fabric, Node, eventually
from .raw_sockets import bomb

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not has_curve(), reason="this build of pyzmq has no CURVE"),
]

KEYS = {"router": "router", "router2": "router", "gateway": "gateway", "worker": "worker", "boss": "operator"}


class Keyed:
    """A fabric whose nodes have keys: two routers with different ones, a gateway, a worker node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known = folder / "known-keys"
        self.lines: dict[str, str] = {}
        for name, role in KEYS.items():
            self.make(name, role)
        self.know()
        self.fabric = Fabric(folder)

    def make(self, name: str, role: str | None) -> KeyPair:
        """A key; without a role, nobody is told."""
        pair = new_key_pair()
        write_private(self.key(name), f'public = "{pair.public.hex()}"\nsecret = "{pair.secret.hex()}"\n')
        if role is not None:
            self.lines[name] = known_line([role], pair.public, name) + "\n"
        return pair

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def know(self, *without: str, extra: str = "") -> None:
        """Write the known-keys file, in one step."""
        fresh = self.folder / "known-keys.new"
        fresh.write_text("".join(line for name, line in self.lines.items() if name not in without) + extra)
        fresh.chmod(0o644)
        os.replace(fresh, self.known)

    def arguments(self, key: str) -> list[str]:
        return ["--key", str(self.key(key)), "--known-keys", str(self.known)]

    def start(self, role: str, key: str, *more: str, **options: Any) -> Node:
        bind = ["--bind", "tcp://127.0.0.1:0"] if role == "router" else []
        return self.fabric.start(role, *bind, *self.arguments(key), *more, **options)

    def published(self) -> str:
        """Where the first router publishes, from its HELLO."""
        pair = read_key(self.key("boss"))
        node, boot = owner_of(pair.public) + os.urandom(8), os.urandom(8)
        context: zmq.Context[Any] = zmq.Context()
        router, server = self.fabric.routers[0].address, read_key(self.key("router")).public
        socket = dial_router(context, router, node + boot + b"0001", pair, server)
        try:
            assert socket.poll(20_000, zmq.POLLOUT)
            socket.send_multipart(encode([(Hello(VERSION, 1, NodeInfo(node, boot, "client")), b"", b"")]))
            assert socket.poll(20_000)
            hello = decode(socket.recv_multipart())[0][0]
            assert isinstance(hello, Hello)
            return hello.info.publish
        finally:
            socket.close(0)
            context.term()


class Deaf:
    """A gateway by its key and HELLO, which takes no notice of what it is told: a link, and a subscription."""

    def __init__(self, keyed: Keyed, key: str) -> None:
        pair, server = read_key(keyed.key(key)), read_key(keyed.key("router")).public
        node, boot = owner_of(pair.public) + os.urandom(8), os.urandom(8)
        self.context: zmq.Context[Any] = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.ROUTING_ID, node + boot + b"0001")
        self.subscriber = self.context.socket(zmq.SUB)
        self.subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self.monitors = []
        routers = (self.dealer, keyed.fabric.routers[0].address), (self.subscriber, keyed.published())
        for socket, address in routers:
            socket.setsockopt(zmq.CURVE_SERVERKEY, server)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
            self.monitors.append(socket.get_monitor_socket())  # before it connects, so that it misses nothing
            socket.connect(address)
        for monitor in self.monitors:
            self._wait_for(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.dealer.send_multipart(encode([(Hello(VERSION, 1, NodeInfo(node, boot, "gateway")), b"", b"")]))
        assert self.dealer.poll(20_000)
        assert isinstance(decode(self.dealer.recv_multipart())[0][0], Hello)

    def _wait_for(self, monitor: Any, event: int) -> None:
        while monitor.poll(30_000):
            if parse_monitor_message(monitor.recv_multipart())["event"] == event:
                return
        raise AssertionError(f"no {zmq.Event(event).name}")

    def wait_for_the_end(self) -> None:
        """Both connections are cut from the other side, and are refused when they come back."""
        try:
            for monitor in self.monitors:
                self._wait_for(monitor, zmq.EVENT_DISCONNECTED)
                self._wait_for(monitor, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        finally:
            self.dealer.disable_monitor()
            self.subscriber.disable_monitor()
            for socket in (self.dealer, self.subscriber, *self.monitors):
                socket.close(0)
            self.context.term()


@pytest.fixture(scope="module")
def keyed() -> Iterator[Keyed]:
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        keyed = Keyed(Path(folder))
        try:
            keyed.start("router", "router", "--state-dir", f"{folder}/state")
            keyed.start("router", "router2")
            keyed.start("gateway", "gateway")
            keyed.start("worker", "worker")
            os.environ[KEY_VARIABLE] = str(keyed.key("boss"))
            os.environ[KNOWN_KEYS_VARIABLE] = str(keyed.known)
            keyed.fabric.serve("hello", "app_basic:hello")
            keyed.fabric.serve("look", "app_handles:look")
            keyed.fabric.serve("Shop", "app_handles:Shop")
            yield keyed
        finally:
            keyed.fabric.close()
            os.environ.clear()
            os.environ.update(environment)


@pytest.fixture
def http(keyed: Keyed) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyed.fabric.gateways[0].http, timeout=30.0) as client:
        yield client


def as_key(monkeypatch: pytest.MonkeyPatch, keyed: Keyed, name: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, str(keyed.key(name)))


def test_a_fabric_with_keys_serves_and_its_handlers_reach_each_other(keyed: Keyed, http: httpx.Client) -> None:
    assert http.get("/hello").text == "hello"
    # Through both routers, with the handle of a handler, which uses the key of its worker node.
    for _ in range(4):
        assert http.get("/Shop").status_code == 200
    status = keyed.fabric.call("status")
    assert sorted(node["role"] for node in status["nodes"]) == ["gateway", "router", "router", "worker"]
    log = keyed.fabric.logs()
    assert "Traceback" not in log


def test_a_script_with_a_key_joins_and_calls(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed.make("app", "caller")
    keyed.know()
    as_key(monkeypatch, keyed, "app")
    # What other tests of this process have declared would be created by init().
    monkeypatch.setattr("zserve.control.declarations._declared", {})
    address = keyed.fabric.routers[0].address

    def joined() -> bool:
        try:
            serve.init(address)
        except FabricUnreachable:  # the routers have not read the file yet
            return False
        return True

    try:
        eventually(joined, "the new key is known", 30.0)
        assert serve.get_handle("hello").remote().result(timeout=30) == "hello"
        with pytest.raises(ServeError, match="set_traffic needs an operator's key"):
            serve.set_traffic("hello", {"hello": 1.0})
    finally:
        serve.shutdown()


@pytest.mark.parametrize("who", ["unknown key", "no key"])
def test_a_stranger_gets_nothing(keyed: Keyed, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = keyed.fabric.routers[0].address
    pair = keyed.make("stranger", None) if who == "unknown key" and not keyed.key("stranger").exists() else None
    if who == "unknown key":
        as_key(monkeypatch, keyed, "stranger")
        complaint = "is not known"
    else:
        monkeypatch.delenv(KEY_VARIABLE)
        monkeypatch.delenv(KNOWN_KEYS_VARIABLE)
        complaint = "no router answers"
    with ControlClient(address, connect_timeout_s=2.0) as client, pytest.raises(FabricUnreachable, match=complaint):
        client.call("status")
    # By hand: everything that could be said, and an ear at the publications.
    context: zmq.Context[Any] = zmq.Context()
    server = read_key(keyed.key("router")).public
    dealer = dial_router(context, address, b"s" * 28, pair, server)
    subscriber = dial_publisher(context, keyed.published(), pair, server)
    try:
        assert not dealer.poll(1000, zmq.POLLOUT)
        assert not subscriber.poll(0)
    finally:
        dealer.close(0)
        subscriber.close(0)
        context.term()


def test_a_key_is_for_its_role_only(keyed: Keyed, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the worker node, stolen: no gateway, no router, no config, no shutdown."""
    thief = keyed.start("gateway", "worker", "--join-timeout", "3", ready=False)
    as_key(monkeypatch, keyed, "worker")
    with ControlClient(keyed.fabric.routers[0].address) as client:
        assert "hello" in client.call("list_endpoints")
        for op in ("shutdown", "delete_endpoint", "apply_changes"):
            with pytest.raises(ServeError, match=f"{op} needs an operator's key, which that of worker is not"):
                client.call(op, {"name": "hello"})
    pair = read_key(keyed.key("worker"))
    context: zmq.Context[Any] = zmq.Context()
    node, boot = os.urandom(16), os.urandom(8)
    socket = dial_router(context, keyed.fabric.routers[0].address, node + boot + b"0001", pair,
                         read_key(keyed.key("router")).public)  # fmt: skip
    try:
        assert socket.poll(20_000, zmq.POLLOUT)
        forged: list[Any] = [Hello(VERSION, 1, NodeInfo(node, boot, "router")), Shutdown("by a thief"), Ping()]
        socket.send_multipart(encode([(message, b"", b"") for message in forged]))
        assert socket.poll(20_000), "it is told why"
        assert b"is for worker, not for a router" in b"".join(socket.recv_multipart())
        socket.send_multipart(encode([(Control(1, "shutdown", b"{}"), b"", b"")]))
    finally:
        socket.close(0)
        context.term()
    eventually(lambda: "is for worker, not for a gateway" in thief.log.read_text(), "the thief is told why", 30.0)
    assert thief.process.wait(60.0) != 0
    assert http.get("/hello").status_code == 200


def test_pickles_and_messages_of_other_roles_are_refused_one_by_one_and_counted(
    keyed: Keyed, http: httpx.Client, tmp_path: Path
) -> None:
    """To the router with keys: by the holder of the worker's key, and by somebody without any."""
    marker = tmp_path / "bomb"
    address, server = keyed.fabric.routers[0].address, read_key(keyed.key("router")).public
    before = keyed.fabric.call("status")["router"]["transport"]
    pair = read_key(keyed.key("worker"))
    node, boot = owner_of(pair.public) + os.urandom(8), os.urandom(8)
    wrong = [message for message in samples() if type(message) not in may_send("worker", "router")]
    context: zmq.Context[Any] = zmq.Context()
    socket = dial_router(context, address, node + boot + b"0001", pair, server)
    try:
        assert socket.poll(20_000, zmq.POLLOUT)
        socket.send_multipart([bomb(marker)] * 2)
        socket.send_multipart(encode([(Hello(VERSION, 1, NodeInfo(node, boot, "worker")), b"", b"")]))
        for message in wrong:
            body = bomb(marker) if hasattr(message, "body") else b""
            socket.send_multipart(encode([(message, b"", body)]))
        socket.send_multipart(encode([(Control(1, "shutdown", bomb(marker)), b"", b"")]))

        def counted(name: str) -> int:
            now: int = keyed.fabric.call("status")["router"]["transport"][name]
            return now - int(before[name])

        eventually(lambda: counted("refused_messages") >= len(wrong), "each is counted")
        assert counted("undecodable") == 1
    finally:
        socket.close(0)
        context.term()
    place = urlsplit(address)
    with create_connection((place.hostname, place.port), 30.0) as plain, suppress(ConnectionResetError):
        plain.sendall(bomb(marker) * 10)
        while plain.recv(4096):  # the greeting, and then the end
            pass
    assert not marker.exists()
    assert http.get("/hello").text == "hello"


def test_a_broken_file_changes_nothing_and_a_revoked_key_loses_its_links(
    keyed: Keyed, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway, routers = keyed.fabric.gateways[0], keyed.fabric.routers
    monkeypatch.setenv(KNOWN_KEYS_VARIABLE, str(shutil.copy(keyed.known, tmp_path)))  # for the calls made here
    keyed.know(extra="this line makes no sense\n")
    for router in routers:
        eventually(lambda router=router: "5 words where there" in router.log.read_text(), "the mistake is named", 30.0)
    assert http.get("/hello").text == "hello"
    assert keyed.fabric.call("status")["nodes"], "new connections come in as well"

    deaf = Deaf(keyed, "gateway")
    keyed.know("gateway")
    deaf.wait_for_the_end()
    eventually(lambda: http.get("/hello").status_code == 503, "no router talks to the gateway", 30.0)
    for router in routers:
        eventually(lambda router=router: "the key of gateway was revoked" in router.log.read_text(), "said", 30.0)
    assert "gateway" not in {node["role"] for node in keyed.fabric.call("status")["nodes"]}
    eventually(lambda: "no link with the router" in gateway.log.read_text(), "the gateway says so, too", 30.0)

    keyed.know()
    eventually(lambda: http.get("/hello").status_code == 200, "known again, it is back", 60.0)

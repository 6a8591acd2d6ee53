from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from zserve.control import client as client_module
from zserve.control.client import ControlClient, normal_address
from zserve.errors import ApplicationError, FabricUnreachable, PortInUse, ServeError, ServeWarning
from zserve.wire.messages import VERSION, Goodbye, Reset


@pytest.fixture
def client(router) -> Iterator[ControlClient]:
    with ControlClient(router.address, name="test") as client:
        yield client


def raises(error: Exception):
    def answer(_args):
        raise error

    return answer


def test_a_call_brings_its_arguments_and_returns_the_result(router, client):
    router.answers["echo"] = lambda args: {"result": [args, "ü"]}
    assert client.call("echo", {"a": [1, None, 2.5]}) == [{"a": [1, None, 2.5]}, "ü"]
    assert client.call("echo") == [{}, "ü"]


def test_it_says_who_it_is_and_goodbye(router, client):
    client.call("list_endpoints")
    assert router.said_goodbye.wait(5)
    [(peer, hello)] = router.hellos
    assert (hello.info.role, hello.info.name) == ("client", "test")
    assert peer == hello.info.node + hello.info.boot + (1).to_bytes(4, "big")
    assert len(peer) == 28
    assert router.goodbyes == [peer]


def test_each_call_has_a_routing_id_of_its_own(router, client):
    for _ in range(3):
        client.call("list_endpoints")
    assert len({peer for peer, _ in router.hellos}) == 3


def test_threads_share_a_client(router, client):
    router.answers["echo"] = lambda args: {"result": args["n"]}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: client.call("echo", {"n": n}), range(40))) == list(range(40))


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, ServeError, ApplicationError, PortInUse])
def test_an_error_is_raised_as_its_own_class(router, client, error):
    router.answers["fail"] = raises(error("the argument 'x' is bad: 7"))
    with pytest.raises(error, match="the argument 'x' is bad: 7") as raised:
        client.call("fail")
    assert type(raised.value) is error


@pytest.mark.parametrize("error", [OSError("disk"), SystemExit("out"), ZeroDivisionError("zero")])
def test_an_error_of_another_class_is_a_serve_error_that_names_it(router, client, error):
    router.answers["fail"] = raises(type(type(error).__name__, (Exception,), {})(str(error)))
    with pytest.raises(ServeError, match=f"{type(error).__name__}: {error}"):
        client.call("fail")


@pytest.mark.parametrize("name", ["Refusal", "annotations", "__doc__", "ServeWarning"])
def test_an_error_name_cannot_pick_anything_else_of_the_errors_module(name):
    with pytest.raises(ServeError, match=f"{name}: text"):
        client_module.raise_remote(b'{"error": "%s", "message": "text"}' % name.encode())


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"error": 1}', b"\xff"])
def test_an_unreadable_error_is_a_serve_error(payload):
    with pytest.raises(ServeError, match="without a readable reason"):
        client_module.raise_remote(payload)


def test_warnings_of_the_reply_point_at_the_callers_line(router, client):
    router.answers["set_traffic"] = lambda _args: {"result": 1, "warnings": ["swapped", "gateway g2 not reached"]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert client.call("set_traffic") == 1
    assert [str(warning.message) for warning in caught] == ["swapped", "gateway g2 not reached"]
    assert {warning.category for warning in caught} == {ServeWarning}
    assert {warning.filename for warning in caught} == {__file__}


def test_a_plain_table_is_returned_as_it_is(router, client):
    router.answers["a"] = lambda _args: {"result": {"route": None}, "other": 1}
    assert client.call("a") == {"result": {"route": None}, "other": 1}


def test_a_reset_makes_it_come_again_on_a_new_socket(router, client):
    router.resets = 1
    assert client.call("list_endpoints") == {}
    assert len({peer for peer, _ in router.hellos}) == 2


def test_noise_before_the_hello_is_passed_over(router, client):
    router.raw = [b"\xff\x00garbage", b"more"]
    assert client.call("list_endpoints") == {}


@pytest.mark.parametrize("message", [Reset("restarted"), Goodbye("shutting down")])
def test_a_router_that_leaves_during_the_call_is_reported(router, client, message):
    router.answers["slow"] = lambda _args: message
    with pytest.raises(FabricUnreachable, match=f"left during slow .{message.reason}.; .* may or may not"):
        client.call("slow")


def test_a_reply_that_does_not_come_in_time(router, client):
    router.replies = False
    start = time.monotonic()
    with pytest.raises(ServeError, match=r"wait_backend: no answer from tcp:.* within 0\.2 s"):
        client.call("wait_backend", timeout_s=0.2)
    assert time.monotonic() - start < 2
    assert router.ops() == ["wait_backend"]


def test_a_long_call_is_kept_alive_by_pings(router, client, monkeypatch):
    monkeypatch.setattr(client_module, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(client_module, "SILENCE_LIMIT_S", 0.3)
    router.replies = False
    with pytest.raises(ServeError, match="no answer"):  # not: silent
        client.call("wait_backend", timeout_s=0.8)
    assert router.pings >= 3


def test_a_router_that_dies_is_noticed_by_its_silence(router, client, monkeypatch):
    monkeypatch.setattr(client_module, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(client_module, "SILENCE_LIMIT_S", 0.3)
    router.answers["hang"] = lambda _args: router.die()
    with pytest.raises(FabricUnreachable, match="went silent during hang"):
        client.call("hang", timeout_s=20)


def test_another_protocol_version_is_refused(router, client):
    router.version = 0
    with pytest.raises(FabricUnreachable, match=f"speaks protocol 0, this client {VERSION}"):
        client.call("list_endpoints")


def test_something_else_that_listens(router):
    router.greets = False
    with (
        ControlClient(router.address, connect_timeout_s=0.3) as client,
        pytest.raises(FabricUnreachable, match="does not answer as a zserve router"),
    ):
        client.call("list_endpoints")


def test_nobody_there_is_one_clear_line_within_five_seconds():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
    start = time.monotonic()
    with ControlClient(f"127.0.0.1:{port}") as client, pytest.raises(FabricUnreachable) as raised:
        client.call("list_endpoints")
    assert time.monotonic() - start < 5
    text = str(raised.value)
    assert f"tcp://127.0.0.1:{port}" in text
    assert "zserve status" in text
    assert "\n" not in text


def test_a_missing_ipc_socket_is_reported_at_once(tmp_path):
    start = time.monotonic()
    with ControlClient(f"ipc://{tmp_path}/r.sock") as client, pytest.raises(FabricUnreachable, match="no such socket"):
        client.call("list_endpoints")
    assert time.monotonic() - start < 0.5


def test_close_ends_the_calls_of_other_threads(router, client):
    router.replies = False
    asked = threading.Event()
    outcome = []

    def call() -> None:
        asked.set()
        try:
            client.call("hang", timeout_s=20)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert asked.wait(5)
    until = time.monotonic() + 5
    while "hang" not in router.ops() and time.monotonic() < until:
        threading.Event().wait(0.005)
    client.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "closed during the call" in str(outcome[0])


def test_a_closed_client_opens_again(router, client):
    client.call("list_endpoints")
    client.close()
    assert client.call("list_endpoints") == {}


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("localhost:5555", "tcp://localhost:5555"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:1"),
        ("tcp://[::1]:80", "tcp://[::1]:80"),
        (" ipc:///run/r.sock ", "ipc:///run/r.sock"),
    ],
)
def test_addresses(given, normal):
    assert normal_address(given) == normal


@pytest.mark.parametrize(
    "bad", ["", "host", "tcp://", "tcp://:1", "tcp://h:0", "tcp://h:65536", "http://h:1", "ipc://"]
)
def test_bad_addresses_name_themselves(bad):
    with pytest.raises(ValueError, match="address must look like"):
        normal_address(bad)
    with pytest.raises(TypeError, match="address must be a string"):
        normal_address(5555)  # type: ignore[arg-type]

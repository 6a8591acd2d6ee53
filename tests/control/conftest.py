"""A router that is not one: a ROUTER socket in a thread, which answers control calls from a table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import zmq

from zserve.control import declarations, fabrics
from zserve.wire.codec import decode, encode
from zserve.wire.messages import (
    MIN_VERSION,
    VERSION,
    Control,
    ControlReply,
    Goodbye,
    Hello,
    NodeInfo,
    Ping,
    Reset,
)


class FakeRouter:
    """Keeps endpoints and backends in dicts; ``answers`` replaces what an op does.  ``calls`` is what it was asked."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.backends: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.hellos: list[tuple[bytes, Hello]] = []
        self.goodbyes: list[bytes] = []
        self.pings = 0
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.fail_backends: dict[str, str] = {}
        self.revisions: dict[str, int] = {}
        self.resets = 0  # HELLOs still to be answered with RESET
        self.version = VERSION
        self.greets = True
        self.raw: list[bytes] | None = None  # sent before each HELLO
        self.replies = True
        self.said_goodbye = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ops(self) -> list[str]:
        return [op for op, _ in self.calls]

    def args(self, op: str) -> dict[str, Any]:
        """The arguments of the last call of *op*."""
        return [args for name, args in self.calls if name == op][-1]

    def die(self) -> None:
        """Fall silent, in the middle of a call."""
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()
        self._socket.close(0)
        self._context.term()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            peer, *frames = self._socket.recv_multipart()
            for message, _head, _body in decode(frames):
                self._on_message(peer, message)

    def _on_message(self, peer: bytes, message: Any) -> None:
        if isinstance(message, Hello):
            self.hellos.append((peer, message))
            if self.raw is not None:
                self._socket.send_multipart([peer, *self.raw])
            if self.resets:
                self.resets -= 1
                self._send(peer, Reset("not now"))
            elif self.greets:
                self._send(
                    peer, Hello(self.version, min(self.version, MIN_VERSION), NodeInfo(b"r" * 16, b"b" * 8, "router"))
                )
        elif isinstance(message, Ping):
            self.pings += 1
            self._send(peer, Ping())
        elif isinstance(message, Goodbye):
            self.goodbyes.append(peer)
            self.said_goodbye.set()
        elif isinstance(message, Control):
            assert any(peer == known for known, _ in self.hellos), "Control before HELLO"
            args = orjson.loads(message.args)
            self.calls.append((message.op, args))
            if not self.replies:
                return
            try:
                answer = self.answers.get(message.op, getattr(self, f"_{message.op}", lambda _args: {"result": None}))
                result = answer(args)
            except Exception as error:
                text = error.args[0] if error.args else ""
                payload = orjson.dumps({"error": type(error).__name__, "message": text})
                self._send(peer, ControlReply(message.id, False, payload))
            else:
                if self._stop.is_set():
                    return
                if isinstance(result, (Reset, Goodbye)):
                    self._send(peer, result)
                else:
                    # An answer to some other call comes first and must be passed over.
                    self._send(peer, ControlReply(message.id + 1000, True, b'{"result":"wrong"}'))
                    self._send(peer, ControlReply(message.id, True, orjson.dumps(result)))

    def _send(self, peer: bytes, message: Any) -> None:
        try:
            self._socket.send_multipart([peer, *encode([(message, b"", b"")])], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # the client has gone

    # --- the operations -----------------------------------------------------------------------------------------------

    def _create_endpoint(self, args: dict[str, Any]) -> Any:
        traffic = {args["backend"]: 1.0} if args["backend"] else {}
        self.endpoints[args["name"]] = {
            "route": args["route"],
            "methods": args["methods"],
            "traffic": traffic,
            "shadows": {},
        }
        return {"result": None}

    def _delete_endpoint(self, args: dict[str, Any]) -> Any:
        self.endpoints.pop(args["name"], None)
        return {"result": None}

    def _list_endpoints(self, _args: dict[str, Any]) -> Any:
        return {"result": self.endpoints}

    def _create_backend(self, args: dict[str, Any]) -> Any:
        if args["name"] in self.backends:
            raise ValueError(f"backend {args['name']!r} exists")
        self.backends[args["name"]] = args
        return {"result": None}

    def _update_backend(self, args: dict[str, Any]) -> Any:
        self.backends[args["name"]] = args
        self.revisions[args["name"]] = self.revisions.get(args["name"], 1) + 1
        return {"result": None}

    def _list_records(self, _args: dict[str, Any]) -> Any:
        def record(name: str, args: dict[str, Any]) -> dict[str, Any]:
            revision = self.revisions.get(name, 1)
            return {"stamp": f"{revision:02x}", "revision": revision, "value": args}

        return {"result": {f"backend/{name}": record(name, args) for name, args in self.backends.items()}}

    def _wait_backend(self, args: dict[str, Any]) -> Any:
        from zserve.errors import ApplicationError

        if args["name"] in self.fail_backends:
            raise ApplicationError(self.fail_backends[args["name"]])
        return {"result": None}

    def _delete_backend(self, args: dict[str, Any]) -> Any:
        self.backends.pop(args["name"], None)
        return {"result": None}

    def _list_backends(self, _args: dict[str, Any]) -> Any:
        return {"result": {name: {"config": args["config"]} for name, args in self.backends.items()}}

    def _set_traffic(self, args: dict[str, Any]) -> Any:
        self.endpoints[args["endpoint"]]["traffic"] = args["traffic"]
        return {"result": None}


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    fake = FakeRouter()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No declaration and no fabric is left over from another test."""
    monkeypatch.setattr(declarations, "_declared", {})
    monkeypatch.delenv("ZSERVE_ADDRESS", raising=False)
    monkeypatch.delenv("ZSERVE_REPLICA", raising=False)
    yield
    fabrics.shutdown()

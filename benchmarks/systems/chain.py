"""A bare chain over ZeroMQ: the limit of what is joined by ZeroMQ sockets, one process a role, in Python.

An HTTP front, a forwarder and an echo, each a process, joined as the roles of the fabric are (DEALER to ROUTER over
ipc), and nothing else: no scheduling, no deadlines, no credits, no heartbeats, no other request than this one.  The two
behind the front wait in blocking receives, which is the fastest that pyzmq can do.  All messages of one turn of the
front's event loop travel as one, as in the fabric.  ``chain-together`` leaves the forwarder out; in ``chain-direct``
the answers go from the echo straight to the front.
"""

from __future__ import annotations

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_ECHO = """
    import os, sys
    import zmq

    def front(address, port, answers):
        import asyncio, uvloop

        async def serve():
            loop = asyncio.get_running_loop()
            dealer = zmq.Context().socket(zmq.DEALER)
            dealer.connect(address)
            back = dealer
            if answers:
                back = zmq.Context().socket(zmq.PULL)
                back.bind(answers)
            waiting, pending = {}, []

            class Connection(asyncio.Protocol):
                def connection_made(self, transport):
                    self.transport = transport
                    self.key = len(waiting).to_bytes(4, "big")
                    waiting[self.key] = self
                    self.buffer = b""

                def data_received(self, data):
                    self.buffer += data
                    head, found, body = self.buffer.partition(b"\\r\\n\\r\\n")
                    if not found:
                        return
                    lower = head.lower()
                    at = lower.find(b"content-length:")
                    length = int(lower[at + 15 :].split(b"\\r\\n", 1)[0]) if at >= 0 else 0
                    if len(body) < length:
                        return
                    self.buffer = b""
                    if not pending:
                        loop.call_soon(flush)
                    pending.extend((self.key, head, body))

            def flush():
                dealer.send_multipart(pending, zmq.NOBLOCK)
                pending.clear()
                drain()

            def drain():
                while back.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    parts = back.recv_multipart(zmq.NOBLOCK)
                    for key, body in zip(parts[::3], parts[2::3]):
                        if waiting[key].transport.is_closing():
                            continue
                        waiting[key].transport.write(
                            b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n%s"
                            % (len(body), body)
                        )

            loop.add_reader(back.getsockopt(zmq.FD), drain)
            server = await loop.create_server(Connection, "127.0.0.1", port)
            await server.serve_forever()

        uvloop.run(serve())

    def forward(address, onward):
        context = zmq.Context()
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        router.bind(address)
        dealer.connect(onward)
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(dealer, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                other = dealer if socket is router else router
                other.send_multipart(socket.recv_multipart())

    def echo(address, answers):
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.bind(address)
        if answers:
            push = context.socket(zmq.PUSH)
            push.connect(answers)
            while True:
                push.send_multipart(router.recv_multipart()[2:])  # without the routing ids of forwarder and front
        while True:
            router.send_multipart(router.recv_multipart())

    if __name__ == "__main__":
        port, shape = int(sys.argv[1]), sys.argv[2]
        first, second, answers = (f"ipc://{os.getcwd()}/{name}" for name in ("first", "second", "answers"))
        if shape != "direct":
            answers = ""
        if shape == "together":
            second = first
        elif os.fork() == 0:
            forward(first, second)
        if os.fork() == 0:
            echo(second, answers)
        front(first, port, answers)
"""


class Chain(System):
    packages = ("pyzmq", "uvloop")
    sources = {"echo": {"chain.py": source(_ECHO)}}

    def __init__(self, name: str, shape: str, title: str) -> None:
        self.name = name
        self.title = title
        self._shape = shape

    def start(self, site: Site) -> None:
        site.spawn([site.python, "chain.py", site.port, self._shape])


SYSTEMS: tuple[System, ...] = (
    Chain("chain", "apart", "bare chain over ZeroMQ, three processes: HTTP front, forwarder, echo, and nothing else"),
    Chain("chain-together", "together", "the bare chain without its forwarder: two processes"),
    Chain("chain-direct", "direct", "the bare chain, whose answers do not come back through the forwarder"),
)

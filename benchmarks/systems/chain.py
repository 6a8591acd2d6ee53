"""A bare chain over ZeroMQ: the limit of what is joined by ZeroMQ sockets, one process a role, in Python.

An HTTP front, a forwarder and an echo, each a process, joined as the roles of the fabric are (DEALER to ROUTER over
ipc), and nothing else: no scheduling, no deadlines, no credits, no heartbeats, no other request than this one.  The two
behind the front wait in blocking receives, which is the fastest that pyzmq can do.  All messages of one turn of the
front's event loop travel as one, as in the fabric.  ``chain-together`` leaves the forwarder out.
"""

from __future__ import annotations

from ..site import Site
from .system import System, source

__all__ = ["SYSTEMS"]

_ECHO = """
    import os, sys
    import zmq

    def front(address, port):
        import asyncio, uvloop

        async def serve():
            loop = asyncio.get_running_loop()
            dealer = zmq.Context().socket(zmq.DEALER)
            dealer.connect(address)
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
                while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    parts = dealer.recv_multipart(zmq.NOBLOCK)
                    for key, body in zip(parts[::3], parts[2::3]):
                        waiting[key].transport.write(
                            b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n%s"
                            % (len(body), body)
                        )

            loop.add_reader(dealer.getsockopt(zmq.FD), drain)
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

    def echo(address):
        router = zmq.Context().socket(zmq.ROUTER)
        router.bind(address)
        while True:
            router.send_multipart(router.recv_multipart())

    if __name__ == "__main__":
        port, together = int(sys.argv[1]), sys.argv[2] == "together"
        first, second = f"ipc://{os.getcwd()}/first", f"ipc://{os.getcwd()}/second"
        if together:
            second = first
        elif os.fork() == 0:
            forward(first, second)
        if os.fork() == 0:
            echo(second)
        front(first, port)
"""


class Chain(System):
    title = "bare chain over ZeroMQ: HTTP front, forwarder and echo, three processes that do nothing else"
    packages = ("pyzmq", "uvloop")
    sources = {"echo": {"chain.py": source(_ECHO)}}

    def __init__(self, name: str = "chain", shape: str = "apart") -> None:
        self.name = name
        self._shape = shape
        if shape == "together":
            self.title = "the same without the forwarder: two processes"

    def start(self, site: Site) -> None:
        site.spawn([site.python, "chain.py", site.port, self._shape])


SYSTEMS: tuple[System, ...] = (Chain(), Chain("chain-together", "together"))

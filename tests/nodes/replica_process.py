"""A replica process, as its worker node and a router see it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from zserve.channel.hub import Hub
from zserve.channel.outbox import Parcel, Peer
from zserve.http.head import RequestHead, encode_head
from zserve.wire.messages import FLAG_WEB, Call, Chunk, Grant, Hello, NodeInfo, Result

from ..channel.fakes import FakeCore


class Process:
    """A replica process, with the parent's ends of its pipes."""

    def __init__(self, app_dir: Path, line: bytes | None = None, **spec: Any) -> None:
        self.status, child = os.pipe()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zserve.nodes.replica"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[child], env=environment,
        )  # fmt: skip
        os.close(child)
        self._pending = b""
        full = {"node": "ab" * 16, "backend": "b", "app_dir": str(app_dir), "status_fd": child, **spec}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(full).encode() + b"\n" if line is None else line)
        self.process.stdin.flush()

    def report(self) -> dict[str, Any]:
        """The next line of its status; {} when it has ended."""
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self.status], [], [], 20)
            assert ready, "no report in 20 s"
            data = os.read(self.status, 65536)
            if not data:
                return {}
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report

    def orphan(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int:
        return self.process.wait(20)

    def cpu_s(self) -> float:
        """Seconds of processor time that it has used."""
        if not sys.platform.startswith("linux"):
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        os.close(self.status)


class RouterStub(FakeCore):
    """Notes what a replica says, and sends it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.replica: Peer = b""
        self.hello: Hello | None = None
        self.received: list[Any] = []
        self.news = asyncio.Event()
        self.ended = ""

    def link_up(self, peer: Peer, hello: Hello, now: float) -> None:
        self.replica, self.hello = peer, hello
        self.news.set()

    def link_down(self, peer: Peer, reason: str, now: float) -> None:
        self.ended = reason
        self.news.set()

    def receive(self, peer: Peer, parcels: Sequence[Parcel], now: float) -> None:
        for message, _, body in parcels:
            self.received.append(message)
            if isinstance(message, Result | Chunk):
                self.received.append(body)
        self.news.set()

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()
        return condition()

    def answer(self, number: int) -> tuple[int, bytes] | None:
        """Status and body of the answer to call *number*, once it is there."""
        key = number.to_bytes(16, "big")
        for message, body in itertools.pairwise(self.received):
            if isinstance(message, Result) and message.id == key:
                return message.status, body
        return None

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.received if isinstance(message, kind)]

    def call(self, number: int, body: bytes = b"", method: str = "", flags: int = 0) -> None:
        head = encode_head(RequestHead("POST", "/"))
        message = Call(number.to_bytes(16, "big"), number, 1, "e", -1, FLAG_WEB | flags, method)
        self.out.send(self.replica, message, head, body)


Script = Callable[[RouterStub, Process], Coroutine[Any, Any, None]]


def with_router(start: Callable[..., Process], base: Path, script: Script, **spec: Any) -> None:
    """Run *script* with a router that the replica has linked with."""

    async def main() -> None:
        core = RouterStub()
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = NodeInfo(b"r" * 16, b"b" * 8, "router")
        hub = Hub(core, info, bind=f"ipc://{base}/r", publish=f"ipc://{base}/p")  # type: ignore[arg-type]
        hub.start()
        try:
            process = await asyncio.to_thread(start, routers=[hub.address], **spec)
            assert (await asyncio.to_thread(process.report))["state"] == "ready"
            await core.until(lambda: core.of(Grant))
            await script(core, process)
        finally:
            await hub.stop("end of test")

    asyncio.run(main())

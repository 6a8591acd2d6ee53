"""Answers in pieces: what a generator yields leaves as it is produced.

A :class:`Stream` is what the handler gave; the :class:`Driver` runs it, in the thread or the task that the handler ran
in, and reports its beginning, its pieces and its end.  The first item is awaited before anything is sent, so that a
generator which fails before it has yielded is an ordinary error with an ordinary status; only server-sent events begin
at once, because their reader wants to know that it is connected long before there is an event.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from ..http.answers import Answer
from ..wire.flow import PIECE
from ..wire.messages import FLAG_STREAMS
from .encode import MAX_COLLECTED_BYTES, NotEncodable, Streamable, chunk_bytes, finish_stream
from .flow import Flow
from .invoke import Handler, HandlerExit

if TYPE_CHECKING:
    from .runs import Run

__all__ = ["Driver", "StreamBegin", "StreamEnd", "StreamEvent", "StreamPiece"]

log = logging.getLogger("zserve.handler")


class StreamBegin:
    """Status, headers and first piece of an answer that goes on."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class StreamPiece:
    """The next piece."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class StreamEnd:
    """There is no more: all of it was sent, or it broke off."""

    __slots__ = ("complete",)

    def __init__(self, complete: bool) -> None:
        self.complete = complete


StreamEvent: TypeAlias = StreamBegin | StreamPiece | StreamEnd
Emit: TypeAlias = "Callable[[Run, StreamBegin | StreamPiece], None]"


class Driver:
    """Runs streams.  *emit* is given their beginnings and pieces; in what thread it is called is the caller's."""

    def __init__(self, handler: Handler, emit: Emit, emit_on_loop: Emit) -> None:
        """*emit* is called in the thread of :meth:`run`, *emit_on_loop* by :meth:`run_async`."""
        self._handler = handler
        self._emit = emit
        self._emit_on_loop = emit_on_loop

    def run(self, run: Run, value: Streamable) -> list[Answer] | StreamEnd:
        """Run it to its end in this thread.  The result is a plain answer where there was nothing to stream, or where
        it failed before its first piece.  Raises nothing but HandlerExit."""
        production = _Production(self._handler, run, value, self._emit)
        try:
            production.start()
            for item in value.items:
                production.take(item)
                while production.pieces:
                    if not production.flow.wait():
                        return production.broken()
                    production.put()
                if run.aborted:
                    return production.broken()
            return production.complete()
        except BaseException as error:
            return production.failed(error)
        finally:
            try:
                value.close()
            except BaseException as error:
                production.close_failed(error)

    async def run_async(self, run: Run, value: Streamable) -> list[Answer] | StreamEnd:
        """The same on the loop.  Items that come from a plain iterator are produced in a thread of their own."""
        production = _Production(self._handler, run, value, self._emit_on_loop)
        threaded = None if value.asynchronous else _Threaded(value)
        items: AsyncIterator[Any] = value.items if threaded is None else threaded
        try:
            production.start()
            async for item in items:
                production.take(item)
                while production.pieces:
                    if not await production.flow.wait_async():
                        return production.broken()
                    production.put()
                # What was emitted leaves at the end of this turn of the loop: give it one before the next item.
                await asyncio.sleep(0)
                if run.aborted:  # and the generator has swallowed the cancellation
                    return production.broken()
            return production.complete()
        except BaseException as error:
            return production.failed(error)
        finally:
            try:
                if threaded is not None:
                    await threaded.close()
                else:
                    closing = value.close()
                    if inspect.isawaitable(closing):
                        await closing
            except BaseException as error:
                production.close_failed(error)


class _Production:
    """One stream on its way: what has been taken from the generator, and what has been emitted."""

    def __init__(self, handler: Handler, run: Run, value: Streamable, emit: Emit) -> None:
        self.pieces: list[bytes] = []
        """What is to be emitted next, last piece first."""
        self.flow = Flow()
        self._handler = handler
        self._run = run
        self._value = value
        self._emit = emit
        self._begun = False
        self._kind: int | None = None
        self._collected: list[bytes] | None = None
        self._size = 0
        if not run.calls[0].flags & FLAG_STREAMS:
            self._collected = []
            return
        run.flow = self.flow
        if run.aborted:  # in this order, so that whoever aborts it now sees the flow
            self.flow.cancel()

    def start(self) -> None:
        """Begin before the first item, where that is wanted."""
        if self._value.eager and self._collected is None:
            self._begin(b"")

    def take(self, item: Any) -> None:
        """The next item of the generator; what is to be emitted of it is in :attr:`pieces`.  Raises NotEncodable."""
        body, kind = chunk_bytes(item)
        if self._kind is None:
            self._kind = kind
        size = len(body)
        if not size:
            return  # an empty chunk would end the answer
        if self._collected is not None:
            self._size += size
            if self._size > MAX_COLLECTED_BYTES:
                raise NotEncodable(f"the handler's generator made more than {MAX_COLLECTED_BYTES} bytes")
            self._collected.append(body)
        elif size <= PIECE:
            self.pieces.append(body)
        else:
            view: Any = memoryview(body)
            self.pieces += [view[start : start + PIECE] for start in range(0, size, PIECE)]
            self.pieces.reverse()

    def put(self) -> None:
        """Emit the next piece."""
        body = self.pieces.pop()
        self.flow.sent(len(body))  # first: the client may have taken it before this thread goes on
        if self._begun:
            self._emit(self._run, StreamPiece(body))
        else:
            self._begin(body)

    def _begin(self, body: bytes) -> None:
        self._begun = True
        self._emit(self._run, StreamBegin(finish_stream(self._value, self._kind, body)))

    def complete(self) -> list[Answer] | StreamEnd:
        if self._begun:
            return StreamEnd(True)
        body = b"".join(self._collected) if self._collected else b""
        return [finish_stream(self._value, self._kind, body)]

    def broken(self) -> list[Answer] | StreamEnd:
        """Nobody wants the rest."""
        if self._begun:
            return StreamEnd(False)
        return self._handler.failed(asyncio.CancelledError(), self._run.calls)

    def failed(self, error: BaseException) -> list[Answer] | StreamEnd:
        """The generator raised.  Raises HandlerExit if what it raised was SystemExit."""
        if not self._begun:
            return self._handler.failed(error, self._run.calls)
        self._handler.broke_off(error, self._run.calls[0])
        if isinstance(error, SystemExit):
            what = f"the handler called sys.exit({error.code!r}); its replica ends and is replaced"
            raise HandlerExit(what, StreamEnd(False)) from None
        return StreamEnd(False)

    def close_failed(self, error: BaseException) -> None:
        if not isinstance(error, asyncio.CancelledError):
            log.error("backend %r: closing a generator failed", self._handler.backend, exc_info=error)


class _Threaded:
    """A plain iterator as an asynchronous one: each item is produced in a thread of its own, always the same."""

    def __init__(self, value: Streamable) -> None:
        self._value = value
        self._items: Iterator[Any] = iter(value.items)
        self._pool = ThreadPoolExecutor(1, "zserve-stream")
        self._context = contextvars.copy_context()

    def __aiter__(self) -> _Threaded:
        return self

    async def __anext__(self) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._context.run, self._next)

    def _next(self) -> Any:
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Close it in its thread, behind the item that it may be busy with."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._context.run, self._value.close)
        finally:
            self._pool.shutdown(wait=False)

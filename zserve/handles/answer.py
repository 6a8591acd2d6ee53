"""What ``handle.remote()`` returns: the answer, once it is there.

An answer is completed once, by the caller's thread (:mod:`zserve.handles.caller`), and may be waited for by any number
of threads and event loops.  What came is decoded where it is asked for: a large result, or the decoder of a registered
type, costs the one who wants it and nobody else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DeadlineExceeded, NoSuchEndpoint, NoSuchMethod, Overloaded, ReplicaDied, ServeError
from ..http.answers import ORIGIN_ROUTER
from ..wire.messages import Result
from .faults import unpack_fault
from .kinds import KIND_FAULT, KIND_VALUE
from .values import Packer, unpack

if TYPE_CHECKING:
    from .caller import Caller

__all__ = ["ServeAnswer"]

_PENDING, _PACKED, _FAULT, _VALUE, _FAILED = range(5)
"""_PACKED, _FAULT: what came, not read yet."""


class ServeAnswer:
    """The answer of one handle call.

    ``answer.result(timeout=None)`` waits in a thread, ``await answer`` in a coroutine, of whatever event loop.  Given
    to ``remote()`` as an argument, it is resolved first.
    """

    __slots__ = ("_body", "_callbacks", "_content", "_lock", "_state", "caller", "flight")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _PENDING
        self._content: Any = None
        self._body: Any = b""
        self._callbacks: list[Callable[[ServeAnswer], None]] | None = None
        self.caller: Caller | None = None
        self.flight: Any = None

    def __repr__(self) -> str:
        words = {_PENDING: "pending", _FAILED: "failed"}
        return f"<ServeAnswer {words.get(self._state, 'done')}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an answer cannot be pickled; send its result")

    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._state != _PENDING

    def result(self, timeout: float | None = None) -> Any:
        """The backend's result, or its exception.

        timeout: seconds to wait, None for as long as it takes (every call has a deadline, so it ends).  Raises
        TimeoutError when it is over, and ``concurrent.futures.CancelledError`` after :meth:`cancel`.

        >>> import zserve as serve
        >>> serve.get_handle("square").remote(x=3).result(timeout=10)
        9
        """
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
                raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
            if math.isnan(timeout):
                raise ValueError("timeout must be a number of seconds or None, not nan")
        if self._state == _PENDING:
            arrived = threading.Lock()
            arrived.acquire()

            def wake(_answer: ServeAnswer) -> None:
                arrived.release()

            self.when_done(wake)
            limit = -1.0 if timeout is None or timeout > threading.TIMEOUT_MAX else max(0.0, timeout)
            try:
                if not arrived.acquire(timeout=limit):
                    raise TimeoutError(f"no answer within {timeout:g} s")
            except BaseException:  # Ctrl-C too
                self._forget(wake)
                raise
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Any]:
        if self._state == _PENDING:
            loop = asyncio.get_running_loop()
            mailbox = _mailbox_of(loop)
            future: asyncio.Future[None] = loop.create_future()

            def wake(_answer: ServeAnswer) -> None:
                mailbox.post(future)

            self.when_done(wake)
            try:
                yield from future
            except asyncio.CancelledError:
                if self._forget(wake):
                    self.cancel()  # nobody else waits
                raise
        return self._outcome()

    def cancel(self) -> bool:
        """Give up on it: a call that waits is taken out of its queue, an async handler that runs is cancelled.

        False when it was done before.
        """
        if not self._complete(_FAILED, concurrent.futures.CancelledError("the call was cancelled")):
            return False
        if self.caller is not None:
            self.caller.cancel(self)
        return True

    # --- inside -----------------------------------------------------------------------------------------------------

    def packed(self) -> tuple[bytes, Any]:
        """(skeleton, body) of the result that has arrived; raises what it failed with."""
        with self._lock:
            if self._state == _PACKED:
                return self._content, self._body
        packer = Packer()  # it was read, and only the value is kept
        [skeleton], body = packer.finish([packer.pack(self._outcome(), "an answer")])
        return skeleton, body

    def failed(self) -> bool:
        """Whether it has ended without a result, as far as is known without reading it."""
        return self._state == _FAILED or self._state == _FAULT

    def fail_like(self, other: ServeAnswer) -> None:
        """End as *other* has, which has failed."""
        with other._lock:
            state, content, body = other._state, other._content, other._body
        self._complete(state, content, body)

    def arrived(self, result: Result, head: bytes, body: Any) -> None:
        """The fabric's terminal answer."""
        self.flight = None
        if result.kind == KIND_VALUE and result.status == 200:
            self._complete(_PACKED, head, body)
        elif result.kind == KIND_FAULT:
            self._complete(_FAULT, head, body)
        else:
            self._complete(_FAILED, _refused(result, body))

    def fail(self, error: BaseException) -> None:
        """It ends without an answer of the fabric; nothing happens if it has one."""
        self._complete(_FAILED, error)

    def _complete(self, state: int, content: Any, body: Any = b"") -> bool:
        with self._lock:
            if self._state != _PENDING:
                return False
            self._content = content
            self._body = body
            self._state = state
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)
        return True

    def when_done(self, callback: Callable[[ServeAnswer], None]) -> None:
        """Have *callback* called when it is done, in the thread that completes it; now, if it is done.

        It must be short and must not raise.
        """
        with self._lock:
            if self._state == _PENDING:
                if self._callbacks is None:
                    self._callbacks = [callback]
                else:
                    self._callbacks.append(callback)
                return
        callback(self)

    def _forget(self, callback: Callable[[ServeAnswer], None]) -> bool:
        """Take back what was given to :meth:`when_done`; True if it was the last and the answer is not there."""
        with self._lock:
            callbacks = self._callbacks
            if callbacks is None or callback not in callbacks:
                return False
            callbacks.remove(callback)
            return not callbacks

    def _outcome(self) -> Any:
        if self._state == _PACKED or self._state == _FAULT:
            with self._lock:
                self._read()
        if self._state == _FAILED:
            error: BaseException = self._content
            raise error
        return self._content

    def _read(self) -> None:
        body, self._body = self._body, b""
        if self._state == _FAULT:
            self._content = unpack_fault(self._content, body)
            self._state = _FAILED
        elif self._state == _PACKED:
            try:
                self._content = unpack(self._content, body)
                self._state = _VALUE
            except ServeError as error:
                self._content = error
                self._state = _FAILED
        else:
            self._body = body


def _refused(result: Result, body: bytes) -> ServeError:
    """An answer that no handler gave."""
    text = body[:65_536].decode(errors="replace").strip() or f"answered with status {result.status}"
    status = result.status
    if status in (429, 503):
        error = Overloaded(text)
        error.retry_after_s = None if result.retry_after_us < 0 else result.retry_after_us * 1e-6
        return error
    if status == 404:
        return NoSuchEndpoint(text) if result.origin >= ORIGIN_ROUTER else NoSuchMethod(text)
    known = {502: ReplicaDied, 504: DeadlineExceeded}.get(status, ServeError)
    return known(text)


class _Mailbox:
    """Wakes the coroutines of one event loop that wait for answers, once for a burst of them."""

    __slots__ = ("_arrived", "_loop", "_signalled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # it is kept for as long as its loop lives
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._signalled = False

    def post(self, future: asyncio.Future[None]) -> None:
        self._arrived.append(future)
        if not self._signalled:
            self._signalled = True
            loop = self._loop()
            try:
                if loop is not None:
                    loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                pass  # it is closed: nobody waits there any more

    def _deliver(self) -> None:
        # The flag first: what is posted after the sweep finds it down and wakes the loop again.
        self._signalled = False
        arrived = self._arrived
        for _ in range(len(arrived)):
            future = arrived.popleft()
            if not future.done():
                future.set_result(None)


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = weakref.WeakKeyDictionary()


def _mailbox_of(loop: asyncio.AbstractEventLoop) -> _Mailbox:
    mailbox = _mailboxes.get(loop)
    if mailbox is None:
        mailbox = _mailboxes[loop] = _Mailbox(loop)
    return mailbox

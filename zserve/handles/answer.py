"""What ``handle.remote()`` returns: the answer, once it is there.

An answer is completed once, by the caller's thread (:mod:`zserve.handles.caller`), and may be waited for by any number
of threads and event loops.  What came is decoded where it is asked for, so a large result or a registered type's decoder
costs the one who wants it and not everybody's event loop.
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
from .values import unpack

if TYPE_CHECKING:
    from .caller import Caller

__all__ = ["ServeAnswer"]

_PENDING, _PACKED, _VALUE, _FAILED = range(4)


class ServeAnswer:
    """The answer of one handle call.

    ``answer.result(timeout=None)`` waits in a thread, ``await answer`` in a coroutine, of whatever event loop.  Given
    to ``remote()`` as an argument, it is resolved first.
    """

    __slots__ = ("__weakref__", "_body", "_callbacks", "_caller", "_content", "_flight", "_lock", "_state", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _PENDING
        self._content: Any = None
        self._body: Any = b""
        self._callbacks: list[Callable[[ServeAnswer], None]] | None = None
        self._waiters = 0
        self._caller: Caller | None = None
        self._flight: Any = None

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
        >>> serve.get_handle("square").remote(x=3).result(timeout=1)                            # doctest: +SKIP
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
            self._when_done(lambda _answer: arrived.release())
            limit = -1.0 if timeout is None or timeout > threading.TIMEOUT_MAX else max(0.0, timeout)
            if not arrived.acquire(timeout=limit):
                raise TimeoutError(f"no answer within {timeout:g} s")
        return self._outcome()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that :meth:`result` would raise; None if there is a result."""
        try:
            self.result(timeout)
        except TimeoutError:
            if self._state == _PENDING:
                raise
        except (Exception, concurrent.futures.CancelledError):
            pass
        error = self._content
        return error if self._state == _FAILED else None

    def __await__(self) -> Generator[Any, None, Any]:
        if self._state == _PENDING:
            mailbox = _mailbox_of(asyncio.get_running_loop())
            future: asyncio.Future[None] = mailbox.loop.create_future()
            with self._lock:
                self._waiters += 1
            self._when_done(lambda _answer: mailbox.post(future))
            try:
                yield from future
            except asyncio.CancelledError:
                with self._lock:
                    self._waiters -= 1
                    alone = self._waiters == 0 and len(self._callbacks or ()) == 1
                if alone:
                    self.cancel()  # nobody else waits
                raise
        return self._outcome()

    def cancel(self) -> bool:
        """Give up on it: a call that waits is taken out of its queue, an async handler that runs is cancelled.

        False when it was done before.
        """
        if not self._complete(_FAILED, concurrent.futures.CancelledError("the call was cancelled")):
            return False
        if self._caller is not None:
            self._caller.cancel(self)
        return True

    # --- inside -----------------------------------------------------------------------------------------------------

    def packed(self) -> tuple[bytes, Any]:
        """(skeleton, body) of the result that has arrived; raises what it failed with."""
        self._raise_failure()
        with self._lock:
            if self._state == _PACKED:
                return self._content, self._body
        # It was read already, and only the value is kept.
        from .values import Packer

        packer = Packer()
        [skeleton], body = packer.finish([packer.pack(self._content, "an answer")])
        return skeleton, body

    def failure(self) -> BaseException | None:
        """What it has failed with; None while it has not."""
        error = self._content
        return error if self._state == _FAILED else None

    def arrived(self, result: Result, head: bytes, body: Any) -> None:
        """The fabric's terminal answer."""
        if result.kind == KIND_VALUE and result.status == 200:
            self._complete(_PACKED, head, body)
        elif result.kind == KIND_FAULT:
            self._complete(_FAILED, unpack_fault(head, body))
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
        self._flight = None
        for callback in callbacks or ():
            callback(self)
        return True

    def _when_done(self, callback: Callable[[ServeAnswer], None]) -> None:
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

    def _outcome(self) -> Any:
        self._raise_failure()
        if self._state == _PACKED:
            with self._lock:
                if self._state == _PACKED:
                    try:
                        self._content = unpack(self._content, self._body)
                        self._state = _VALUE
                    except ServeError as error:
                        self._content = error
                        self._state = _FAILED
                    self._body = b""
            self._raise_failure()
        return self._content

    def _raise_failure(self) -> None:
        if self._state == _FAILED:
            error: BaseException = self._content
            raise error


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

    __slots__ = ("__weakref__", "_arrived", "_signalled", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._signalled = False

    def post(self, future: asyncio.Future[None]) -> None:
        self._arrived.append(future)
        if not self._signalled:
            self._signalled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._arrived.clear()  # the loop is closed: nobody waits there any more

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

"""Calling the user's code: requests in, one answer for each out, whatever the code does."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..errors import ApplicationError, ServeError
from ..http.answers import KIND_TEXT, ORIGIN_CODE, ORIGIN_REPLICA, Answer
from ..http.head import decode_head
from ..wire.codec import LARGE
from ..wire.messages import FLAG_WEB
from . import lifecycle
from .callables import Callee, Callees, accepts_batch
from .encode import NotEncodable, Streamable, encode, encode_dicts, encode_response, streamable
from .frames import user_traceback
from .runs import HeldCall

__all__ = ["Handler", "HandlerExit"]

log = logging.getLogger("zserve.handler")

_MAX_KWARGS = 1000
_ONLY_DICTS = {dict}


class HandlerExit(BaseException):
    """User code called ``sys.exit()`` in a handler: the replica has to end.  Carries the answers of the run."""

    def __init__(self, reason: str, answers: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answers = answers


class Handler:
    """The user's function or instance, ready to be called.

    *loop* is where coroutines that a plain function returns are run (None: such a function fails).
    """

    def __init__(
        self,
        target: Any,
        backend: str = "",
        init_args: Sequence[Any] = (),
        init_kwargs: dict[str, Any] | None = None,
        *,
        debug: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Construct the class, if it is one; run this where user code may run for long, not on the loop.

        Raises ApplicationError with the user's traceback when the constructor fails.
        """
        self.backend = backend
        self.debug = debug
        self.is_class = inspect.isclass(target)
        self.loop = loop
        self.instance: Any = target
        if self.is_class:
            self.instance = lifecycle.construct(target, backend, init_args, init_kwargs or {}, loop)
        elif init_args or init_kwargs:
            raise ApplicationError(f"backend {backend!r} is a function: it takes no constructor arguments")
        self.callees = Callees(self.instance, is_class=self.is_class, batch=accepts_batch(target))
        self.accepts_batch = self.callees.any_batch()
        self.asynchronous = self.callees.any_asynchronous()
        self.mixed = self.callees.mixed()
        self._request_class: Callable[[bytes, bytes], Any] | None = None
        self._reads_json = False  # as of the batch before

    def warm(self) -> None:
        """Import what the first call would import (werkzeug, 40 ms)."""
        from .request import ServeRequest

        self._request_class = ServeRequest

    def reconfigure(self, user_config: Any) -> None:
        """Give *user_config* to the instance's ``reconfigure``.  Raises ApplicationError; not on the loop."""
        lifecycle.reconfigure(self.instance, self.backend, user_config, self.loop)

    @property
    def checks_health(self) -> bool:
        """Whether there is a ``check_health`` to be called now and then."""
        return self.is_class and callable(getattr(self.instance, "check_health", None))

    def check_health(self) -> str:
        """What is wrong with the instance ("" if nothing is); the traceback goes to the log.  Not on the loop."""
        trouble, shown = lifecycle.check_health(self.instance, self.loop)
        if trouble:
            log.error("backend %r is not well: %s", self.backend, shown.rstrip() or trouble)
        return trouble

    def close(self) -> None:
        """The instance's ``close()``, and then its ``__del__``: nothing here refers to it then.  Not on the loop."""
        if not self.is_class:
            return
        trouble = lifecycle.close(self.instance, self.loop)
        if trouble:
            log.error("close() of backend %r failed:\n%s", self.backend, trouble.rstrip())
        self.callees = Callees(_closed, is_class=False, batch=False)
        self.instance = None
        gc.unfreeze()
        gc.collect()  # an instance in a reference cycle

    def is_asynchronous(self, method: str) -> bool:
        """Whether a call of *method* has to run on the event loop."""
        callee = self.callees.get(method)
        return callee is not None and callee.asynchronous

    def is_other(self, method: str) -> bool:
        """Of a class that mixes sync and async methods: whether *method* is not of the kind of the main one."""
        return self.is_asynchronous(method) != self.asynchronous

    # --- calling ----------------------------------------------------------------------------------------------------

    def run(self, calls: list[HeldCall]) -> list[Answer] | Streamable:
        """Call user code in this thread; one answer for each call, or for a single one what is to be streamed.

        Raises nothing but HandlerExit."""
        try:
            callee = self.callees.get(calls[0].method)
            if callee is None:
                return [self._unknown(call) for call in calls]
            if callee.batch:
                value = self._call_batch(callee, calls)
                if type(value) is not list and inspect.isawaitable(value):
                    value = self._await(value)
                return self._split(value, calls)
            if len(calls) != 1:
                return self._separately([self.run([call]) for call in calls])
            call = calls[0]
            value = self._call_one(callee, call)
            if not call.flags & FLAG_WEB:
                if inspect.isawaitable(value):
                    value = self._await(value)
                if type(value) is types.AsyncGeneratorType:
                    value = self._await(_for_handles().collect_async(value))
                return [self._answer(value, call)]
            kind = type(value)
            if kind is str or kind is dict:
                return [encode(value)]
            if inspect.isawaitable(value):
                value = self._await(value)
            return streamable(value) or [encode(value)]
        except HandlerExit:
            raise
        except BaseException as error:
            return self.failed(error, calls)

    async def run_async(self, calls: list[HeldCall]) -> list[Answer] | Streamable:
        """The same on the event loop, for a callable that is asynchronous.  A cancelled one answers 499."""
        try:
            callee = self.callees.get(calls[0].method)
            if callee is None:
                return [self._unknown(call) for call in calls]
            if callee.batch:
                value = self._call_batch(callee, calls)
                if inspect.isawaitable(value):
                    value = await value
                if type(value) is types.AsyncGeneratorType:
                    value = [item async for item in _bounded_async(value, len(calls) + 1)]
                return self._split(value, calls)
            if len(calls) != 1:
                return self._separately([await self.run_async([call]) for call in calls])
            call = calls[0]
            value = self._call_one(callee, call)
            if inspect.isawaitable(value):
                value = await value
            if not call.flags & FLAG_WEB:
                if type(value) is types.AsyncGeneratorType:
                    value = await _for_handles().collect_async(value)
                return [self._answer(value, call)]
            return streamable(value) or [encode(value)]
        except HandlerExit:
            raise
        except BaseException as error:
            return self.failed(error, calls)

    def _separately(self, each: list[list[Answer] | Streamable]) -> list[Answer]:
        """The answers of calls that came as a batch for a callable that takes no batches."""
        answers: list[Answer] = []
        for one in each:
            if isinstance(one, Streamable):
                raise NotEncodable("a generator cannot be the answer to one of several calls in a batch")
            answers += one
        return answers

    def _call_one(self, callee: Callee, call: HeldCall) -> Any:
        if callee.plain and call.flags & FLAG_WEB:
            # It takes the request or nothing: no need to decode the path's variables, unless one has that name.
            if not callee.wants_request:
                return callee.function()
            if not callee.first or callee.first_key not in call.head:
                return callee.function(self._request(call))
        given = self._keywords(callee, call)
        if not callee.wants_request or callee.first in given:
            return callee.function(**given)
        if callee.plain:  # keywords of a handle call that it finds in request.args
            return callee.function(self._request(call))
        return callee.function(self._request(call), **given)

    def _call_batch(self, callee: Callee, calls: list[HeldCall]) -> Any:
        """The list of requests, and each keyword as a list aligned with it (None where a request has it not)."""
        given: dict[str, Any] = {}
        if not callee.plain or not _all_web(calls):
            each = [self._keywords(callee, call) for call in calls]
            names = sorted({name for one in each for name in one} - {callee.first})
            if callee.plain and callee.wants_request:
                names = []  # they are in request.args
            given = {name: [one.get(name) for one in each] for name in names}
        if not callee.wants_request:
            return callee.function(**given)
        requests = self._requests(calls)
        value = callee.function(requests, **given)
        self._reads_json = getattr(requests[0], "asked_for_json", False) if requests else False
        return value

    def prepare(self, calls: list[HeldCall]) -> None:
        """Make the requests of a batch that waits for the one before it, and parse their bodies if that one's were:
        what is done here the handler does not wait for between the two.  On the loop."""
        made = self._request_class
        if made is None or not self._reads_json or not _all_web(calls):
            return
        for call in calls:
            if len(call.body) < LARGE:
                call.request = request = made(call.head, call.body)
                request.look_ahead()

    def _requests(self, calls: list[HeldCall]) -> list[Any]:
        made = self._request_class
        if made is None or not _all_web(calls):
            return [self._request(call) for call in calls]
        return [call.request or made(call.head, call.body) for call in calls]

    def _request(self, call: HeldCall) -> Any:
        if not call.flags & FLAG_WEB:
            return _for_handles().HandleRequest(call.head, call.body)
        if self._request_class is None:
            self.warm()
        return self._request_class(call.head, call.body)  # type: ignore[misc]

    def _keywords(self, callee: Callee, call: HeldCall) -> dict[str, Any]:
        """Those path variables that the callable takes, and all keywords of a handle call."""
        try:
            head = decode_head(call.head)
            named: dict[str, Any] = _for_handles().read_keywords(head, call.body) if head.kwargs else {}
        except (msgspec.MsgspecError, ServeError) as error:
            raise _Malformed(str(error)) from None
        if len(named) > _MAX_KWARGS:
            raise _Malformed(f"{len(named)} keyword arguments")
        takes = callee.keywords
        given: dict[str, Any] = {
            name: value for name, value in head.params.items() if takes is None or name in takes or name == callee.first
        }
        given.update(named)
        return given

    def _await(self, awaitable: Awaitable[Any]) -> Any:
        """What a plain function returned turns out to be a coroutine: run it on the loop, wait for it here."""
        if self.loop is None:
            raise NotEncodable(f"the handler returned {type(awaitable).__name__} and there is no event loop to run it")

        async def settle() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(settle(), self.loop).result()

    # --- answers ----------------------------------------------------------------------------------------------------

    def _answer(self, value: Any, call: HeldCall) -> Answer:
        """For one call of a batch, or a call through a handle: Python values go back as what they are."""
        if call.flags & FLAG_WEB:
            return encode(value)
        if type(value) is types.GeneratorType:
            value = _for_handles().collect(value)
        answer: Answer = _for_handles().answer_value(value)
        return answer

    def _split(self, value: Any, calls: list[HeldCall]) -> list[Answer]:
        """The list that a batch callable returned, item by item."""
        if isinstance(value, types.GeneratorType):
            value = list(_bounded(value, len(calls) + 1))
        elif type(value).__module__ == "numpy" and getattr(value, "ndim", 0) >= 1:
            value = list(value)
        if not isinstance(value, (list, tuple)):
            given = f"was given {len(calls)} requests and returned a value of type {type(value).__qualname__}"
            raise NotEncodable(f"the batch handler {given}, not a list")
        if len(value) != len(calls):
            raise NotEncodable(f"the batch handler was given {len(calls)} requests and returned {len(value)} results")
        if set(map(type, value)) == _ONLY_DICTS and _all_web(calls):
            try:
                return encode_dicts(value)
            except NotEncodable:
                pass  # by itself then, for each answer of its own
        answers = []
        for item, call in zip(value, calls, strict=True):
            try:
                failed = isinstance(item, Exception)
                answers.append(self.failed(item, [call])[0] if failed else self._answer(item, call))
            except Exception as error:
                answers.append(self.failed(error, [call])[0])
        return answers

    def _unknown(self, call: HeldCall) -> Answer:
        names = ", ".join(self.callees.public()) or "none"
        what = f"has no public method {call.method!r}" if call.method else "cannot be called without a method name"
        text = f"backend {self.backend!r} {what}; its public methods: {names}"
        return 404, KIND_TEXT, b"", text.encode(errors="replace"), ORIGIN_REPLICA

    def failed(self, error: BaseException, calls: list[HeldCall]) -> list[Answer]:
        """The same answer for all *calls* but for the request id; the traceback goes to the log."""
        if isinstance(error, asyncio.CancelledError):
            return [(499, KIND_TEXT, b"", b"cancelled", ORIGIN_REPLICA)] * len(calls)
        if isinstance(error, _Malformed):
            text = f"malformed request head: {error}".encode(errors="replace")
            return [(400, KIND_TEXT, b"", text, ORIGIN_REPLICA)] * len(calls)
        answer = _http_answer(error)
        if answer is not None and all(call.flags & FLAG_WEB for call in calls):
            return [answer] * len(calls)
        shown = user_traceback(error)
        ids = [_request_id(call) for call in calls]
        log.error("backend %r failed on request %s:\n%s", self.backend, ", ".join(ids), shown.rstrip())
        if isinstance(error, NotEncodable):
            what = str(error)
        elif isinstance(error, SystemExit):
            what = f"the handler called sys.exit({error.code!r}); its replica ends and is replaced"
        else:
            what = f"the handler of backend {self.backend!r} raised an exception; the log has the traceback"
        detail = f"\n\n{shown}" if self.debug else ""
        texts = [f"{what} (request {one}){detail}".encode(errors="replace") for one in ids]
        answers: list[Answer] = [(500, KIND_TEXT, b"", text, ORIGIN_REPLICA) for text in texts]
        if isinstance(error, SystemExit):
            raise HandlerExit(what, answers) from None
        if answer is not None:
            answers = [answer] * len(calls)
        if not isinstance(error, NotEncodable):
            for index, call in enumerate(calls):
                if not call.flags & FLAG_WEB:
                    answers[index] = _for_handles().answer_fault(error, shown)
        return answers

    def broke_off(self, error: BaseException, call: HeldCall) -> None:
        """A generator raised when part of its answer had left: all that is left to do is to log it."""
        if isinstance(error, asyncio.CancelledError):
            return
        text = "backend %r failed in the middle of streaming the answer to request %s, which breaks off:\n%s"
        log.error(text, self.backend, _request_id(call), user_traceback(error).rstrip())


def _all_web(calls: list[HeldCall]) -> bool:
    flags = FLAG_WEB
    for call in calls:
        flags &= call.flags
    return bool(flags)


def _closed() -> None:
    """Stands where the instance was."""


class _Malformed(Exception):
    """The request's head can not be decoded."""


@functools.cache
def _for_handles() -> types.ModuleType:
    """Loaded when the first handle call comes: most replicas never get one."""
    from . import handle_request

    return handle_request


def _http_answer(error: BaseException) -> Answer | None:
    """werkzeug's ``abort(…)`` and its own errors (a form that is malformed) are answers of their own."""
    known = getattr(sys.modules.get("werkzeug.exceptions"), "HTTPException", None)
    if known is None or not isinstance(error, known):
        return None
    try:
        answer = encode_response(error.get_response())
    except Exception:  # code None, or a broken response: an error like any other
        return None
    return answer if answer[0] < 500 else (*answer[:4], ORIGIN_CODE)


def _request_id(call: HeldCall) -> str:
    """The client's X-Request-Id, which the gateway has made if there was none, else our own."""
    try:
        for name, value in decode_head(call.head).headers:
            if name == b"x-request-id":
                return value.decode("latin-1")
    except (msgspec.MsgspecError, UnicodeError):
        pass
    return call.id.hex()


def _bounded(values: Iterator[Any], limit: int) -> Iterator[Any]:
    for value, _ in zip(values, range(limit), strict=False):
        yield value


async def _bounded_async(values: AsyncGenerator[Any, None], limit: int) -> AsyncGenerator[Any, None]:
    try:
        async for value in values:
            yield value
            limit -= 1
            if not limit:
                return
    finally:
        await values.aclose()

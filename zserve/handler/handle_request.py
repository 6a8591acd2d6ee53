"""A call through a handle, as the handler sees it and as it is answered: Python values, and no HTTP."""

from __future__ import annotations

import types
from typing import Any

import msgspec
import orjson
from werkzeug.datastructures import Headers, ImmutableMultiDict
from werkzeug.exceptions import BadRequest

from ..handles.faults import pack_fault
from ..handles.kinds import KIND_FAULT, KIND_VALUE
from ..handles.values import NotDecodable, Packer, unpack
from ..http.answers import ORIGIN_CODE, ORIGIN_REPLICA, Answer
from ..http.head import RequestHead, decode_head

__all__ = ["HandleRequest", "answer_fault", "answer_value", "collect", "collect_async", "read_keywords"]

MAX_ITEMS = 1_000_000
"""A generator comes to a handle's caller as a list, of at most so many items."""

_UNREAD = object()


class HandleRequest:
    """What a handler is given in place of a werkzeug Request; it looks like one as far as that makes sense.

    data: the argument of ``remote()``.
    json: the same; bytes are parsed as JSON.
    form: the items of a dict, without anything else.
    args: the keyword arguments of ``remote()``.
    headers, method: of ``options(http_headers=…, http_method=…)``, "GET" if nothing was said, with the request id and
        the trace context of the request that the call is a part of.
    """

    def __init__(self, head: bytes, body: bytes) -> None:
        self._raw_head = head
        self._body = body
        self._head: RequestHead | None = None
        self._data: Any = _UNREAD
        self._headers: Headers | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.method}]>"

    def _get_head(self) -> RequestHead:
        if self._head is None:
            try:
                self._head = decode_head(self._raw_head)
            except msgspec.MsgspecError as error:
                raise BadRequest(f"malformed request head: {error}") from None
        return self._head

    @property
    def data(self) -> Any:
        if self._data is _UNREAD:
            packed = self._get_head().data
            self._data = unpack(packed, self._body) if packed else None
        return self._data

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """:attr:`data`; with *as_text*, bytes are decoded."""
        data = self.data
        return data.decode(errors="replace") if as_text and isinstance(data, bytes) else data

    @property
    def json(self) -> Any:
        return self.get_json()

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """As werkzeug's; *force* is not needed."""
        data = self.data
        if not isinstance(data, bytes):
            return data
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if silent:
                return None
            raise BadRequest(f"Failed to decode JSON object: {error}") from None

    @property
    def is_json(self) -> bool:
        return True

    @property
    def form(self) -> ImmutableMultiDict[Any, Any]:
        data = self.data
        return ImmutableMultiDict(list(data.items()) if isinstance(data, dict) else ())

    @property
    def args(self) -> ImmutableMultiDict[str, Any]:
        return ImmutableMultiDict(list(read_keywords(self._get_head(), self._body).items()))

    @property
    def view_args(self) -> dict[str, Any]:
        """A handle call has no path."""
        return {}

    @property
    def method(self) -> str:
        return self._get_head().http_method

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            pairs = self._get_head().headers
            self._headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
        return self._headers


def read_keywords(head: RequestHead, body: bytes) -> dict[str, Any]:
    """The keyword arguments of a handle call.  Raises NotDecodable."""
    if not head.kwargs:
        return {}
    keywords = unpack(head.kwargs, body)
    if not isinstance(keywords, dict) or not all(isinstance(name, str) for name in keywords):
        raise NotDecodable("keyword arguments that are not named")
    return keywords


def answer_value(value: Any) -> Answer:
    """What the handler returned.  Raises TypeError or ValueError for something that cannot be sent."""
    packer = Packer()
    skeleton = packer.pack(value, "the handler's result")
    if packer.waiting or packer.failed is not None:
        raise TypeError("the handler's result holds an answer of another call; return its result() or await it")
    [head], body = packer.finish([skeleton])
    return 200, KIND_VALUE, head, body, ORIGIN_CODE


def answer_fault(error: BaseException, traceback: str) -> Answer:
    """The exception that the handler raised, for the caller to raise again."""
    head, body = pack_fault(error, traceback)
    code = getattr(error, "code", None)  # of werkzeug's HTTPException
    status = code if type(code) is int and 400 <= code <= 599 and isinstance(error, Exception) else 500
    return status, KIND_FAULT, head, body, ORIGIN_REPLICA


def collect(items: types.GeneratorType[Any, Any, Any]) -> list[Any]:
    """All that a generator yields."""
    collected = []
    try:
        for item in items:
            collected.append(item)
            if len(collected) > MAX_ITEMS:
                raise ValueError(f"the handler's generator yielded more than {MAX_ITEMS} items")
    finally:
        items.close()
    return collected


async def collect_async(items: types.AsyncGeneratorType[Any, Any]) -> list[Any]:
    collected = []
    try:
        async for item in items:
            collected.append(item)
            if len(collected) > MAX_ITEMS:
                raise ValueError(f"the handler's generator yielded more than {MAX_ITEMS} items")
    finally:
        await items.aclose()
    return collected

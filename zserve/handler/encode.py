"""What a handler returned, as an answer: the table under "Returns" of the contract with users.

None                            empty body
str                             text/plain; charset=utf-8
bytes, bytearray, memoryview    text/plain, no charset
werkzeug Response               as it is: status, headers, cookies
(body, status[, headers])       the body encoded as by this table, with another status and more headers
generator, iterator             its items (str or bytes), streamed; so is an iterable body of a Response
anything else                   JSON by orjson: dataclasses, datetime, UUID, NumPy, pydantic models
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from ..http.answers import (
    CONTENT_TYPES,
    KIND_BYTES,
    KIND_EMPTY,
    KIND_HEADERS,
    KIND_JSON,
    KIND_TEXT,
    ORIGIN_CODE,
    Answer,
    decode_headers,
    encode_headers,
)

__all__ = [
    "MAX_COLLECTED_BYTES",
    "NotEncodable",
    "Streamable",
    "chunk_bytes",
    "encode",
    "encode_dicts",
    "encode_response",
    "finish_stream",
    "streamable",
]

MAX_COLLECTED_BYTES = 64 << 20
"""A generator's items together, where they have to fit into one body: in a batch, or for one who asked by handle."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
_BODILESS = frozenset((204, 205, 304))
_PLAIN = frozenset((str, dict, list, bytes, int, float, bool, type(None)))
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE = re.compile(rb"[\r\n\0]")
_CONNECTION_FIELDS = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade")
)  # fmt: skip
"""Fields about the connection (RFC 9110, 7.6.1) or the framing: the gateway writes its own."""


class NotEncodable(Exception):
    """The handler returned something that is not an answer; the text says what and where."""


def encode(value: Any) -> Answer:
    """*value* as (status, kind, head, body, origin).  Raises NotEncodable."""
    kind = type(value)
    if kind is str:
        return 200, KIND_TEXT, b"", _text(value), ORIGIN_CODE
    if kind is dict or kind is list:
        return 200, KIND_JSON, b"", _json(value), ORIGIN_CODE
    if kind is bytes:
        return 200, KIND_BYTES, b"", value, ORIGIN_CODE
    if value is None:
        return 200, KIND_EMPTY, b"", b"", ORIGIN_CODE
    if kind is tuple and _has_status(value):
        return _with_status(*value)
    if isinstance(value, str):
        return 200, KIND_TEXT, b"", _text(value), ORIGIN_CODE
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 200, KIND_BYTES, b"", bytes(value), ORIGIN_CODE
    if kind is types.GeneratorType:
        return _collect(value)
    if _is_response(value):
        return encode_response(value)
    return 200, KIND_JSON, b"", _json(value), ORIGIN_CODE


def encode_dicts(values: Iterable[dict[Any, Any]]) -> list[Answer]:
    """The answers of a batch that are all JSON objects, in one go: the next batch waits for this.

    Raises NotEncodable when one of them is not."""
    dumps = orjson.dumps
    try:
        return [(200, KIND_JSON, b"", dumps(value, _default, _OPTIONS), ORIGIN_CODE) for value in values]
    except (TypeError, ValueError, RecursionError) as error:
        raise NotEncodable(str(error)) from None


def _is_response(value: Any) -> bool:
    response_class = getattr(sys.modules.get("werkzeug.wrappers.response"), "Response", None)
    return response_class is not None and isinstance(value, response_class)


def _text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise NotEncodable(f"the handler returned a str that is not valid Unicode: {error}") from None


# --- status and headers -----------------------------------------------------------------------------------------------


def _has_status(value: tuple[Any, ...]) -> bool:
    """(body, status[, headers]), and not just a tuple of two or three values."""
    if len(value) not in (2, 3):
        return False
    status = value[1]
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        return False
    return len(value) == 2 or value[2] is None or isinstance(value[2], (Mapping, list, tuple)) or _is_headers(value[2])


def _is_headers(value: Any) -> bool:
    return callable(getattr(value, "items", None))  # werkzeug's Headers is no Mapping


def _with_status(body: Any, status: int, headers: Any = None) -> Answer:
    _, kind, head, content, origin = encode(body)
    status = int(status)
    if headers:
        kind, head = _with_headers(kind, head, _given(headers))
    if status in _BODILESS:
        content = b""
        if kind != KIND_HEADERS:
            kind = KIND_EMPTY
    return status, kind, head, content, origin


def _given(headers: Any) -> list[tuple[bytes, bytes]]:
    return [_check_header(name, value) for name, value in _pairs(headers)]


def _with_headers(kind: int, head: bytes, given: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """The headers of an answer of *kind* with *given* ones laid over them."""
    pairs = decode_headers(head) if kind == KIND_HEADERS else []
    content_type = CONTENT_TYPES[kind]
    if content_type is not None:
        pairs.append((b"content-type", content_type))
    names = {name for name, _ in given}
    pairs = [pair for pair in pairs if pair[0] not in names or pair[0] == b"set-cookie"]
    return KIND_HEADERS, encode_headers(pairs + [pair for pair in given if pair[0] not in _CONNECTION_FIELDS])


def _pairs(headers: Any) -> Iterator[tuple[Any, Any]]:
    """(name, value) pairs of a mapping (a list as value: several lines), of pairs, or of werkzeug Headers."""
    items: Iterable[Any] = headers.items() if hasattr(headers, "items") else headers
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise NotEncodable(f"the handler returned headers with {item!r} in them, which is not a (name, value) pair")
        name, value = item
        if isinstance(value, (list, tuple)):
            for one in value:
                yield name, one
        else:
            yield name, value


def _check_header(name: Any, value: Any) -> tuple[bytes, bytes]:
    """A header pair as bytes.  Line breaks would let a value add headers of its own (response splitting)."""
    try:
        raw_name = name if isinstance(name, bytes) else name.encode("ascii")
        raw_value = value if isinstance(value, bytes) else str(value).encode("latin-1")
    except (AttributeError, UnicodeEncodeError):
        raise NotEncodable(f"the handler returned a header that is not Latin-1 text: {name!r}: {value!r}") from None
    if not _TOKEN.fullmatch(raw_name):
        raise NotEncodable(f"the handler returned a header with the name {name!r}, which is not a valid one")
    if _UNSAFE.search(raw_value):
        raise NotEncodable(f"the handler returned a header {name!r} with a line break or NUL in its value")
    return raw_name.lower(), raw_value.strip()


def encode_response(response: Any) -> Answer:
    """A werkzeug Response as it is."""
    status = _status_of(response)
    try:
        body = b"" if status in _BODILESS else _collect(response.iter_encoded())[3]
    finally:
        response.close()
    return status, KIND_HEADERS, _head_of(response), body, ORIGIN_CODE


def _status_of(response: Any) -> int:
    status: int = response.status_code
    if not 200 <= status <= 599:
        raise NotEncodable(f"the handler returned a Response with status {status}; it must be 200..599")
    return status


def _head_of(response: Any) -> bytes:
    pairs = [_check_header(name, value) for name, value in response.headers.items()]
    return encode_headers([pair for pair in pairs if pair[0] not in _CONNECTION_FIELDS])


# --- generators -------------------------------------------------------------------------------------------------------


class Streamable:
    """An answer whose body is produced item by item.

    items: an iterator, or an asynchronous one where *asynchronous* says so.  eager: the headers leave before the first
    item, as a reader of server-sent events expects.  :meth:`close` ends the generator; what it returns is to be awaited
    where that is possible.
    """

    __slots__ = ("_close", "asynchronous", "eager", "given", "head", "items", "kind", "status")

    def __init__(self, items: Any, status: int = 200, close: Callable[[], Any] | None = None) -> None:
        self.items = items
        self.asynchronous = hasattr(type(items), "__anext__")
        self.status = status
        self.kind: int | None = None  # as the first item says
        self.head = b""
        self.given: list[tuple[bytes, bytes]] = []
        self.eager = False
        self._close = close

    def close(self) -> Any:
        """Run the generator's ``finally`` clauses, and whatever a Response has to do at its end."""
        end = getattr(self.items, "aclose" if self.asynchronous else "close", None)
        if self._close is None:
            return None if end is None else end()
        if not self.asynchronous or end is None:
            try:
                if end is not None:
                    end()
            finally:
                self._close()
            return None
        return _close_both(end, self._close)


async def _close_both(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    try:
        await first()
    finally:
        second()


def streamable(value: Any) -> Streamable | None:
    """*value* as a stream, if it is something that is produced item by item; None for any other answer."""
    kind = type(value)
    if kind in _PLAIN:
        return None
    if kind is tuple and _has_status(value):
        found = streamable(value[0])
        if found is None:
            return None
        if len(value) == 3 and value[2]:
            found.given = _given(value[2])
        found.status = int(value[1])
        found.eager = found.eager or any(
            name == b"content-type" and content.startswith(b"text/event-stream") for name, content in found.given
        )
        return _checked(found)
    if _is_response(value):
        if value.is_sequence:
            return None
        body = value.response
        items = body.__aiter__() if hasattr(type(body), "__aiter__") else iter(value.iter_encoded())
        found = Streamable(items, _status_of(value), value.close)
        found.kind = KIND_HEADERS
        found.head = _head_of(value)
        found.eager = value.mimetype == "text/event-stream"
        return _checked(found)
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return Streamable(value)
    return None


def _checked(found: Streamable) -> Streamable:
    """Some statuses have no body: the generator is not even started then."""
    if found.status in _BODILESS:
        found.items = iter(())
        found.asynchronous = found.eager = False
    return found


def finish_stream(value: Streamable, kind: int | None, body: bytes) -> Answer:
    """The beginning (or all) of a streamed answer; *kind* is that of its first item, None if there is none."""
    kind, head = (KIND_EMPTY if kind is None else kind) if value.kind is None else value.kind, value.head
    if value.given:
        kind, head = _with_headers(kind, head, value.given)
    return value.status, kind, head, body, ORIGIN_CODE


def _collect(chunks: Iterable[Any]) -> Answer:
    """All chunks in one body; text if the first one is a str."""
    first = KIND_EMPTY
    parts: list[bytes] = []
    size = 0
    try:
        for chunk in chunks:
            part, kind = chunk_bytes(chunk)
            first = first if parts else kind
            size += len(part)
            if size > MAX_COLLECTED_BYTES:
                raise NotEncodable(f"the handler's generator made more than {MAX_COLLECTED_BYTES} bytes")
            parts.append(part)
    finally:
        close: Callable[[], None] | None = getattr(chunks, "close", None)
        if close is not None:
            close()
    return 200, first, b"", b"".join(parts), ORIGIN_CODE


def chunk_bytes(chunk: Any) -> tuple[bytes, int]:
    """One chunk of a generator, and the kind of answer that it makes.  Raises NotEncodable."""
    if isinstance(chunk, str):
        return _text(chunk), KIND_TEXT
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk), KIND_BYTES
    raise NotEncodable(f"the handler's generator yielded {_name(chunk)}; chunks are str or bytes")


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, _default, _OPTIONS)
    except (TypeError, ValueError, RecursionError) as first:  # orjson.JSONEncodeError is a TypeError
        try:
            # Keys that are no strings (slower, so only when needed): numbers, dates, UUIDs, enums, None.
            return orjson.dumps(value, _default, _OPTIONS | orjson.OPT_NON_STR_KEYS)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotEncodable(_explain(value, error)) from first.__cause__


def _default(value: Any) -> Any:
    """What orjson does not know itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):  # pydantic 2
        return dump(mode="json")
    tolist = getattr(value, "tolist", None)
    if tolist is not None and type(value).__module__ == "numpy":  # of a dtype or layout that orjson does not take
        return tolist()
    if getattr(value, "__fields__", None) is not None and not isinstance(value, type):  # pydantic 1
        return value.dict()
    raise TypeError


def _explain(value: Any, error: BaseException) -> str:
    found = _find(value, "", 0, [10_000])
    if found is None:
        return f"the handler returned {_name(value)}, which cannot be encoded as JSON: {error}"
    culprit, path, why = found
    where = f" at result{path}" if path else ""
    return f"the handler returned {_name(culprit)}{where}, which cannot be encoded as JSON{why}"


def _find(value: Any, path: str, depth: int, budget: list[int]) -> tuple[Any, str, str] | None:
    """The innermost part of *value* that is not encodable: (it, its path, why)."""
    budget[0] -= 1
    if budget[0] < 0 or depth > 50:
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            try:
                orjson.dumps({key: None}, option=_OPTIONS | orjson.OPT_NON_STR_KEYS)
            except (TypeError, ValueError):
                return key, path, " as a key"
            found = _find(item, f"{path}[{_short(key)}]", depth + 1, budget)
            if found is not None:
                return found
        return None
    if type(value) in (list, tuple):
        for index, item in enumerate(value):
            found = _find(item, f"{path}[{index}]", depth + 1, budget)
            if found is not None:
                return found
        return None
    try:
        orjson.dumps(value, _default, _OPTIONS | orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        fields = getattr(value, "__dataclass_fields__", None)
        if fields and not isinstance(value, type):
            for name in fields:
                found = _find(getattr(value, name, None), f"{path}.{name}", depth + 1, budget)
                if found is not None:
                    return found
        return value, path, f": {error}" if isinstance(value, (int, float, str)) else ""
    return None


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:37] + "..."


def _name(value: Any) -> str:
    """The type of a value, with its module where that helps."""
    kind = type(value)
    if kind.__module__ in ("builtins", "__main__"):
        return f"a value of type {kind.__qualname__}"
    return f"a value of type {kind.__module__}.{kind.__qualname__}"

"""Packed values back into values (see :mod:`zserve.handles.values` for the format).

Decoding is total: whatever the bytes, :func:`unpack` returns a value or raises :class:`NotDecodable`, in time and
memory that the length of the message bounds.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import ServeError
from . import arrays
from .codes import (
    ARRAY,
    BIGINT,
    BYTEARRAY,
    BYTES,
    COMPLEX,
    DATACLASS,
    DATE,
    DATETIME,
    DECIMAL,
    FROZENSET,
    MAP,
    NESTED,
    PLACE,
    REGISTERED,
    RESPONSE,
    SCALAR,
    SET,
    TIME,
    TIMEDELTA,
    TUPLE,
    UUID,
)
from .named import find_class, registered_as

__all__ = ["NotDecodable", "unpack"]

_decode = msgspec.msgpack.decode


class NotDecodable(ServeError):
    """The bytes are not a packed value, or name a type that this process does not have."""


def unpack(skeleton: bytes, body: bytes | memoryview = b"") -> Any:
    """The value.  Raises NotDecodable."""
    try:
        return _decode(skeleton, ext_hook=_Reader(body, len(skeleton)).extension)
    except NotDecodable:
        raise
    except RecursionError:
        raise NotDecodable("nested too deep") from None
    except Exception as error:
        raise NotDecodable(f"not a packed value: {type(error).__name__}: {error}") from None


class _Reader:
    """Reads one skeleton, whose places count from *start* and end before *end*.

    *left* is how many bytes of the body may still be referred to: as many as it has, for each is meant once.
    """

    __slots__ = ("_body", "_end", "_left", "_start")

    def __init__(self, body: bytes | memoryview, size: int) -> None:
        self._body = body
        self._start = 0
        self._end = len(body)
        self._left = [len(body) + size]

    def extension(self, code: int, data: memoryview) -> Any:
        read = _READ.get(code)
        if read is None:
            raise NotDecodable(f"a value of unknown kind {code}; is the other side a newer version of zserve?")
        return read(self, data)

    def load(self, data: bytes | memoryview) -> Any:
        return _decode(data, ext_hook=self.extension)

    def place(self, offset: Any, size: Any) -> tuple[int, int]:
        """Checked, and counted from the beginning of the body."""
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise NotDecodable("a place that is not one")
        start = self._start + offset
        if size and start + size > self._end:
            raise NotDecodable("a place outside of the body")
        self._left[0] -= size
        if self._left[0] < 0:
            raise NotDecodable("more content than the body has")
        return start, size

    def bytes(self, data: memoryview) -> Any:
        offset, size = self.load(data)
        start, size = self.place(offset, size)
        if size == len(self._body) and type(self._body) is bytes:
            return self._body
        return bytes(self._body[start : start + size])

    def array(self, data: memoryview) -> Any:
        meta, offset, size = self.load(data)
        start, size = self.place(offset, size)
        return arrays.array_from(meta, memoryview(self._body), start, size)

    def nested(self, data: memoryview) -> Any:
        offset, size, base, base_size = PLACE.unpack(data)
        start, size = self.place(offset, size)
        if base + base_size > self._end - self._start:
            raise NotDecodable("a place outside of the body")
        inner = _Reader.__new__(_Reader)
        inner._body = self._body
        inner._start = self._start + base
        inner._end = inner._start + base_size
        inner._left = self._left
        return inner.load(self._body[start : start + size])

    def dataclass(self, data: memoryview) -> Any:
        module, qualname, values = self.load(data)
        try:
            kind = find_class(module, qualname)
        except LookupError as error:
            raise NotDecodable(f"the dataclass {module}.{qualname} is not known here: {error}") from None
        if not dataclasses.is_dataclass(kind):
            raise NotDecodable(f"{module}.{qualname} is not a dataclass here")
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(values, dict) or values.keys() != names:
            raise NotDecodable(f"{module}.{qualname} has other fields here: {', '.join(sorted(names))}")
        made = object.__new__(kind)
        for name, value in values.items():
            object.__setattr__(made, name, value)  # frozen ones too; __init__ has run where it was made
        return made

    def registered(self, data: memoryview) -> Any:
        name, value = self.load(data)
        try:
            known = registered_as(name)
        except LookupError as error:
            raise NotDecodable(str(error)) from None
        try:
            return known.decode(value)
        except Exception as error:
            raise NotDecodable(f"decode() of the registered type {name!r} failed: {error!r}") from error

    def response(self, data: memoryview) -> Any:
        from werkzeug.wrappers import Response

        status, headers, content = self.load(data)
        return Response(content, status, [(name, value) for name, value in headers])

    def datetime(self, data: memoryview) -> Any:
        text, fold, zone = self.load(data)
        value = datetime.datetime.fromisoformat(text)
        if zone is not None:
            value = value.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        return value.replace(fold=fold)

    def time(self, data: memoryview) -> Any:
        text, fold = self.load(data)
        return datetime.time.fromisoformat(text).replace(fold=fold)


def _text(data: memoryview) -> str:
    return str(data, "utf-8")


_READ: dict[int, Callable[[_Reader, memoryview], Any]] = {
    TUPLE: lambda reader, data: tuple(reader.load(data)),
    SET: lambda reader, data: set(reader.load(data)),
    FROZENSET: lambda reader, data: frozenset(reader.load(data)),
    MAP: lambda reader, data: dict(reader.load(data)),
    DATETIME: _Reader.datetime,
    DATE: lambda reader, data: datetime.date.fromisoformat(_text(data)),
    TIME: _Reader.time,
    TIMEDELTA: lambda reader, data: datetime.timedelta(*reader.load(data)),
    UUID: lambda reader, data: uuid.UUID(bytes=bytes(data)),
    DECIMAL: lambda reader, data: decimal.Decimal(_text(data)),
    COMPLEX: lambda reader, data: complex(*struct.unpack("<dd", data)),
    BIGINT: lambda reader, data: int.from_bytes(data, "little", signed=True),
    BYTES: _Reader.bytes,
    BYTEARRAY: lambda reader, data: bytearray(data),
    ARRAY: _Reader.array,
    SCALAR: lambda reader, data: arrays.scalar_from(*reader.load(data)),
    DATACLASS: _Reader.dataclass,
    REGISTERED: _Reader.registered,
    NESTED: _Reader.nested,
    RESPONSE: _Reader.response,
}

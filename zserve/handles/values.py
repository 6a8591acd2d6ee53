"""What handles can send, as bytes: a typed codec on msgpack, with nothing pickled.

A packed value has two parts.  The *skeleton* is msgpack; what msgpack does not know stands in it as an extension (the
codes below).  The *body* holds the contents of arrays and of large bytes, one behind the other, aligned, so that they
are neither copied into the skeleton nor out of it: a large single array or bytes is the body.

    skeleton   [1, "two", ext(ARRAY: dtype, shape, order, offset, size)]
    body       <the array's memory>

:mod:`zserve.handles.reading` is the way back.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import os
import struct
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

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
from .named import importable_name, registered
from .reading import NotDecodable, unpack

if TYPE_CHECKING:
    from .answer import ServeAnswer

__all__ = ["SENDABLE", "NotDecodable", "Packer", "unpack"]

SENDABLE = (
    "None, bool, int, float, str, list, dict, bytes, tuple, set, datetime, UUID, Decimal, dataclasses of importable "
    "types, NumPy arrays and scalars, and types registered with serve.register_type"
)

INLINE_BYTES = 1024
"""Bytes up to this size stand in the skeleton."""
INLINE_SKELETON = 32 * 1024
"""A larger skeleton travels in the body, which may have a frame of its own."""
MAX_DEPTH = 100
_ALIGN = 16
_TOKEN = 24

_PLAIN: frozenset[type] = frozenset((str, int, float, bool, type(None)))
_PLAIN_BUT_INT = _PLAIN - {int}
_KEYS: frozenset[type] = frozenset((str, int, float, bool, type(None), bytes))
_encode = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext
_fields: dict[type, tuple[str, str, tuple[str, ...]]] = {}


class Unsendable(Exception):
    """What stands at *path* of a value cannot be sent."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path: list[str] = []


class Packer:
    """Packs the values of one message, which share a body.

    :meth:`pack` each, then :meth:`finish`.  In between, :attr:`waiting` are the answers among the values that are not
    there yet; they have to be before :meth:`finish` (see :mod:`zserve.handles.composition`).  :attr:`failed` is one
    that has failed, None if there is none.
    """

    __slots__ = ("_parts", "_plain", "_size", "_token", "failed", "waiting")

    def __init__(self) -> None:
        self.failed: ServeAnswer | None = None
        self.waiting: list[ServeAnswer] = []
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._plain = _PLAIN
        self._token = b""

    def pack(self, value: Any, what: str) -> bytes:
        """The skeleton of *value*.

        *what* names it in the TypeError or ValueError for something that cannot be sent; "" for a dict of arguments,
        which are named themselves.
        """
        before = len(self._parts), self._size, len(self.waiting)
        try:
            try:
                return _encode(self._prepare(value, 0))
            except OverflowError:
                # Somewhere in it is an integer of more than 64 bits: look at each.
                del self._parts[before[0] :], self.waiting[before[2] :]
                self._size = before[1]
                self._plain = _PLAIN_BUT_INT
                return _encode(self._prepare(value, 0))
            finally:
                self._plain = _PLAIN
        except Unsendable as error:
            if not what:
                what = error.path.pop()[2:-2]
            where = "".join(reversed(error.path))
            at = f" (at {where})" if where else ""
            raise TypeError(f"{what}: {error} cannot be sent{at}; what can: {SENDABLE}") from None
        except UnicodeEncodeError as error:
            text = f"holds a str that is not valid Unicode: {error}"
            raise ValueError(f"{what or 'a keyword argument'} {text}") from None
        except RecursionError:
            text = f"is nested over {MAX_DEPTH} deep, or holds itself"
            raise ValueError(f"{what or 'a keyword argument'} {text}") from None

    def finish(self, skeletons: Sequence[bytes]) -> tuple[list[bytes], Any]:
        """The skeletons as they travel, and the body they share (bytes, or a memoryview of the user's own memory)."""
        finished = []
        for skeleton in skeletons:
            for number, answer in enumerate(self.waiting):
                place = self._token + number.to_bytes(8, "little")
                if place in skeleton:
                    skeleton = skeleton.replace(place, self._place(*answer.packed()))
            if len(skeleton) > INLINE_SKELETON:
                skeleton = _encode(_Ext(NESTED, self._place(skeleton, None)))
            finished.append(skeleton)
        parts = self._parts
        return finished, b"" if not parts else parts[0] if len(parts) == 1 else b"".join(parts)

    # --- the body ---------------------------------------------------------------------------------------------------

    def _add(self, content: bytes | memoryview) -> int:
        """Where *content* stands in the body."""
        gap = -self._size % _ALIGN
        if gap:
            self._parts.append(bytes(gap))
        offset = self._size + gap
        if content:
            self._parts.append(content)
        self._size = offset + len(content)
        return offset

    def _place(self, skeleton: bytes, body: bytes | memoryview | None) -> bytes:
        """Add another packed value to the body, and say where; None: its body is what is there already."""
        start, size = (0, self._size) if body is None else (self._add(body), len(body))
        return PLACE.pack(self._add(skeleton), len(skeleton), start, size)

    # --- values -----------------------------------------------------------------------------------------------------

    def _prepare(self, value: Any, depth: int) -> Any:
        """*value* as msgspec can encode it without losing its type."""
        kind = type(value)
        if kind in self._plain:
            return value
        if depth > MAX_DEPTH:
            raise RecursionError
        if kind is dict:
            return self._dict(value, depth + 1)
        if kind is list:
            return self._list(value, depth + 1)
        known = registered(kind)
        if known is not None:
            return _Ext(REGISTERED, _encode([known.name, self._prepare(known.encode(value), depth + 1)]))
        prepare = _PREPARE.get(kind)
        if prepare is not None:
            return prepare(self, value, depth + 1)
        if arrays.is_array(value):
            return self._array(value)
        if arrays.is_scalar(value):
            return _Ext(SCALAR, _encode([self._dtype(value.dtype), value.tobytes()[: value.dtype.itemsize]]))
        if dataclasses.is_dataclass(kind):
            return self._dataclass(value, depth + 1)
        answer_class = getattr(sys.modules.get("zserve.handles.answer"), "ServeAnswer", None)
        if answer_class is not None and kind is answer_class:
            return self._answer(value)
        response_class = getattr(sys.modules.get("werkzeug.wrappers.response"), "Response", None)
        if response_class is not None and isinstance(value, response_class):
            return _Ext(RESPONSE, _encode(_response_parts(value)))
        raise Unsendable(_describe(value))

    def _list(self, items: Sequence[Any], depth: int) -> Sequence[Any]:
        if self._plain.issuperset(map(type, items)):
            return items
        prepared = []
        prepare = self._prepare
        index = 0
        try:
            for item in items:
                prepared.append(prepare(item, depth))
                index += 1
        except Unsendable as error:
            error.path.append(f"[{index}]")
            raise
        return prepared

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        plain = self._plain
        keys_as_they_are = _KEYS.issuperset(map(type, value)) and plain is _PLAIN
        if keys_as_they_are and plain.issuperset(map(type, value.values())):
            return value
        prepared: list[list[Any]] = []
        key: Any = None
        try:
            for key, item in value.items():
                prepared.append([key if keys_as_they_are else self._prepare(key, depth), self._prepare(item, depth)])
        except Unsendable as error:
            error.path.append(f"[{key!r:.80}]")
            raise
        return dict(prepared) if keys_as_they_are else _Ext(MAP, _encode(prepared))

    def _int(self, value: int, depth: int) -> Any:
        if -(1 << 63) <= value < 1 << 64:
            return value
        return _Ext(BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def _bytes(self, value: bytes, depth: int) -> Any:
        if len(value) <= INLINE_BYTES:
            return value
        return _Ext(BYTES, _encode([self._add(value), len(value)]))

    def _array(self, value: Any) -> Any:
        try:
            meta, content = arrays.array_buffer(value)
        except TypeError as error:
            raise Unsendable(str(error)) from None
        return _Ext(ARRAY, _encode([meta, self._add(content), len(content)]))

    def _dtype(self, dtype: Any) -> Any:
        try:
            return arrays.dtype_spec(dtype)
        except TypeError:
            raise Unsendable(f"a NumPy scalar of dtype {dtype}") from None

    def _dataclass(self, value: Any, depth: int) -> Any:
        kind = type(value)
        known = _fields.get(kind)
        if known is None:
            name = importable_name(kind)
            if name is None:
                raise Unsendable(
                    f"an instance of the dataclass {kind.__qualname__}, which another process cannot import from "
                    f"{kind.__module__!r}"
                )
            known = _fields[kind] = (*name, tuple(field.name for field in dataclasses.fields(kind)))
        module, qualname, names = known
        prepared = {}
        name_ = ""
        try:
            for name_ in names:
                prepared[name_] = self._prepare(getattr(value, name_), depth)
        except Unsendable as error:
            error.path.append(f".{name_}")
            raise
        except AttributeError:
            raise Unsendable(f"a {kind.__qualname__} without its field {name_!r}") from None
        return _Ext(DATACLASS, _encode([module, qualname, prepared]))

    def _answer(self, answer: ServeAnswer) -> Any:
        if answer.done():
            if answer.failed():
                self.failed = self.failed or answer
                return None
            return _Ext(NESTED, self._place(*answer.packed()))
        if not self._token:
            self._token = os.urandom(_TOKEN)
        self.waiting.append(answer)
        return _Ext(NESTED, self._token + (len(self.waiting) - 1).to_bytes(8, "little"))


def _datetime_parts(value: datetime.datetime) -> list[Any]:
    zone = value.tzinfo
    return [value.isoformat(), value.fold, zone.key if isinstance(zone, zoneinfo.ZoneInfo) else None]


def _response_parts(response: Any) -> list[Any]:
    headers = [(str(name), str(value)) for name, value in response.headers.items()]
    return [response.status_code, headers, response.get_data()]


def _describe(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"


_PREPARE: dict[type, Callable[[Packer, Any, int], Any]] = {
    int: Packer._int,
    bytes: Packer._bytes,
    bytearray: lambda packer, value, depth: _Ext(BYTEARRAY, bytes(value)),
    tuple: lambda packer, value, depth: _Ext(TUPLE, _encode(packer._list(value, depth))),
    set: lambda packer, value, depth: _Ext(SET, _encode(packer._list(list(value), depth))),
    frozenset: lambda packer, value, depth: _Ext(FROZENSET, _encode(packer._list(list(value), depth))),
    datetime.datetime: lambda packer, value, depth: _Ext(DATETIME, _encode(_datetime_parts(value))),
    datetime.date: lambda packer, value, depth: _Ext(DATE, value.isoformat().encode()),
    datetime.time: lambda packer, value, depth: _Ext(TIME, _encode([value.isoformat(), value.fold])),
    datetime.timedelta: lambda packer, value, depth: _Ext(
        TIMEDELTA, _encode([value.days, value.seconds, value.microseconds])
    ),
    uuid.UUID: lambda packer, value, depth: _Ext(UUID, value.bytes),
    decimal.Decimal: lambda packer, value, depth: _Ext(DECIMAL, str(value).encode()),
    complex: lambda packer, value, depth: _Ext(COMPLEX, struct.pack("<dd", value.real, value.imag)),
}

"""What the extensions of a packed value mean; the numbers are part of the wire format: never reused, only added to."""

from __future__ import annotations

import struct

__all__ = [
    "ARRAY",
    "BIGINT",
    "BYTEARRAY",
    "BYTES",
    "COMPLEX",
    "DATACLASS",
    "DATE",
    "DATETIME",
    "DECIMAL",
    "FROZENSET",
    "MAP",
    "NESTED",
    "PLACE",
    "REGISTERED",
    "RESPONSE",
    "SCALAR",
    "SET",
    "TIME",
    "TIMEDELTA",
    "TUPLE",
    "UUID",
]

TUPLE, SET, FROZENSET, MAP = 1, 2, 3, 4
DATETIME, DATE, TIME, TIMEDELTA = 5, 6, 7, 8
UUID, DECIMAL, COMPLEX, BIGINT = 9, 10, 11, 12
BYTES, BYTEARRAY, ARRAY, SCALAR = 13, 14, 15, 16
DATACLASS, REGISTERED, NESTED, RESPONSE = 17, 18, 19, 20

PLACE = struct.Struct("<QQQQ")
"""Of a value that is packed in the body: offset and size of its skeleton, offset and size of its own body."""

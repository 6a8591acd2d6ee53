"""NumPy arrays and scalars as bytes with a description, and back without a copy.

NumPy is never imported to send something: who has an array has NumPy.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["array_buffer", "array_from", "dtype_from", "dtype_spec", "is_array", "is_scalar", "scalar_from"]

_SIMPLE = re.compile(r"[<>|=]?[biufcmMSUV]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?")
_MAX_DIMENSIONS = 32


def is_array(value: Any) -> bool:
    """An ndarray (a memory-mapped one too), and not a subclass that means something else, like a masked array."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and (type(value) is numpy.ndarray or type(value) is numpy.memmap)


def is_scalar(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic) and type(value).__module__ == "numpy"


def dtype_spec(dtype: np.dtype[Any]) -> Any:
    """*dtype* as a str, or a list of fields.  Raises TypeError for one that cannot be sent: objects, foreign types."""
    import numpy

    void = dtype.kind == "V" and dtype.type is numpy.void
    if dtype.hasobject or not (void or dtype.kind in "biufcmMSU"):
        raise TypeError(f"a NumPy array of dtype {dtype}")
    return numpy.lib.format.dtype_to_descr(dtype)


def dtype_from(spec: Any) -> np.dtype[Any]:
    """The opposite of :func:`dtype_spec`.  Raises ValueError, TypeError or KeyError for anything else."""
    import numpy

    dtype: np.dtype[Any] = numpy.lib.format.descr_to_dtype(_checked(spec, 0))
    if dtype.hasobject:
        raise ValueError("a dtype with objects in it")
    return dtype


def _checked(spec: Any, depth: int) -> Any:
    """*spec* as NumPy wants it, made of nothing but what :func:`dtype_spec` makes."""
    if isinstance(spec, str):
        if not _SIMPLE.fullmatch(spec):
            raise ValueError(f"not a dtype: {spec[:100]!r}")
        return spec
    if not isinstance(spec, (list, tuple)) or depth > 10 or not spec:
        raise ValueError("not a dtype")
    if len(spec) == 2 and isinstance(spec[0], (str, list)) and _is_shape(spec[1]) and not isinstance(spec[0], tuple):
        return (_checked(spec[0], depth + 1), tuple(spec[1]))  # a subarray
    fields = []
    for field in spec:
        if not isinstance(field, (list, tuple)) or len(field) not in (2, 3) or not isinstance(field[0], str):
            raise ValueError("not a dtype")
        if len(field) == 3 and not _is_shape(field[2]):
            raise ValueError("not a dtype")
        fields.append((field[0], _checked(field[1], depth + 1), *(tuple(shape) for shape in field[2:])))
    return fields


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 40 for size in value)
    )


def array_buffer(array: Any) -> tuple[list[Any], memoryview | bytes]:
    """([dtype, shape, Fortran order?], its bytes).

    The bytes are those of the array itself if it cannot be written to, and else a copy: the caller may go on working
    with the array while its call is on the way.
    """
    import numpy

    spec = dtype_spec(array.dtype)
    array = numpy.asarray(array)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = array.T if fortran else array
    meta = [spec, list(array.shape), fortran]
    if array.size == 0 or array.itemsize == 0:
        return meta, b""
    if not flat.flags.c_contiguous or _writable(array):
        return meta, flat.tobytes()
    return meta, memoryview(flat.reshape(-1).view(numpy.uint8)).cast("B")


def _writable(array: Any) -> bool:
    """Whether somebody can change what *array* shows: a read-only view of something else proves nothing."""
    import numpy

    while isinstance(array, numpy.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    if isinstance(array, memoryview):
        array = array.obj
    return not (array is None or isinstance(array, bytes))


def array_from(meta: Any, body: memoryview, offset: int, size: int) -> Any:
    """The array that *meta* describes, as a read-only view of *size* bytes of *body*.  Raises ValueError and others."""
    import numpy

    spec, shape, fortran = meta
    if not (_is_shape(shape) or shape == []) or type(fortran) is not bool:
        raise ValueError("not the shape of an array")
    dtype = dtype_from(spec)
    count = math.prod(shape)
    if count * dtype.itemsize != size:
        raise ValueError("an array of another size than its bytes")
    if not size:
        array = numpy.empty(shape, dtype)
    else:
        array = numpy.frombuffer(body, dtype, count, offset)
        array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    array.flags.writeable = False
    return array


def scalar_from(spec: Any, content: bytes) -> Any:
    """The NumPy scalar.  Raises ValueError and others."""
    import numpy

    dtype = dtype_from(spec)
    if dtype.itemsize != len(content):
        raise ValueError("a scalar of another size than its bytes")
    if not content:
        return numpy.zeros((), dtype)[()]
    return numpy.frombuffer(content, dtype, 1)[0]

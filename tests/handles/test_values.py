"""The codec of handles: what is sent arrives as what it was, whatever arrives is a value or NotDecodable."""

from __future__ import annotations

import collections
import datetime
import decimal
import math
import uuid
import zoneinfo
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.handles import named
from zserve.handles.codes import ARRAY, BYTES, DATACLASS, NESTED, PLACE, REGISTERED
from zserve.handles.named import register_type
from zserve.handles.reading import NotDecodable, unpack
from zserve.handles.values import INLINE_BYTES, INLINE_SKELETON, SENDABLE, Packer

from .shapes import Frozen, Money, Point, Slotted, Unknown

np = pytest.importorskip("numpy")


def pack(value: Any) -> tuple[bytes, Any]:
    packer = Packer()
    [skeleton], body = packer.finish([packer.pack(value, "data")])
    return skeleton, body


def there_and_back(value: Any) -> Any:
    skeleton, body = pack(value)
    return unpack(skeleton, bytes(body))


def same(one: Any, other: Any) -> bool:
    """Equal and of equal types, at any depth; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Point):
        return same([one.x, one.y], [other.x, other.y])
    if isinstance(one, dict):
        return same(list(one), list(other)) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


text = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.one_of(
    text, st.integers(), st.booleans(), st.none(), st.binary(), st.tuples(text, st.integers()), st.uuids(), st.dates()
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    text,
    st.binary(),
    st.binary(min_size=INLINE_BYTES, max_size=INLINE_BYTES + 9),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC) | st.just(zoneinfo.ZoneInfo("UTC"))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sets(keys.filter(lambda key: not isinstance(key, float))),
    st.frozensets(text),
    st.builds(Frozen, text, st.tuples(text)),
    st.binary().map(bytearray),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=200, deadline=None)
def test_what_is_sent_arrives_as_what_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(st.binary(max_size=200), st.binary(max_size=64))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_are_a_value_or_not_decodable(skeleton: bytes, body: bytes) -> None:
    try:
        unpack(skeleton, body)
    except NotDecodable:
        pass


@given(st.integers(1, 24), st.binary(max_size=60), st.binary(max_size=40))
@settings(max_examples=500, deadline=None)
def test_every_extension_takes_arbitrary_content(code: int, content: bytes, body: bytes) -> None:
    skeleton = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, content))
    try:
        unpack(skeleton, body)
    except NotDecodable:
        pass
    try:  # and where the content is itself msgpack
        unpack(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode([content, 1, 2]))), body)
    except NotDecodable:
        pass


@given(values, st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_values_are_a_value_or_not_decodable(value: Any, data: st.DataObject) -> None:
    skeleton, body = pack(value)
    damaged = bytearray(skeleton)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(bytes(damaged), bytes(body))
    except NotDecodable:
        pass


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        2**200,
        -(2**64),
        [1, [2**64]],
        {2**70: 2**70},
        complex(1, -2),
        {(1, "a"): {uuid.UUID(int=5): b"x"}},
        datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))),
        datetime.time(3, 4, 5, 6, fold=1),
        decimal.Decimal("NaN"),
        decimal.Decimal("1E+400"),
        {1: "a", 2.5: "b", False: "c", None: "d"},
        (),
        set(),
        ["x" * INLINE_SKELETON, (1, 2)],
        [b"a" * 5000, b"", b"b" * 5000, b"a" * 5000],
    ],
    ids=repr,
)
def test_particular_values(value: Any) -> None:
    found = there_and_back(value)
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_dataclasses_arrive_without_running_their_constructor() -> None:
    slotted = Slotted(Point({1, 2}, (3,)))
    found = there_and_back([slotted, Frozen("a", ("b",))])
    assert found == [slotted, Frozen("a", ("b",))]
    assert found[0].doubled == 1


def test_a_registered_type() -> None:
    register_type(Money, lambda money: (money.cents, "EUR"), lambda pair: Money(pair[0]))
    try:
        assert there_and_back({"price": [Money(5)]}) == {"price": [Money(5)]}
        skeleton, body = pack(Money(5))
        name = named.class_name(Money)
        del named._names[name]
        with pytest.raises(NotDecodable, match=r"Money' is not registered in this process; call serve.register_type"):
            unpack(skeleton, body)
    finally:
        named._types.pop(Money)
    with pytest.raises(TypeError, match=r"data: a value of type .*Money cannot be sent"):
        pack(Money(5))


def test_a_decoder_that_fails_is_said() -> None:
    register_type(Money, lambda money: money.cents, lambda cents: 1 // 0)  # type: ignore[arg-type,return-value]
    try:
        with pytest.raises(NotDecodable, match=r"decode\(\) of the registered type .*ZeroDivisionError"):
            there_and_back(Money(5))
    finally:
        named._names.pop(named._types.pop(Money).name)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((5, str, str), TypeError, "cls must be a class, not 5"),
        ((Money, 5, str), TypeError, "encode must be a function, not 5"),
        ((Money, str, None), TypeError, "decode must be a function, not None"),
        ((dict, str, str), ValueError, "cls: dict is sent as it is"),
        ((decimal.Decimal, str, str), ValueError, "cls: Decimal is sent as it is"),
    ],
)
def test_bad_registrations_change_nothing(arguments: tuple[Any, ...], error: type[Exception], said: str) -> None:
    before = dict(named._types), dict(named._names)
    with pytest.raises(error, match=said):
        register_type(*arguments)
    assert (named._types, named._names) == before


def test_a_werkzeug_response_arrives_as_one() -> None:
    from werkzeug.wrappers import Response

    found = there_and_back(Response("made", 201, [("X-A", "1"), ("Set-Cookie", "a=b")]))
    assert (found.status_code, found.data, found.headers["X-A"]) == (201, b"made", "1")
    assert found.headers.getlist("Set-Cookie") == ["a=b"]


# --- what cannot be sent ----------------------------------------------------------------------------------------------


class Local(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Unknown(), r"data: a value of type .*Unknown cannot be sent; what can"),
        ({"a": [1, {"b": object()}]}, r"data: a value of type object cannot be sent \(at \['a'\]\[1\]\['b'\]\)"),
        ((1, lambda: 1), r"a value of type function cannot be sent \(at \[1\]\)"),
        (Point(1, Unknown()), r"cannot be sent \(at \.y\)"),
        ({Unknown(): 1}, r"a value of type .*Unknown cannot be sent"),
        (Local(), r"a value of type .*Local cannot be sent"),
        (collections.OrderedDict(), r"a value of type collections.OrderedDict"),
        (Point, r"a value of type type cannot be sent"),
        (ValueError("x"), r"a value of type ValueError"),
        (np.array([object()]), r"a NumPy array of dtype object cannot be sent"),
        (np.ma.masked_array([1], [True]), r"MaskedArray cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where) as caught:
        pack(value)
    assert str(caught.value).endswith(SENDABLE)


def test_keyword_arguments_are_named_themselves() -> None:
    with pytest.raises(TypeError, match=r"^size: a value of type object cannot be sent \(at \[0\]\)"):
        Packer().pack({"n": 1, "size": [object()]}, "")


def test_a_dataclass_that_cannot_be_imported() -> None:
    import dataclasses

    @dataclasses.dataclass
    class Inner:
        x: int

    with pytest.raises(TypeError, match=r"the dataclass .*Inner, which another process cannot import"):
        pack(Inner(1))


def test_values_that_hold_themselves_and_text_that_is_none() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="data is nested over 100 deep"):
        pack(loop)
    with pytest.raises(ValueError, match="data holds a str that is not valid Unicode"):
        pack(["\ud800"])


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.zeros((0, 5), np.int8),
        np.array(7.5),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.array(["", ""]),
        np.array([1 + 2j, 3]),
        np.array([True, False]),
        np.array(["2024-01-01", "NaT"], "datetime64[D]"),
        np.array([1, 2], "timedelta64[ms]"),
        np.array([1, 2], ">i4"),
        np.array([(1, 2.5, [1, 2])], [("a", "i4"), ("b", "f8"), ("c", "u1", (2,))]),
        np.array([(1, 2.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.array([(1, (2, 3))], [("a", "i4"), ("b", [("c", "i2"), ("d", "i2")])]),
        np.arange(3, dtype=np.float16)[::-1],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays(array: Any) -> None:
    [found, again] = there_and_back([array, array])
    for one in (found, again):
        assert type(one) is np.ndarray
        assert (one.dtype, one.shape) == (array.dtype, array.shape)
        assert one.tobytes() == array.tobytes()
        assert not one.flags.writeable


@pytest.mark.parametrize(
    "scalar",
    [np.float64(1.5), np.int8(-3), np.bool_(True), np.str_("ab"), np.str_(""), np.datetime64("2024-01-01"),
     np.complex64(1 + 2j), np.array([(1, 2.0)], "i4,f8")[0]],
    ids=repr,
)  # fmt: skip
def test_scalars(scalar: Any) -> None:
    found = there_and_back({"x": scalar})["x"]
    assert type(found) is type(scalar)
    assert (found.dtype, found) == (scalar.dtype, scalar)


def test_an_array_that_nobody_can_change_is_not_copied() -> None:
    array = np.arange(100_000)
    array.flags.writeable = False
    _, body = pack(array)
    assert np.shares_memory(np.frombuffer(body, np.uint8), array)
    large = bytes(100_000)
    assert pack(large)[1] is large


def test_an_array_that_can_be_changed_is_what_it_was_when_it_was_sent() -> None:
    array = np.arange(100_000)
    view = array[:]
    view.flags.writeable = False
    packed = [pack(array), pack(view)]
    array[:] = 0
    for skeleton, body in packed:
        assert unpack(skeleton, bytes(body))[-1] == 99_999


def test_what_arrives_is_a_view_of_the_message() -> None:
    skeleton, body = pack([np.arange(100_000), np.ones(10)])
    body = bytes(body)
    for array in unpack(skeleton, body):
        assert np.shares_memory(array, np.frombuffer(body, np.uint8))
        assert array.flags.aligned
    content = bytes(50_000)
    assert unpack(*pack(content)) is content


# --- hostile messages -------------------------------------------------------------------------------------------------

ext = msgspec.msgpack.Ext
encode = msgspec.msgpack.encode


@pytest.mark.parametrize(
    "message",
    [
        ext(BYTES, encode([0, 11])),
        ext(BYTES, encode([-1, 1])),
        ext(BYTES, encode([5, 6])),
        [ext(BYTES, encode([0, 10]))] * 9,
        ext(ARRAY, encode([["<f8", [2], False], 0, 8])),
        ext(ARRAY, encode([["|O", [1], False], 0, 8])),
        ext(ARRAY, encode([["<f8", [-1], False], 0, 8])),
        ext(ARRAY, encode([["<f8", [1 << 62, 1 << 62, 0], False], 0, 0])),
        ext(ARRAY, encode([["<f8,<f8", [1], False], 0, 8])),
        ext(ARRAY, encode([["<U0", [1 << 61], False], 0, 0])),
        ext(NESTED, PLACE.pack(0, 10, 0, 11)),
        ext(NESTED, PLACE.pack(1 << 63, 1 << 63, 0, 0)),
        ext(DATACLASS, encode(["os", "system", {}])),
        ext(DATACLASS, encode(["antigravity", "Point", {}])),
        ext(DATACLASS, encode(["tests.handles.shapes", "Unknown", {}])),
        ext(DATACLASS, encode(["tests.handles.shapes", "Point", {"x": 1}])),
        ext(DATACLASS, encode(["tests.handles.shapes", "Point", {"x": 1, "y": 2, "__class__": 3}])),
        ext(DATACLASS, encode(["tests.handles.shapes", "Point.__init__", {}])),
        ext(DATACLASS, encode(["../etc", "Point", {}])),
        ext(REGISTERED, encode(["os:system", "true"])),
        ext(99, b""),
    ],
)
def test_hostile_messages_are_refused(message: Any) -> None:
    with pytest.raises(NotDecodable):
        unpack(encode(message), bytes(10))


def test_no_module_of_the_standard_library_is_imported_for_a_message() -> None:
    import sys

    assert "antigravity" not in sys.modules
    assert "this" not in sys.modules
    with pytest.raises(NotDecodable, match="the module 'this' is not loaded here"):
        unpack(encode(ext(DATACLASS, encode(["this", "Zen", {}]))))
    assert "this" not in sys.modules


def test_references_do_not_multiply() -> None:
    """A list of references to lists of references ... would be a billion values from a few hundred bytes."""
    body = b""
    places = encode([1] * 10)
    for _ in range(9):
        start = len(body)
        body += places
        places = encode([ext(NESTED, PLACE.pack(start, len(places), 0, start))] * 10)
    with pytest.raises(NotDecodable):
        unpack(places, body)


def test_a_value_packed_in_itself_is_refused() -> None:
    own = encode(ext(NESTED, PLACE.pack(0, 35, 0, 35)))
    with pytest.raises(NotDecodable):
        unpack(own, own)

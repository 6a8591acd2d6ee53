from __future__ import annotations

import pytest

from zserve.http.deadline import BadDeadline, read_budget_s


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [
        (b"", None, None),
        (b"a=1", None, None),
        (b"relative_slo_ms=250", None, 0.25),
        (b"a=1&relative_slo_ms=0.5&b=2", None, 0.0005),
        (b"absolute_slo_ms=1000500", None, 0.5),
        (b"absolute_slo_ms=999000", None, 0.0),
        (b"", b"2.5", 2.5),
        (b"my_slo_ms=x", None, None),
    ],
)
def test_a_deadline_is_read_as_seconds_that_remain(query: bytes, header: bytes | None, expected: float | None) -> None:
    found = read_budget_s(query, header, wall_s=1000.0)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("query", "header"),
    [
        (b"relative_slo_ms=0", None),
        (b"relative_slo_ms=-1", None),
        (b"relative_slo_ms=nan", None),
        (b"relative_slo_ms=inf", None),
        (b"relative_slo_ms=1e300", None),
        (b"relative_slo_ms=", None),
        (b"absolute_slo_ms=soon", None),
        (b"relative_slo_ms=1&absolute_slo_ms=2", None),
        (b"relative_slo_ms=1&relative_slo_ms=2", None),
        (b"relative_slo_ms=1", b"1"),
        (b"", b"-1"),
        (b"", b"\xff"),
    ],
)
def test_what_is_not_one_positive_number_is_refused_with_its_value(query: bytes, header: bytes | None) -> None:
    with pytest.raises(BadDeadline) as caught:
        read_budget_s(query, header, wall_s=1000.0)
    assert "slo_ms" in str(caught.value) or "Timeout" in str(caught.value)

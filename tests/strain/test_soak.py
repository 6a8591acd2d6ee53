"""What the soak makes of its samples."""

from __future__ import annotations

import pytest

from tools.strain.soak import GROWTH_MB, Sample, trend


def samples(growth_mb: float, more_files: int = 0) -> list[Sample]:
    """100 seconds: a warm-up that does not count, then a line with a ripple on it."""
    warm = [Sample(float(at), 10.0 + at, 10) for at in range(25)]
    rest = [
        Sample(25.0 + at, 40.0 + growth_mb * at / 74 + 0.1 * (-1) ** at, 30 + more_files * (at > 40))
        for at in range(75)
    ]
    return [*warm, *rest]


@pytest.mark.parametrize("growth_mb", [-1.0, 0.0, 0.9 * GROWTH_MB])
def test_what_stays_where_it_is_is_flat(growth_mb: float) -> None:
    found = trend("router", samples(growth_mb), 25.0)
    assert found.flat
    assert found.growth_mb == pytest.approx(growth_mb, abs=0.1)
    assert found.mb_an_hour == pytest.approx(growth_mb / 74 * 3600, abs=5.0)
    assert found.more_files == 0.0


@pytest.mark.parametrize(("growth_mb", "more_files"), [(1.1 * GROWTH_MB, 0), (0.0, 5)])
def test_what_grows_is_not(growth_mb: float, more_files: int) -> None:
    assert not trend("router", samples(growth_mb, more_files), 25.0).flat

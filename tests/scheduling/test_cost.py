"""The budget of the core: memory exactly, speed only so far as a busy machine allows to say."""

from __future__ import annotations

import pytest

from benchmarks.core import dated, growth, main, memory, mixed, plain, throughput


def test_a_queued_request_takes_at_most_400_bytes() -> None:
    for make in (plain, mixed):
        assert memory(50_000, make) <= 400


def test_the_cost_of_a_request_does_not_grow_with_the_queue_by_more_than_the_logarithm_and_the_cache() -> None:
    shallow = min(growth(1_000, mixed, 32, 60) for _ in range(3))
    deep = min(growth(50_000, mixed, 32, 60) for _ in range(2))
    assert deep < 8 * shallow


@pytest.mark.parametrize(("batch", "make"), [(32, plain), (32, dated), (None, plain)])
def test_a_request_costs_microseconds(batch: int | None, make: object) -> None:
    rate = max(throughput(20_000, batch, 1, make) for _ in range(3))  # type: ignore[arg-type]
    assert rate > 75_000  # 300,000 and more on a core of its own; see benchmarks/core.py


def test_the_table_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--requests", "2000"]) == 0
    assert "requests/s" in capsys.readouterr().out

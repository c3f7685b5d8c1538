"""Intervals, against figures from the literature."""

from __future__ import annotations

import pytest

from memp_mcp.intervals import Estimate, difference, mean, rate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_a_rate_has_wilsons_interval(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    found = rate(successes, n)

    assert found is not None
    assert (found.value, found.n) == (successes / n, n)
    assert [found.low, found.high] == pytest.approx([low, high], abs=6e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_a_difference_of_rates_has_newcombes_interval(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10."""
    found = difference((rate(*one), rate(*other)))

    assert found is not None
    assert [found.low, found.high] == pytest.approx([low, high], abs=6e-5)


def test_a_mean_has_students_interval() -> None:
    found = mean([9.0, 10.0, 11.0])

    assert found is not None
    assert found.value == 10
    assert found.high == pytest.approx(10 + 4.303 / 3**0.5, rel=0.01)  # t(2) = 4.303, s = 1


def test_a_mean_of_counts_is_never_said_to_be_below_zero() -> None:
    found = mean([0, 0, 30])

    assert found is not None
    assert found.low == 0


def test_two_values_have_a_mean_but_no_interval() -> None:
    assert mean([1, 3]) == Estimate(value=2, n=2)
    assert difference((mean([1, 3]), mean([4, 5, 6]))) == Estimate(value=-3, n=5)


def test_nothing_is_no_estimate() -> None:
    assert rate(0, 0) is None
    assert mean([]) is None
    assert difference((rate(1, 2), None)) is None


def test_strata_are_compared_each_within_itself() -> None:
    """Pooled, the second would look better: it has most of its tries where everybody succeeds."""
    hard, easy = (rate(30, 90), rate(2, 10)), (rate(10, 10), rate(81, 90))

    found = difference(hard, easy)

    assert found is not None
    assert found.value == pytest.approx((30 / 90 - 2 / 10) / 2 + (1 - 0.9) / 2)
    assert found.low is not None
    assert found.low < 0 < found.value

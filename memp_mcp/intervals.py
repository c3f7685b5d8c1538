"""Rates, means and differences with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from memp_mcp.models import Value

Z = NormalDist().inv_cdf(0.975)
LEAST = 3
"""Values from which on a mean has an interval; two say too little about how they scatter."""


class Estimate(Value):
    """A rate, a mean or a difference, with its 95 % interval where there is enough to tell."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int


def rate(successes: int, n: int) -> Estimate | None:
    """A share of successes with its Wilson score interval (Wilson 1927); None when nothing was tried."""
    if not n:
        return None
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Estimate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def mean(values: Sequence[float]) -> Estimate | None:
    """A mean of values that are never negative, with Student's interval.

    None when there are no values; no interval when there are fewer than three.
    """
    if not values:
        return None
    n = len(values)
    middle = sum(values) / n
    if n < LEAST:
        return Estimate(value=middle, n=n)
    variance = sum((v - middle) ** 2 for v in values) / (n - 1)
    half = _student(n - 1) * math.sqrt(variance / n)
    return Estimate(value=middle, low=max(0.0, middle - half), high=middle + half, n=n)


def difference(*strata: tuple[Estimate | None, Estimate | None]) -> Estimate | None:
    """The first minus the second of each pair, averaged over the pairs by their size.

    The interval combines those of the parts (Newcombe 1998 for rates; Zou and Donner 2008 in general): it does not
    shrink to nothing where all of a few runs ended alike, as one from standard errors does.
    """
    pairs = [(one, other) for one, other in strata if one is not None and other is not None]
    n = sum(one.n + other.n for one, other in pairs)
    if not n:
        return None
    weights = [(one.n + other.n) / n for one, other in pairs]
    value = sum(w * (one.value - other.value) for w, (one, other) in zip(weights, pairs, strict=True))
    below = [_reach(one.value, one.low, other.value, other.high) for one, other in pairs]
    above = [_reach(one.value, one.high, other.value, other.low) for one, other in pairs]
    return Estimate(value=value, low=_moved(value, weights, below, -1), high=_moved(value, weights, above, 1), n=n)


def _reach(one: float, one_end: float | None, other: float, other_end: float | None) -> float | None:
    """How far the difference of two estimates may lie from theirs, towards these ends of their intervals."""
    return None if one_end is None or other_end is None else math.hypot(one - one_end, other - other_end)


def _moved(value: float, weights: Sequence[float], reaches: Sequence[float | None], sign: int) -> float | None:
    known = [w * r for w, r in zip(weights, reaches, strict=True) if r is not None]
    return value + sign * math.hypot(*known) if len(known) == len(reaches) else None


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 1 % from two degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    z = Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))

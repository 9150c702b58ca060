"""Intervals of shares, and of paired differences of shares, that hold with few items and near 0 and 1.

The bootstrap draws only what was seen, so two misses in a hundred give it too little spread. Score intervals ask which
true shares the counts are compatible with: Wilson (1927) for one share, Tango (1998) for two shares of the same items.
Items that come in groups count as fewer: their number is divided by the design effect (Kish 1965).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEPS = 60  # halvings of the search: 1e-18 of the range


def is_share(values: Floats) -> bool:
    """Are all values 0 or 1?"""
    return bool(np.isin(values, (0.0, 1.0)).all())


def is_change_of_share(values: Floats) -> bool:
    """Are all values -1, 0 or 1: hits of one system minus hits of another?"""
    return bool(np.isin(values, (-1.0, 0.0, 1.0)).all())


def share_bounds(values: Floats, units: Floats, level: float) -> tuple[float, float]:
    """Wilson's interval of a mean of 0s and 1s. units: (sum, size) of each independent group of items."""
    share, n, quantile = float(values.mean()), *_effective(values, units, level)
    middle = (share + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    reach = quantile / (1 + quantile**2 / n) * math.sqrt(share * (1 - share) / n + quantile**2 / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def change_bounds(values: Floats, units: Floats, level: float) -> tuple[float, float]:
    """Tango's interval of a mean of -1s, 0s and 1s, with `units` as above."""
    n, quantile = _effective(values, units, level)
    up, down = float((values > 0).mean()) * n, float((values < 0).mean()) * n
    change = (up - down) / n

    def far(true: float) -> float:
        """How many standard errors the counts are from a true difference."""
        a, b, c = 2 * n, -up - down + (2 * n - up + down) * true, -down * true * (1 - true)
        rare = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        return (up - down - n * true) / math.sqrt(max(1e-12, n * (2 * rare + true * (1 - true))))

    return _root(lambda true: far(true) - quantile, -1.0, change), _root(lambda true: far(true) + quantile, change, 1.0)


def t_quantile(level: float, freedom: float) -> float:
    """Student's two-sided quantile: exact for 1 and 2 degrees of freedom, else Hill's (1970) expansion."""
    tail = 1 - level
    if freedom <= 1:
        return 1 / math.tan(tail * math.pi / 2)
    if freedom <= 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    a = 1 / (freedom - 0.5)
    b = (48 / a) / a
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    if y > a + 0.05:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        near = ((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3
        y = ((1 / near + 0.5 / (freedom + 4)) * y - 1) * (freedom + 1) / (freedom + 2) + 1 / y
    return math.sqrt(freedom * y)


def _effective(values: Floats, units: Floats, level: float) -> tuple[float, float]:
    """The number of independent items these are worth, and the quantile that goes with it."""
    n, groups, mean = len(values), len(units), float(values.mean())
    if groups == n:
        return float(n), NormalDist().inv_cdf((1 + level) / 2)
    alone = float(values.var()) / n
    together = float(((units[:, 0] - mean * units[:, 1]) ** 2).sum()) / n**2 * groups / (groups - 1)
    effect = min(max(1.0, together / alone if alone > 0 else 1.0), n / groups)
    return n / effect, t_quantile(level, groups - 1)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0 between two ends; the nearer end if it does not."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2

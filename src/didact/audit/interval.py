"""How sure we are of a mean: paired bootstrap intervals, and the smallest effect that could have been seen."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from didact.audit.shares import Floats, change_bounds, is_change_of_share, is_share, share_bounds

RESAMPLES = 10_000
POWER = 0.8
__all__ = ["POWER", "RESAMPLES", "Floats", "Interval", "mean_interval", "ratio_interval", "sums_of"]
_BLOCK = 4_000_000  # random numbers drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval. error: standard error; n: items; groups: independent units they came in."""

    value: float
    low: float
    high: float
    error: float
    n: int
    groups: int
    level: float = 0.95

    @property
    def detectable(self) -> float:
        """Minimum detectable effect: the true difference that 80% of audits like this would call clear of 0."""
        return (NormalDist().inv_cdf((1 + self.level) / 2) + NormalDist().inv_cdf(POWER)) * self.error

    def items_for(self, effect: float) -> int:
        """About how many items would make `effect` detectable, everything else equal."""
        return math.ceil(self.n * (self.detectable / effect) ** 2)

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "detectable": self.detectable}


def mean_interval(
    values: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
    span: tuple[float, float] | None = (-1.0, 1.0),
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of per-item values (for two systems: of the paired differences) with a bootstrap interval.

    groups: items with equal keys share a source and are resampled together. span: the range a value can take; when
    all values are alike the bootstrap sees no spread, and the interval is then the exact binomial bound on the share of
    items that could still differ (without a span: no width). Percentiles are widened for small samples (Hesterberg
    2015, expanded percentile). Shares and changes of shares within the span get score intervals instead (`shares`).
    """
    scored = _scored(np.asarray(values, dtype=float), groups, level, span)
    return scored or ratio_interval(
        values, np.ones(len(values)), groups, seed=seed, level=level, span=span, resamples=resamples
    )


def _scored(
    values: Floats, groups: Sequence[Hashable] | None, level: float, span: tuple[float, float] | None
) -> Interval | None:
    """The score interval where values are hits, or hits minus hits; None where they are not, or are all alike."""
    if len(values) < 2 or span is None or values.min() == values.max():
        return None
    if span == (0.0, 1.0) and is_share(values):
        bounds = share_bounds
    elif span == (-1.0, 1.0) and is_change_of_share(values):
        bounds = change_bounds
    else:
        return None
    units = sums_of(np.stack([values, np.ones(len(values))], axis=1), groups)
    if len(units) < 2:
        return None
    low, high = bounds(values, units, level)
    error = (high - low) / (2 * NormalDist().inv_cdf((1 + level) / 2))
    return Interval(float(values.mean()), low, high, error, len(values), len(units), level)


def ratio_interval(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
    span: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """sum(numerators) / sum(denominators) with a bootstrap interval, as `mean_interval`; for means over tokens."""
    pairs = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1)
    n = len(pairs)
    units = sums_of(pairs, groups)
    value = float(units[:, 0].sum() / units[:, 1].sum()) if n else math.nan
    if n == 0:
        return Interval(value, math.nan, math.nan, math.nan, n, len(units), level)
    spread = not np.allclose(units[:, 0], value * units[:, 1], rtol=0, atol=1e-12)
    if len(units) < 2 or not spread:
        return _no_spread(value, n, len(units), level, span)
    means = _resampled(units, np.random.default_rng(seed), resamples)
    tail = _expanded_tail((1 - level) / 2, len(units))
    low, high = np.quantile(means, [tail, 1 - tail])
    error = float(means.std(ddof=1)) * math.sqrt(len(units) / (len(units) - 1))
    return Interval(value, float(low), float(high), error, n, len(units), level)


def sums_of(pairs: Floats, groups: Sequence[Hashable] | None) -> Floats:
    """The pairs summed over each group, in the order in which groups come."""
    if groups is None:
        return pairs
    index: dict[Hashable, int] = {}
    codes = np.array([index.setdefault(group, len(index)) for group in groups], dtype=np.int64)
    units = np.zeros((len(index), 2))
    np.add.at(units, codes, pairs)
    return units


def _resampled(units: Floats, generator: np.random.Generator, resamples: int) -> Floats:
    """Means of `resamples` draws of the units with replacement.

    Equal units are interchangeable, so few distinct ones (hits and misses) need only their multinomial counts.
    """
    distinct, counts = np.unique(units, axis=0, return_counts=True)
    if len(distinct) <= 64:
        totals = generator.multinomial(len(units), counts / len(units), size=resamples) @ distinct
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have nothing to divide by: no interval then
            return np.asarray(totals[:, 0] / totals[:, 1])
    rows = max(1, _BLOCK // len(units))
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, len(units), size=(min(rows, resamples - start), len(units)))
        means.append(units[drawn, 0].sum(axis=1) / units[drawn, 1].sum(axis=1))
    return np.concatenate(means)


def _no_spread(value: float, n: int, groups: int, level: float, span: tuple[float, float] | None) -> Interval:
    if span is None or groups == 0:
        return Interval(value, value, value, 0.0, n, groups, level)
    share = 1 - ((1 - level) / 2) ** (1 / groups)
    low, high = value - share * (value - span[0]), value + share * (span[1] - value)
    error = (high - low) / (2 * NormalDist().inv_cdf((1 + level) / 2))
    return Interval(value, low, high, error, n, groups, level)


def _expanded_tail(tail: float, groups: int) -> float:
    """The tail whose normal quantile is Student's t times sqrt(g / (g - 1)); t by Cornish-Fisher expansion."""
    z, nu = NormalDist().inv_cdf(1 - tail), groups - 1
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return NormalDist().cdf(-t * math.sqrt(groups / nu))

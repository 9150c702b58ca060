"""A power law through a ladder: error = floor + scale * size^-rate, and what the next rung would bring.

Skill follows the size of data so (Raghavendra et al. 2024, arXiv 2410.03717); the fit is by least squares over a grid
of rates, with floor and scale kept at or above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.audit.interval import Floats, Interval

RATES = np.linspace(0.05, 2.0, 79)


@dataclass(frozen=True)
class Power:
    """error(size) = floor + scale * size^-rate."""

    floor: float
    scale: float
    rate: float

    def at(self, size: float) -> float:
        return self.floor + self.scale * math.pow(size, -self.rate)


def fit(sizes: Sequence[float], errors: Floats) -> Power:
    """The law nearest to the errors at some sizes."""
    x = np.asarray(sizes, dtype=float)
    best, found = np.inf, Power(float(errors.mean()), 0.0, 1.0)
    for rate in RATES:
        shape = x**-rate
        spread = shape - shape.mean()
        scale = max(0.0, float((spread * (errors - errors.mean())).sum() / (spread**2).sum()))
        floor = float(errors.mean() - scale * shape.mean())
        if floor < 0:
            floor, scale = 0.0, max(0.0, float((shape * errors).sum() / (shape**2).sum()))
        miss = float(((floor + scale * shape - errors) ** 2).sum())
        if miss < best - 1e-12:
            best, found = miss, Power(floor, scale, float(rate))
    return found


def next_gain(
    sizes: Sequence[float], scores: Floats, units: Sequence[int], target: float, seed: int = 0, draws: int = 400
) -> tuple[Power, Interval]:
    """The law of 1 - score over a ladder, and the gain it promises from the last size to `target`, with an interval.

    scores: sizes x seeds x items. units: which group each item belongs to. Items are resampled by group and seeds with
    them, and the law is fitted anew each time; the largest miss of the law widens the interval.
    """
    law = fit(sizes, 1 - scores.mean(axis=(1, 2)))
    rng = np.random.default_rng(seed)
    codes = np.asarray(units)
    groups = [np.flatnonzero(codes == code) for code in dict.fromkeys(units)]
    gains = []
    for _ in range(draws):
        picked = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        seeds = rng.integers(0, scores.shape[1], (len(sizes), scores.shape[1]))
        means = np.array([scores[i][seeds[i]][:, picked].mean() for i in range(len(sizes))])
        one = fit(sizes, 1 - means)
        gains.append(one.at(sizes[-1]) - one.at(target))
    observed = 1 - scores.mean(axis=(1, 2))
    miss = max(abs(law.at(n) - error) for n, error in zip(sizes, observed, strict=True))  # where no law fits, say less
    low, high = np.quantile(gains, [0.025, 0.975]) + np.array([-miss, miss])
    value = law.at(sizes[-1]) - law.at(target)
    return law, Interval(value, float(low), float(high), float(np.std(gains)), scores.shape[2], len(groups))

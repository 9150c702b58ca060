"""Is a difference more than chance? Exact tests on paired differences, and Holm's correction for many of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from didact.audit.interval import Floats, sums_of
from didact.audit.shares import is_change_of_share

ENUMERATED = 14  # units up to which every flip of signs is tried
FLIPS = 10_000  # else so many drawn at random
CORRECTION = "Holm (1979)"


def paired_test(values: Sequence[float] | Floats, groups: Sequence[Hashable] | None = None, *, seed: int = 0) -> float:
    """Two-sided p of "no difference" for paired differences; items of one group flip their signs together.

    Hits against hits on independent items: McNemar's test, exact by the binomial. Else all flips of signs up to 14
    units, 10,000 at random beyond (Fisher's randomisation test; the observed one counts, so p is never 0). No value
    other than 0: 1.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) and is_change_of_share(numbers) and (groups is None or len(set(groups)) == len(numbers)):
        return _binomial(int((numbers > 0).sum()), int((numbers < 0).sum()))
    units = sums_of(np.stack([numbers, np.ones(len(numbers))], axis=1), groups)[:, 0]
    units = units[units != 0]
    if len(units) == 0:
        return 1.0
    seen = abs(units.sum()) - 1e-9
    if len(units) <= ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(units))))
        return float((abs(signs @ units) >= seen).mean())
    signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(FLIPS, len(units)))
    return float(((abs(signs @ units) >= seen).sum() + 1) / (FLIPS + 1))


def holm(chances: Sequence[float]) -> list[float]:
    """p values of several questions asked at once, corrected: together they stray as often as one would."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    corrected, highest = [0.0] * len(chances), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - place) * chances[i]))
        corrected[i] = highest
    return corrected


def _binomial(up: int, down: int) -> float:
    n, least = up + down, min(up, down)
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))

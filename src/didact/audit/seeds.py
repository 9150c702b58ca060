"""How sure are we of a figure that needs training? Intervals over seeds and items together.

Seeds and items are crossed: every trained model answers the same items. Chance of both is in the mean, and three seeds
say little of the next one, whatever the number of items.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from didact.audit.interval import Floats, Interval, mean_interval, sums_of
from didact.audit.shares import t_quantile


def seed_interval(
    scores: Sequence[Sequence[float]] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
    span: tuple[float, float] | None = (-1.0, 1.0),
) -> Interval:
    """Mean of seeds x items scores (or paired differences) with an interval for other seeds and other items.

    Variance by the mean squares of a two-way table of seeds and groups of items, degrees of freedom by Satterthwaite
    (1946). One seed: the interval of its items alone, which is silent on the chance of training.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=float))
    trained, n = table.shape
    if trained == 1 or n == 0:
        return mean_interval(table[0] if len(table) else [], groups, seed=seed, level=level, span=span)
    value = float(table.mean())
    columns = [sums_of(np.stack([row, np.ones(n)], axis=1), groups) for row in table]
    sizes = columns[0][:, 1]
    units = len(sizes)
    if units < 2:
        return Interval(value, math.nan, math.nan, math.nan, n, units, level)
    # Each group's sum, on a scale where the plain mean over groups is the mean over items.
    cells = np.stack([column[:, 0] - value * sizes for column in columns]) * units / n
    of_seeds, of_items = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - of_seeds[:, None] - of_items[None, :] + cells.mean()
    squares = {
        "seeds": (units * float(((of_seeds - of_seeds.mean()) ** 2).sum()) / (trained - 1), trained - 1),
        "items": (trained * float(((of_items - of_items.mean()) ** 2).sum()) / (units - 1), units - 1),
        "rest": (float((rest**2).sum()) / ((trained - 1) * (units - 1)), (trained - 1) * (units - 1)),
    }
    (a, free_a), (b, free_b), (c, free_c) = squares["seeds"], squares["items"], squares["rest"]
    total = a + b - c
    if total <= max(a, b):  # one of the two adds nothing that can be seen
        total, freedom = (a, free_a) if a > b else (b, free_b)
    else:
        freedom = total**2 / (a**2 / free_a + b**2 / free_b + c**2 / free_c)
    error = math.sqrt(total / (trained * units))
    if error == 0:
        alone = mean_interval(table.mean(axis=0), groups, seed=seed, level=level, span=span)
        return Interval(value, alone.low, alone.high, alone.error, n, units, level)
    reach = t_quantile(level, freedom) * error
    low, high = value - reach, value + reach
    if span is not None:
        low, high = max(low, span[0]), min(high, span[1])
    return Interval(value, low, high, error, n, units, level)


def gap_interval(
    here: Floats,
    there: Floats,
    groups_here: Sequence[Hashable] | None = None,
    groups_there: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Mean here minus mean there, for two sets of items that are not paired; items of one group count as one.

    Welch's interval (1947) on the means of groups of items.
    """
    value = float(np.mean(here) - np.mean(there))
    errors, free, units = [], [], 0
    for values, groups in ((here, groups_here), (there, groups_there)):
        pairs = sums_of(np.stack([np.asarray(values, float), np.ones(len(values))], axis=1), groups)
        k, n = len(pairs), len(values)
        units += k
        if k < 2:
            return Interval(value, math.nan, math.nan, math.nan, len(here) + len(there), units, level)
        rest = pairs[:, 0] - pairs[:, 1] * float(np.mean(values))
        errors.append(float((rest**2).sum()) / n**2 * k / (k - 1))
        free.append(k - 1)
    total = sum(errors)
    if total == 0:  # nothing differs within either set: what one more item could still show
        bound = 1 - ((1 - level) / 2) ** (1 / min(len(here), len(there)))
        return Interval(value, value - bound, value + bound, bound / 2, len(here) + len(there), units, level)
    freedom = total**2 / sum(error**2 / k for error, k in zip(errors, free, strict=True))
    error = math.sqrt(total)
    reach = t_quantile(level, freedom) * error
    return Interval(value, value - reach, value + reach, error, len(here) + len(there), units, level)

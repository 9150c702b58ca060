"""95% intervals hold the truth in 93-97 of 100 simulations: few items, shares near 0 and 1, groups of items, seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from didact.audit.exact import holm, paired_test
from didact.audit.interval import Interval, mean_interval
from didact.audit.seeds import seed_interval
from didact.audit.shares import change_bounds, t_quantile

FEW, MANY = 300, 2000  # simulations in make test and in make test-full
Drawn = tuple[Interval, float]  # an interval, and the truth it should hold


def rare_share(rng: np.random.Generator) -> Drawn:
    """Shares near 0 or 1; drawn afresh each time, since counts are whole and one share alone sits on a step."""
    share = rng.uniform(0.02, 0.1)
    share = share if rng.random() < 0.5 else 1 - share
    return mean_interval((rng.random(60) < share) * 1.0, span=(0.0, 1.0)), share


def few_items(rng: np.random.Generator) -> Drawn:
    share = rng.uniform(0.2, 0.8)
    return mean_interval((rng.random(20) < share) * 1.0, span=(0.0, 1.0)), share


def rare_change(rng: np.random.Generator) -> Drawn:
    """Two systems that are nearly always right, or nearly never: few items on which they differ."""
    up, down = rng.uniform(0.02, 0.08, 2)
    at = rng.random(150)
    return mean_interval(np.where(at < up, 1.0, np.where(at < up + down, -1.0, 0.0))), up - down


def change(rng: np.random.Generator) -> Drawn:
    up, down = rng.uniform(0.1, 0.4, 2)
    at = rng.random(40)
    return mean_interval(np.where(at < up, 1.0, np.where(at < up + down, -1.0, 0.0))), up - down


def grouped_shares(rng: np.random.Generator) -> Drawn:
    """Five wordings of each of thirty rows, answered nearly alike."""
    share = rng.uniform(0.1, 0.9)
    of_row = rng.beta(share * 2, (1 - share) * 2, 30)
    hits = (rng.random((30, 5)) < of_row[:, None]) * 1.0
    return mean_interval(hits.ravel(), list(np.repeat(np.arange(30), 5)), span=(0.0, 1.0)), share


def grouped_changes(rng: np.random.Generator) -> Drawn:
    lean = rng.normal(0.1, 0.3, 30)
    at = rng.random((30, 4))
    up = np.clip(0.3 + lean / 2, 0, 1)[:, None]
    down = np.clip(0.3 - lean / 2, 0, 1)[:, None]
    values = np.where(at < up, 1.0, np.where(at < up + down, -1.0, 0.0))
    return mean_interval(values.ravel(), list(np.repeat(np.arange(30), 4))), 0.1


def graded(rng: np.random.Generator) -> Drawn:
    return mean_interval(rng.beta(1, 4, 40) - rng.beta(1, 4, 40), seed=int(rng.integers(9999)), resamples=1000), 0.0


def seeds(rng: np.random.Generator, spread: float = 0.05, number: int = 3) -> Drawn:
    scores = (
        0.1 + rng.normal(0, spread, number)[:, None] + rng.normal(0, 0.2, 80)[None] + rng.normal(0, 0.3, (number, 80))
    )
    return seed_interval(scores, span=None), 0.1


def grouped_seeds(rng: np.random.Generator) -> Drawn:
    of_row = np.repeat(rng.normal(0, 0.3, 40), 3)
    scores = 0.1 + rng.normal(0, 0.03, 4)[:, None] + of_row[None] + rng.normal(0, 0.2, (4, 120))
    return seed_interval(scores, list(np.repeat(np.arange(40), 3)), span=None), 0.1


KINDS = [rare_share, few_items, rare_change, change, grouped_shares, grouped_changes, graded, seeds, grouped_seeds]


def coverage(kind: Callable[[np.random.Generator], Drawn], simulations: int) -> float:
    held = 0
    for number in range(simulations):
        interval, truth = kind(np.random.default_rng([number, len(kind.__name__)]))
        held += interval.low <= truth <= interval.high
    return held / simulations


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_coverage(kind: Callable[[np.random.Generator], Drawn]) -> None:
    assert 0.915 <= coverage(kind, FEW) <= 0.985  # 1.5 points of leeway: the share itself has an error of 1.3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_coverage_in_full(kind: Callable[[np.random.Generator], Drawn]) -> None:
    assert 0.93 <= coverage(kind, MANY) <= 0.97


def test_seeds_that_differ_widen_the_interval_and_one_seed_is_its_items() -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(0.2, 0.3, 200)
    alike = seed_interval([items + 0.001 * i for i in range(3)])
    apart = seed_interval([items - 0.1, items, items + 0.1])
    assert apart.error > 2 * alike.error
    assert seed_interval([items]) == mean_interval(items)
    same = seed_interval([np.ones(30)] * 3)
    assert same.low < same.value == 1.0


def test_student_quantiles() -> None:
    table = {1: 12.706, 2: 4.3027, 3: 3.1824, 5: 2.5706, 10: 2.2281, 100: 1.984}
    assert all(t_quantile(0.95, freedom) == pytest.approx(t, abs=2e-3) for freedom, t in table.items())


def test_paired_test_is_exact() -> None:
    assert paired_test([1.0] * 8 + [0.0] * 50 + [-1.0]) == pytest.approx(2 * (1 + 9) / 2**9)  # McNemar by hand
    assert paired_test([0.2, 0.5, 0.1]) == pytest.approx(2 / 8)  # all of 8 flips tried
    assert paired_test([0.0, 0.0]) == paired_test([]) == 1.0
    together = paired_test([1.0] * 20, list(np.repeat(np.arange(4), 5)))
    assert together == pytest.approx(2 / 16)  # four rows, not twenty items


def test_paired_test_strays_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    strays = [paired_test(rng.beta(1, 3, 12) - rng.beta(1, 3, 12)) <= 0.05 for _ in range(FEW)]
    assert 0.015 <= np.mean(strays) <= 0.09


def test_many_units_are_flipped_at_random() -> None:
    rng = np.random.default_rng(2)
    assert paired_test(rng.normal(0.5, 0.5, 60)) == pytest.approx(1 / 10_001)
    assert paired_test(rng.normal(0.0, 0.5, 60)) > 0.05


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_score_intervals_by_hand() -> None:
    """Wilson's for 1 of 20; for pairs that all agree Tango's is z squared over n plus z squared."""
    share = mean_interval([1.0] + [0.0] * 19, span=(0.0, 1.0))
    assert (share.low, share.high) == (pytest.approx(0.0089, abs=1e-4), pytest.approx(0.2361, abs=1e-4))
    low, high = change_bounds(np.zeros(50), np.stack([np.zeros(50), np.ones(50)], axis=1), 0.95)
    assert (low, high) == (pytest.approx(-3.8415 / 53.8415, abs=1e-4), pytest.approx(3.8415 / 53.8415, abs=1e-4))
    one = mean_interval([1.0] + [0.0] * 39)
    assert one.low < -0.05  # resampling could never go below 0


def test_rows_asked_often_count_once() -> None:
    hits = (np.arange(30) % 3 == 0) * 1.0
    apart = mean_interval(hits, span=(0.0, 1.0))
    often = mean_interval(np.repeat(hits, 4), list(np.repeat(np.arange(30), 4)), span=(0.0, 1.0))
    assert often.high - often.low == pytest.approx(apart.high - apart.low, rel=0.1)

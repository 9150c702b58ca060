"""Intervals hold what they promise: coverage on simulations with known truth, and honest edges."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from didact.audit.interval import Interval, mean_interval, ratio_interval

FEW, MANY = 400, 2000  # simulations in make test and in make test-full


def coverage(simulations: int, kind: str) -> float:
    """The share of 95% intervals that hold the true mean."""
    hits = 0
    for seed in range(simulations):
        rng = np.random.default_rng([seed, len(kind)])
        groups = None
        if kind == "paired":  # two systems on items of varying difficulty; true difference 0.15
            easy = rng.beta(1, 1, 80)
            values = (rng.random(80) < np.minimum(1, easy * 0.7 + 0.3)) - (rng.random(80) < easy * 0.7 + 0.15) * 1.0
            truth = 0.15
        elif kind == "grouped":  # five wordings of each of 40 rows, answered nearly alike
            row = rng.normal(0, 0.3, 40)
            values = np.repeat(row, 5) + rng.normal(0, 0.1, 200) + 0.1
            groups, truth = list(np.repeat(np.arange(40), 5)), 0.1
        elif kind == "graded":  # ROUGE-like differences, skewed
            values, truth = rng.beta(1, 4, 60) - rng.beta(1, 4, 60), 0.0
        else:  # tokens: a ratio of sums over texts of very different length
            tokens = rng.integers(20, 200, 60)
            values = rng.normal(0.05, 0.02, 60) * tokens
            interval = ratio_interval(values, tokens, seed=seed, resamples=1000)
            hits += interval.low <= 0.05 <= interval.high
            continue
        interval = mean_interval(values, groups, seed=seed, resamples=1000)
        hits += interval.low <= truth <= interval.high
    return hits / simulations


@pytest.mark.parametrize("kind", ["paired", "grouped", "graded", "ratio"])
def test_coverage(kind: str) -> None:
    assert 0.92 <= coverage(FEW, kind) <= 0.98  # one point of leeway: the share itself has an error of 1.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paired", "grouped", "graded", "ratio"])
def test_coverage_in_full(kind: str) -> None:
    assert 0.93 <= coverage(MANY, kind) <= 0.97


def test_rows_that_share_a_source_widen_the_interval() -> None:
    row = np.random.default_rng(0).normal(0, 1, 30)
    values = np.repeat(row, 10)
    apart = mean_interval(values)
    together = mean_interval(values, list(np.repeat(np.arange(30), 10)))
    assert together.error > 2.5 * apart.error
    assert (together.n, together.groups) == (300, 30)


def test_few_distinct_values_and_many_give_the_same_interval() -> None:
    """The multinomial short cut draws from the same distribution as drawing items one by one."""
    hits = (np.arange(300) % 3 == 0).astype(float)
    jittered = hits + np.linspace(-1e-6, 1e-6, 300)
    short, long = mean_interval(hits), mean_interval(jittered)
    assert short.low == pytest.approx(long.low, abs=0.004)
    assert short.high == pytest.approx(long.high, abs=0.004)
    assert short.error == pytest.approx(math.sqrt(hits.var(ddof=1) / 300), rel=0.03)


def test_no_difference_anywhere_is_not_certainty() -> None:
    interval = mean_interval(np.zeros(50))
    assert interval.low == pytest.approx(-interval.high)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 50))  # Clopper and Pearson's bound for 0 of 50
    assert mean_interval(np.zeros(5000)).high < 0.001
    assert mean_interval(np.ones(20), span=(0.0, 1.0)).high == 1.0


def test_same_seed_same_interval_and_10000_resamples_are_quick() -> None:
    values = np.random.default_rng(0).random(2000)
    start = time.perf_counter()
    first = mean_interval(values, seed=3)
    assert time.perf_counter() - start < 5
    assert first == mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_nothing_and_nan_give_no_interval() -> None:
    assert math.isnan(mean_interval([]).low)
    assert math.isnan(mean_interval([0.1, math.nan, 0.2]).low)


def test_minimum_detectable_effect_is_found_in_four_audits_of_five() -> None:
    n, sd = 200, 0.5
    effect = Interval(0, 0, 0, sd / math.sqrt(n), n, n).detectable
    assert effect == pytest.approx(2.8016 * sd / math.sqrt(n), rel=1e-3)
    found = sum(
        mean_interval(np.random.default_rng(seed).normal(effect, sd, n), seed=seed, resamples=1000).low > 0
        for seed in range(400)
    )
    assert 0.74 < found / 400 < 0.86


def test_items_for_an_effect_grow_with_its_inverse_square() -> None:
    interval = Interval(0, 0, 0, 0.05, 100, 100)
    assert interval.items_for(interval.detectable) == pytest.approx(100, abs=1)
    assert interval.items_for(interval.detectable / 2) == pytest.approx(400, abs=1)

from __future__ import annotations

import numpy as np
import pytest

from didact.audit.interval import Interval
from didact.audit.seeds import seed_interval
from didact.reproduce.sign import Expect, Role, Sign, Verdict, overall, sentence


def seen(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, (high - low) / 4, 100, 100)


@pytest.mark.parametrize(
    ("expects", "low", "high", "verdict"),
    [
        ("more", 0.01, 0.3, "appears"),
        ("more", -0.2, 0.04, "does not appear"),
        ("more", 0.001, 0.04, "does not appear"),  # there, but too small to matter
        ("more", -0.3, -0.1, "does not appear"),
        ("more", -0.02, 0.1, "cannot be told"),
        ("no less", -0.04, 0.5, "appears"),
        ("no less", 0.1, 0.5, "appears"),
        ("no less", -0.3, -0.01, "does not appear"),
        ("no less", -0.1, 0.1, "cannot be told"),
        ("same", -0.04, 0.04, "appears"),
        ("same", 0.01, 0.04, "appears"),
        ("same", 0.01, 0.2, "does not appear"),
        ("same", -0.2, -0.01, "does not appear"),
        ("same", -0.1, 0.03, "cannot be told"),
        ("more", float("nan"), float("nan"), "cannot be told"),
    ],
)
def test_an_interval_decides(expects: Expect, low: float, high: float, verdict: Verdict) -> None:
    sign = Sign("one beats other", expects, seen(low, high))
    assert sign.verdict == verdict
    assert bool(sign.why) == (verdict == "cannot be told")


INTERVALS: dict[Verdict, Interval] = {
    "appears": seen(0.1, 0.3),
    "does not appear": seen(-0.3, -0.1),
    "cannot be told": seen(-0.3, 0.3),
}


def signs(verdicts: list[Verdict], role: Role = "claim") -> list[Sign]:
    return [Sign("one beats other", "more", INTERVALS[verdict], role=role) for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["appears", "appears"], "the sign appears"),
        (["appears", "does not appear"], "the sign appears in part"),
        (["appears", "cannot be told"], "the sign appears in part"),
        (["does not appear", "cannot be told"], "the sign does not appear"),
        (["cannot be told"], "cannot be told"),
    ],
)
def test_all_signs_of_the_claim_must_appear(verdicts: list[Verdict], verdict: str) -> None:
    assert overall(signs(verdicts)) == verdict


@pytest.mark.parametrize("verdict", ["does not appear", "cannot be told"])
def test_signs_beside_decide_nothing_and_a_failed_control_all(verdict: Verdict) -> None:
    claim = signs(["appears"])
    assert overall(claim + signs([verdict], "beside")) == "the sign appears"
    assert overall(signs([verdict]) + signs(["appears"], "beside")) != "the sign appears in part"
    assert overall(claim + signs([verdict], "control")) == "cannot be told"
    assert "A control fails: one beats other." in sentence(claim + signs([verdict], "control"))


def test_the_sentence_names_every_sign_with_its_figures() -> None:
    told = sentence([Sign("a beats b", "more", seen(0.1, 0.3)), Sign("c is d", "same", seen(-0.3, 0.3))])
    assert told == (
        "The sign appears in part (1 of 2). Appears: a beats b (+20.0 points [+10.0, +30.0]). Cannot be told: c is d "
        "(+0.0 points [−30.0, +30.0]; the interval is 60 points wide, and 5 points matter)."
    )


def shares(truth: float, items: int, expects: Expect = "more", runs: int = 150) -> dict[str, float]:
    """How often each verdict is given where arms differ by `truth` on average, with chance in items and seeds."""
    rng = np.random.default_rng(0)
    found = {"appears": 0.0, "does not appear": 0.0, "cannot be told": 0.0}
    for _ in range(runs):
        hard = rng.normal(0, 0.15, items)
        arms = []
        for lead in (0.0, truth):
            chance = np.clip(0.5 + lead + hard + rng.normal(0, 0.02, (3, 1)), 0, 1)
            arms.append((rng.random((3, items)) < chance).astype(float))
        found[Sign("", expects, seed_interval(arms[1] - arms[0])).verdict] += 1 / runs
    return found


def test_a_true_difference_is_seen() -> None:
    assert shares(0.25, 150)["appears"] > 0.9


def test_chance_is_rarely_taken_for_a_sign() -> None:
    assert shares(0.0, 150)["appears"] < 0.06
    assert shares(-0.2, 150, "no less")["appears"] < 0.01
    assert shares(0.25, 150, "same")["appears"] < 0.01


def test_with_few_items_nothing_can_be_told() -> None:
    assert shares(0.05, 12)["cannot be told"] > 0.8

"""Does the model know what it knows? The probability of its first choice beside how often that is right.

Confidence is the softmax of the choices' summed log-probabilities; over- or underconfidence is its mean minus accuracy.
Expected calibration error over equally filled bins (Guo et al. 2017, arXiv 1706.04599) and the Brier score beside it.
Limits: closed answers only; ECE is never 0 on few items, so the verdict rests on the mean difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import failed, groups_of, sample
from didact.audit.score import right_choices
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import percent, points
from didact.instance import Instance

QUESTION = "Is the tuned model as sure of its choices as it is right?"


class CalibrationConfig(BaseModel):
    """Confidence beside accuracy, base and tuned."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["calibration"] = "calibration"
    items: int = Field(400, ge=1, description="closed held-out instances asked, spread over tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said")
    bins: int = Field(10, ge=2, description="bins of the reliability table, equally filled")
    smallest: float = Field(0.05, gt=0, lt=1, description="over- or underconfidence that matters, as a fraction")


@dataclass(frozen=True)
class Sure:
    """Per item: the probability of the first choice, whether it is right, and the Brier score."""

    confidence: Floats
    right: Floats
    brier: Floats

    def ece(self, bins: int) -> float:
        return sum(
            len(b) * abs(float(self.confidence[b].mean() - self.right[b].mean())) for b in self.bins(bins)
        ) / len(self.right)

    def bins(self, number: int) -> list[Any]:
        return [part for part in np.array_split(np.argsort(self.confidence, kind="stable"), number) if len(part)]


def calibration(config: CalibrationConfig, subject: Subject) -> list[Finding]:
    """One finding: mean confidence minus accuracy of the tuned model; base, ECE and Brier score beside it."""
    asked = sample([i for i in subject.heldout if len(i.choices) > 1 and right_choices(i)], config.items, subject.seed)
    if len(asked) < config.min_items:
        told = f"Only {len(asked)} held-out items have choices to rank, and {config.min_items} are needed."
        return [failed("calibration", QUESTION, told)]
    kept, base, tuned = _both(subject, asked)
    if len(kept) < config.min_items:
        told = f"{len(asked) - len(kept)} of {len(asked)} rankings are not finite: look for NaN in the model's outputs."
        return [failed("calibration", QUESTION, told)]
    rows = groups_of(kept)
    over, was = (mean_interval(s.confidence - s.right, rows, seed=subject.seed) for s in (tuned, base))
    better = mean_interval(base.brier - tuned.brier, rows, seed=subject.seed)
    category = _category(over, config.smallest)
    verdict = (
        f"{category.capitalize()}. Over {len(kept)} closed items the tuned model is "
        f"{percent(float(tuned.confidence.mean()))} "
        f"sure of its first choice and right in {percent(float(tuned.right.mean()))}: {points(over)}; before tuning "
        f"{points(was)}. Expected calibration error {percent(tuned.ece(config.bins))}, before "
        f"{percent(base.ece(config.bins))}; Brier score {tuned.brier.mean():.3f}, before {base.brier.mean():.3f}."
        f"{settled(over, config.smallest)}"
    )
    details = {
        "category": category,
        "ece": {"tuned": tuned.ece(config.bins), "base": base.ece(config.bins)},
        "brier": {"tuned": float(tuned.brier.mean()), "base": float(base.brier.mean()), "better": better.to_json()},
        "detectable": over.detectable,
        "pictures": [
            whiskers(
                [("after", "", over), ("before", "", was)],
                "points",
                "Confidence minus accuracy; right of 0 is too sure.",
            ),
            whiskers(_reliability(tuned, config.bins), "percent", "How often it is right, by how sure it is."),
        ],
        "tables": [
            table(
                "Reliability after tuning",
                ["bin", "sure, %", "right, %", "n"],
                [
                    [i + 1, 100 * float(tuned.confidence[b].mean()), 100 * float(tuned.right[b].mean()), len(b)]
                    for i, b in enumerate(tuned.bins(config.bins))
                ],
            )
        ],
    }
    return [
        Finding("calibration", QUESTION, verdict, over.value, over.low, over.high, was.value, over.n, details=details)
    ]


def _reliability(sure: Sure, bins: int) -> list[tuple[str, str, Interval]]:
    return [
        (
            f"sure {percent(float(sure.confidence[b].mean()))}",
            f"n={len(b)}",
            mean_interval(sure.right[b], span=(0.0, 1.0)),
        )
        for b in sure.bins(bins)
    ]


def _category(over: Interval, smallest: float) -> str:
    found = standing(over, smallest)
    if found == "same" or (found != "open" and max(abs(over.low), abs(over.high)) < smallest):
        return "well calibrated"
    return {"more": "overconfident", "less": "underconfident"}.get(found, "cannot be told apart")


def _both(subject: Subject, asked: Sequence[Instance]) -> tuple[list[Instance], Sure, Sure]:
    """Both models on the items that both could rank."""
    scores = [speaker.rank(asked) for speaker in (subject.base, subject.tuned)]
    pick = [i for i in range(len(asked)) if all(_finite(side[i]) for side in scores)]
    kept = [asked[i] for i in pick]
    base, tuned = (_sure([side[i] for i in pick], kept) for side in scores)
    return kept, base, tuned


def _finite(scores: Sequence[float]) -> bool:
    return len(scores) > 1 and all(math.isfinite(score) for score in scores)


def _sure(scores: Sequence[Sequence[float]], asked: Sequence[Instance]) -> Sure:
    confidence, right, brier = [], [], []
    for given, instance in zip(scores, asked, strict=True):
        shares = np.exp(np.array(given) - max(given))
        shares /= shares.sum()
        good = right_choices(instance)
        best = int(np.argmax(shares))
        truth = np.array([i in good for i in range(len(shares))], dtype=float)
        confidence.append(float(shares[best]))
        right.append(float(best in good))
        brier.append(float(((shares - truth / truth.sum()) ** 2).sum()))
    return Sure(np.array(confidence), np.array(right), np.array(brier))

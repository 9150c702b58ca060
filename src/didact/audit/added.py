"""What do the generated instances add? The tuned model beside one tuned on all but them, asked the same held-out items.

Limits: one training each, so chance of the training itself is in the difference; the model without them is trained on
fewer instances and takes fewer steps, as it would if nobody had generated any.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import failed, groups_of, measure, sample
from didact.audit.subject import Arm, Finding, Subject
from didact.audit.verdict import LEVELS, SHORT, percent, plain, points
from didact.instance import Instance

QUESTION = "What do the generated instances add?"


class AddedConfig(BaseModel):
    """With the generated instances against without them."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["added"] = "added"
    items_per_level: int = Field(200, ge=1, description="held-out instances asked per level, spread over its tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said")
    stem: bool = Field(False, description="stem words in ROUGE-L (needs nltk)")


def added(config: AddedConfig, subject: Subject) -> list[Finding]:
    """One finding: the difference in score over all levels, and level by level in the details."""
    own = [instance for instance in subject.trained if instance.origin.via.startswith("generate:")]
    rest = [instance for instance in subject.trained if not instance.origin.via.startswith("generate:")]
    if not own or not rest or subject.retrain is None:
        why = (
            "no instance is generated" if not own else "all are generated" if not rest else "no model can be retrained"
        )
        return [failed("added", QUESTION, f"{why[0].upper()}{why[1:]}, so there is nothing to compare.")]
    asked: list[Instance] = []
    for level in LEVELS:
        here = [instance for instance in subject.heldout if instance.tags.get("level") == level]
        asked += sample(here, config.items_per_level, subject.seed)
    if len(asked) < config.min_items:
        return [failed("added", QUESTION, f"Only {len(asked)} held-out items, and {config.min_items} are needed.")]
    with_them, without = (
        measure(who, asked, config.stem) for who in (subject.tuned, subject.retrain(Arm("without the generated", rest)))
    )
    difference = with_them.score - without.score
    whole = mean_interval(difference, groups_of(asked), seed=subject.seed)
    rows = []
    for level in LEVELS:
        pick = np.array([i for i, instance in enumerate(asked) if instance.tags.get("level") == level], dtype=int)
        if len(pick) >= config.min_items:
            groups = groups_of([asked[i] for i in pick])
            interval = mean_interval(difference[pick], groups, seed=subject.seed)
            figures = {"with": float(with_them.score[pick].mean()), "without": float(without.score[pick].mean())}
            rows.append({"where": SHORT[level], **figures, **interval.to_json()})
    category = _category(whole)
    base = float(without.score.mean())
    right = _right(own)
    details = {"category": category, "levels": rows, "generated": len(own), "others": len(rest), **right}
    verdict = _sentence(category, whole, base, len(own), len(rest), right.get("right"))
    return [Finding("added", QUESTION, verdict, whole.value, whole.low, whole.high, base, whole.n, details=details)]


def _category(whole: Interval) -> str:
    return "they help" if whole.low > 0 else "they harm" if whole.high < 0 else "no difference seen"


def _right(own: list[Instance]) -> dict[str, float]:
    """The share of generated answers that are right, where rows could tell."""
    told = [instance.tags["right"] == "yes" for instance in own if "right" in instance.tags]
    return {"right": sum(told) / len(told), "checked": len(told)} if told else {}


def _sentence(category: str, whole: Interval, base: float, own: int, rest: int, right: float | None) -> str:
    text = (
        f"{category.capitalize()}. With {own:,} generated instances beside {rest:,} others the score on {whole.n:,} "
        f"held-out items is {percent(base + whole.value)}, without them {percent(base)}: {points(whole)}."
    )
    if category == "no difference seen":
        text += f" A true difference under {plain(whole.detectable)} points would often be missed."
    return text + (
        "" if right is None else f" Of the generated answers {percent(right)} are right by their rows' rules."
    )

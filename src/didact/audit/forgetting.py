"""What was lost? Loss on plain prose that the tuning never touched, before and after.

In bits per token, so two models with one tokenizer compare; texts are resampled whole. Limit: the loss says that
something was lost, not what; and a few texts of one kind stand for all that the base knew.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.interval import Interval, ratio_interval
from didact.audit.measure import failed
from didact.audit.subject import Finding, Subject

QUESTION = "Did the tuning cost the model its grasp of plain text?"


class ForgettingConfig(BaseModel):
    """Loss on held-out plain text, base against tuned."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["forgetting"] = "forgetting"
    texts: int = Field(200, ge=1, description="held-out texts read")
    min_texts: int = Field(10, ge=2, description="with fewer texts than this nothing is said")
    noticeable: float = Field(0.1, gt=0, description="a rise in bits per token that counts as forgetting")


def forgetting(config: ForgettingConfig, subject: Subject) -> list[Finding]:
    """One finding: the change of loss in bits per token, with a paired interval over texts."""
    texts = list(subject.texts)[: config.texts]
    before = np.array(subject.base.text_loss(texts), dtype=float).reshape(-1, 2)
    after = np.array(subject.tuned.text_loss(texts), dtype=float).reshape(-1, 2)
    finite = np.isfinite(before[:, 0]) & np.isfinite(after[:, 0]) & (before[:, 1] > 0)
    if not np.isfinite(after[:, 0]).all() and len(after):
        broken = int((~np.isfinite(after[:, 0])).sum())
        problem = f"The tuned model's loss is not finite on {broken} of {len(after)} texts; lower tune.learning_rate."
        return [failed("forgetting", QUESTION, problem)]
    if finite.sum() < config.min_texts:
        problem = f"Only {int(finite.sum())} held-out texts, and {config.min_texts} are needed."
        return [failed("forgetting", QUESTION, problem)]
    before, after = before[finite], after[finite]
    tokens, bits = before[:, 1], (after[:, 0] - before[:, 0]) / math.log(2)
    change = ratio_interval(bits, tokens, seed=subject.seed)
    base = float(before[:, 0].sum() / math.log(2) / tokens.sum())
    category = _category(change, config.noticeable)
    verdict = (
        f"{category.capitalize()}. On {change.n} plain texts the loss went from {base:.3f} to "
        f"{base + change.value:.3f} bits per token: {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]."
    )
    details = {"category": category, "unit": "bits per token", "tuned": base + change.value, **change.to_json()}
    return [
        Finding("forgetting", QUESTION, verdict, change.value, change.low, change.high, base, change.n, details=details)
    ]


def _category(change: Interval, noticeable: float) -> str:
    if change.low > noticeable:
        return "forgetting"
    if change.low > 0:
        return "slight forgetting"
    return "no forgetting seen" if change.high < noticeable else "forgetting cannot be ruled out"

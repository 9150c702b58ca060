"""Does the tuned model end its answers by itself? A model that never learnt its stop token runs to the limit.

Shares its generations with `gain`. Limit: only the instances asked, at the generation limit of the audit.
"""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import example, failed, groups_of, measure, sample
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import LEVELS, percent, points

QUESTION = "Does the tuned model end its answers by itself?"


class StopConfig(BaseModel):
    """The share of generations that ended by themselves, base against tuned."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["stop"] = "stop"
    items_per_level: int = Field(400, ge=1, description="held-out instances asked per level, as in gain")
    enough: float = Field(0.95, gt=0, le=1, description="the share of ended answers that counts as stopping reliably")
    examples: int = Field(3, ge=0, description="runaway answers shown")


def stop(config: StopConfig, subject: Subject) -> list[Finding]:
    """One finding: the tuned share of ended answers against the untuned, over all levels."""
    chosen = [
        instance
        for level in LEVELS
        for instance in sample(
            [i for i in subject.heldout if i.tags.get("level") == level], config.items_per_level, subject.seed
        )
    ]
    if not chosen:
        return [failed("stop", QUESTION, "No held-out instances were given; raise build.heldout_rows.")]
    base, tuned = measure(subject.base, chosen), measure(subject.tuned, chosen)
    rows = groups_of(chosen)
    share = mean_interval(tuned.stopped, rows, seed=subject.seed, span=(0.0, 1.0))
    change = mean_interval(tuned.stopped - base.stopped, rows, seed=subject.seed)
    category = _category(share, config.enough)
    runaway = [i for i in range(len(chosen)) if not tuned.stopped[i]]
    shown = random.Random(subject.seed).sample(runaway, min(config.examples, len(runaway)))
    lengths = [reply.tokens for reply in tuned.replies]
    verdict = (
        f"{category.capitalize()}. {percent(share.value)} [{percent(share.low)}, {percent(share.high)}] of the tuned "
        f"model's answers ended by themselves, before {percent(float(base.stopped.mean()))}: {points(change)}, "
        f"n={len(chosen)}. Median length {int(np.median(lengths))} tokens."
    )
    return [
        Finding(
            "stop",
            QUESTION,
            verdict,
            change.value,
            change.low,
            change.high,
            float(base.stopped.mean()),
            len(chosen),
            [{"rule": "did not end", **example(chosen[i], base, tuned, i)} for i in shown],
            {"category": category, "enough": config.enough, "tuned": share.to_json(), "change": change.to_json()},
        )
    ]


def _category(share: Interval, enough: float) -> str:
    if share.low >= enough:
        return "stops reliably"
    return "does not stop reliably" if share.high < enough else "stops mostly"

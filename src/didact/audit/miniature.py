"""Trainings in miniature and what they answer: arms that differ in one thing, asked the same items, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from didact.audit.interval import Floats, Interval
from didact.audit.measure import groups_of, measure
from didact.audit.seeds import seed_interval
from didact.audit.subject import Arm, Speaker, Subject
from didact.audit.verdict import points
from didact.instance import Instance

What = Literal["score", "form", "content"]


@dataclass(frozen=True)
class Outcome:
    """What an arm's models made of the items: seeds x items each. content: ranked credit, or the score of free ones."""

    name: str
    instances: int
    score: Floats
    form: Floats
    content: Floats

    def mean(self, asked: Sequence[Instance], what: What = "score", seed: int = 0) -> Interval:
        return seed_interval(getattr(self, what), groups_of(asked), seed=seed, span=(0.0, 1.0))

    def lead(self, other: Outcome, asked: Sequence[Instance], what: What = "score", seed: int = 0) -> Interval:
        """This arm's figure minus the other's, paired by item, and by seed where both have as many."""
        mine, theirs = getattr(self, what), getattr(other, what)
        if len(mine) != len(theirs):
            theirs = np.broadcast_to(theirs.mean(axis=0), mine.shape)
        return seed_interval(mine - theirs, groups_of(asked), seed=seed)


def asked_of(name: str, speakers: Sequence[Speaker], asked: Sequence[Instance], trained: int = 0) -> Outcome:
    """What models that are there make of the items, as one arm."""
    measured = [measure(speaker, asked) for speaker in speakers]
    return Outcome(
        name,
        trained,
        np.array([one.score for one in measured]),
        np.array([one.form for one in measured]),
        np.array([np.where(np.isfinite(one.ranked), one.ranked, one.score) for one in measured]),
    )


def unlearnt(arm: Outcome, base: Outcome, asked: Sequence[Instance], seed: int = 0) -> str:
    """Why nothing can be said of arms: the one with most is not clearly better than the untuned model; else empty."""
    lead = arm.lead(base, asked, "score", seed)
    if lead.low > 0:
        return ""
    return (
        f"Trained in miniature on {arm.instances:,} instances, the model is not clearly better than untuned "
        f"({points(lead)} in score, n={lead.n}), so there is nothing yet to compare; use more instances."
    )


def outcome(
    subject: Subject,
    name: str,
    instances: Sequence[Instance],
    asked: Sequence[Instance],
    seeds: int = 1,
    changes: Mapping[str, Any] | None = None,
) -> Outcome:
    """An arm trained once per seed (the run's own, then those after it) and asked the items; kept by content hash."""
    assert subject.retrain is not None, "a probe looks whether it can retrain first"
    speakers = []
    for number in range(seeds):
        own = dict(changes or {}) | ({"tune.seed": subject.seed + number} if number else {})
        told = name if seeds == 1 else f"{name}, seed {number + 1} of {seeds}"
        speakers.append(subject.retrain(Arm(told, instances, own)))
    return asked_of(name, speakers, asked, len(instances))

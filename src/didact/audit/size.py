"""Would more of the same data help? A ladder of sizes, in instances and in tasks, and a power law through it.

Trainings in miniature on nested subsets: more instances of all tasks, and more tasks at the same number of instances
(Super-NaturalInstructions: log-linear in tasks, saturated early in instances). The law says what doubling would bring;
the cost of that rung stands beside it. Limit: a law fitted to few rungs foretells one rung, not ten.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import line, table
from didact.audit.interval import Interval
from didact.audit.measure import failed, groups_of, sample, task_of
from didact.audit.miniature import Outcome, asked_of, outcome, unlearnt
from didact.audit.power import Power, next_gain
from didact.audit.standing import settled
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import count, percent, points
from didact.instance import Instance

Ladder = Literal["instances", "tasks"]
QUESTIONS: dict[Ladder, str] = {
    "instances": "Would more instances of the same tasks help?",
    "tasks": "Would more tasks of the same kind help?",
}


class SizeConfig(BaseModel):
    """Ladders of data sizes, a power law, and what the next rung would bring and cost."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["size"] = "size"
    ladders: list[Ladder] = Field(["instances", "tasks"], min_length=1, description="what is made more")
    rungs: int = Field(4, ge=3, le=8, description="sizes, each twice the one before")
    largest: int = Field(2000, ge=64, description="training instances of the highest rung, if there are so many")
    seeds: int = Field(1, ge=1, description="trainings of each rung")
    items: int = Field(200, ge=30, description="held-out instances asked, spread over tasks of all levels")
    smallest: float = Field(0.02, gt=0, lt=1, description="the smallest gain of a doubling that is worth its data")


def size(config: SizeConfig, subject: Subject) -> list[Finding]:
    """One finding per ladder."""
    return [_ladder(config, subject, ladder) for ladder in config.ladders]


def _ladder(config: SizeConfig, subject: Subject, ladder: Ladder) -> Finding:
    question = QUESTIONS[ladder]
    asked = sample(subject.heldout, config.items, subject.seed)
    if subject.retrain is None or len(asked) < 30:
        why = "No model can be retrained here." if subject.retrain is None else f"Only {len(asked)} held-out items."
        return failed("size", question, why)
    rungs = _rungs(config, subject, ladder)
    if len(rungs) < 3:
        return failed(
            "size", question, f"Only {count(len(rungs), 'size')} can be made of the training data; 3 are needed."
        )
    climbed = [outcome(subject, f"{n:,} {ladder}", rows, asked, config.seeds) for n, rows in rungs]
    base = asked_of("untuned", [subject.base], asked)
    if why := unlearnt(climbed[-1], base, asked, subject.seed):  # a ladder that has not begun to rise foretells nothing
        return failed("size", question, why)
    sizes = [float(n) for n, _ in rungs]
    rows = groups_of(asked)
    index: dict[Any, int] = {}
    units = [index.setdefault(row, len(index)) for row in rows]
    scores = np.stack([one.score for one in climbed])
    law, gain = next_gain(sizes, scores, units, 2 * sizes[-1], subject.seed)
    step = climbed[-1].lead(climbed[-2], asked, "score", subject.seed)
    if gain.low == gain.high:  # all rungs alike, item by item: what the items can tell is what the last doubling tells
        gain = replace(gain, low=min(gain.low, step.low), high=max(gain.high, step.high), error=step.error)
    category = _category(gain, config.smallest)
    cost = _cost(subject, rungs[-1][1], ladder)
    verdict = (
        f"{category.capitalize()}. From {sizes[0]:,.0f} to {sizes[-1]:,.0f} {ladder} the score goes from "
        f"{percent(float(climbed[0].score.mean()))} to {percent(float(climbed[-1].score.mean()))} "
        f"({count(config.seeds, 'seed')}, n={len(asked)}); the last doubling brought {points(step)}. By the fitted law "
        f"another doubling would bring {points(gain)} towards a limit of {percent(1 - law.floor)}{cost}."
        f"{settled(gain, config.smallest)}"
    )
    details = {
        "category": category,
        "ladder": ladder,
        "law": {"floor": law.floor, "scale": law.scale, "rate": law.rate},
        "last doubling": step.to_json(),
        "detectable": gain.detectable,
        "seeds": config.seeds,
        "pictures": [_picture(ladder, sizes, climbed, asked, law, gain, subject.seed)],
        "tables": [
            table(
                "Rungs",
                [ladder, "trained on", "score, %", "right form, %", "content, %", "law, %"],
                [
                    [
                        f"{n:,.0f}",
                        one.instances,
                        *(100 * float(x.mean()) for x in (one.score, one.form, one.content)),
                        100 * (1 - law.at(n)),
                    ]
                    for n, one in zip(sizes, climbed, strict=True)
                ],
            )
        ],
    }
    start = float(base.score.mean())
    return Finding("size", question, verdict, gain.value, gain.low, gain.high, start, gain.n, [], details)


def _rungs(config: SizeConfig, subject: Subject, ladder: Ladder) -> list[tuple[int, list[Instance]]]:
    """Nested subsets, smallest first: (size, instances)."""
    pool = [instance for instance in subject.trained if instance.answer]
    if ladder == "instances":
        order = sample(pool, min(config.largest, len(pool)), subject.seed)  # spread over tasks at every length
        top = len(order)
        sizes = [top // 2**i for i in reversed(range(config.rungs)) if top // 2**i >= 8]
        return [(n, order[:n]) for n in sizes]
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for instance in pool:
        by_task[task_of(instance)].append(instance)
    tasks = random.Random(f"{subject.seed} tasks").sample(sorted(by_task), len(by_task))
    numbers = [len(tasks) // 2**i for i in reversed(range(config.rungs)) if len(tasks) // 2**i >= 1]
    numbers = sorted(set(numbers))
    same = min(config.largest, *(sum(len(by_task[t]) for t in tasks[:n]) for n in numbers)) if numbers else 0
    return [(n, sample([i for t in tasks[:n] for i in by_task[t]], same, subject.seed)) for n in numbers]


def _category(gain: Interval, smallest: float) -> str:
    if gain.high < smallest:
        return "more of the same would not help"
    return "more of the same would help" if gain.low > 0 and gain.value >= smallest else "cannot be told"


def _cost(subject: Subject, rows: Sequence[Instance], ladder: Ladder) -> str:
    """What the next rung would need, in words."""
    n = 2 * len(rows) if ladder == "instances" else len(rows)
    need = f", for {len(rows):,} more instances" if ladder == "instances" else ", for as many more tasks"
    if not subject.seconds_per_instance:
        return need
    minutes = n * subject.epochs * subject.seconds_per_instance / 60
    return f"{need} and about {minutes:,.1f} minutes of training"


def _picture(
    ladder: Ladder,
    sizes: Sequence[float],
    climbed: Sequence[Outcome],
    asked: Sequence[Instance],
    law: Power,
    gain: Interval,
    seed: int,
) -> dict[str, Any]:
    def told(what: Literal["score", "form", "content"]) -> list[tuple[float, Interval]]:
        return [(n, one.mean(asked, what, seed)) for n, one in zip(sizes, climbed, strict=True)]

    last = 1 - law.at(sizes[-1])
    foretold = {"value": last + gain.value, "low": last + gain.low, "high": last + gain.high}
    series: dict[str, Sequence[tuple[float, Any]]] = {
        "score": told("score"),
        "right form": told("form"),
        "foretold": [(2 * sizes[-1], foretold)],
    }
    caption = "Score by size, 95% intervals; the last point is what the law foretells for a doubling."
    return line(series, ladder, "percent", caption)

"""What does a gain inside a domain cost outside? The change of score inside, outside, and the loss on plain text.

Inside is what the recipe names, or the clusters that were trained on; outside is all else that is held out. A tuned
specialist that lost elsewhere is one; Gudibande et al. (2023, arXiv 2305.15717) saw gains on supported tasks only.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval, mean_interval, ratio_interval
from didact.audit.measure import failed, groups_of, measure, sample, task_of
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import points
from didact.instance import Instance

QUESTION = "What does the gain inside the domain cost outside it?"


class DomainConfig(BaseModel):
    """The gain inside a domain against the loss outside."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["domain"] = "domain"
    inside: list[str] = Field(
        [], description="globs of clusters or tasks of the domain; the trained clusters unless given"
    )
    items: int = Field(200, ge=1, description="held-out instances asked on each side, spread over tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said of a side")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest change worth knowing, as a fraction")


def domain(config: DomainConfig, subject: Subject) -> list[Finding]:
    """One finding: change of content inside and outside, paired by item, and of the loss on plain text."""
    sides = {True: [i for i in subject.heldout if _inside(i, config, subject)], False: list[Instance]()}
    sides[False] = [i for i in subject.heldout if not _inside(i, config, subject)]
    changes: dict[bool, Interval] = {}
    rows: list[list[Any]] = []
    for side, items in sides.items():
        asked = sample(items, config.items, subject.seed)
        if len(asked) < config.min_items:
            continue
        base, tuned = measure(subject.base, asked), measure(subject.tuned, asked)
        content = [np.where(np.isfinite(m.ranked), m.ranked, m.score) for m in (base, tuned)]
        changes[side] = mean_interval(content[1] - content[0], groups_of(asked), seed=subject.seed)
        told = [100 * float(x.mean()) for x in (*content, base.score, tuned.score)]
        rows.append(["inside" if side else "outside", *told, len(asked)])
    if True not in changes:
        named = f"the globs {', '.join(config.inside)} match" if config.inside else "trained clusters have"
        return [
            failed("domain", QUESTION, f"{named[0].upper()}{named[1:]} fewer than {config.min_items} held-out items.")
        ]
    text = _text(subject)
    category = _category(changes, text, config.smallest)
    inside, outside = changes[True], changes.get(False)
    lost = (
        "no held-out item lies outside, so the cost cannot be said"
        if outside is None
        else f"outside by {points(outside)}"
    )
    verdict = f"{category.capitalize()}. Content changes inside by {points(inside)} (n={inside.n}), {lost}."
    verdict += settled(outside, config.smallest) if outside else ""
    if text is not None:
        verdict += (
            f" The loss on plain text changes by {text.value:+.3f} bits per token [{text.low:+.3f}, {text.high:+.3f}]."
        )
    names = [("inside", inside), *([("outside", outside)] if outside else [])]
    details = {
        "category": category,
        "inside": inside.to_json(),
        "outside": outside and outside.to_json(),
        "text": text and text.to_json(),
        "detectable": (outside or inside).detectable,
        "pictures": [whiskers([(n, f"n={i.n}", i) for n, i in names], "points", "The change in content, by item.")],
        "tables": [table("Sides", ["", "content before, %", "after, %", "score before, %", "after, %", "n"], rows)],
    }
    return [
        Finding(
            "domain", QUESTION, verdict, inside.value, inside.low, inside.high, rows[0][1] / 100, inside.n, [], details
        )
    ]


def _inside(instance: Instance, config: DomainConfig, subject: Subject) -> bool:
    names = (instance.origin.cluster, task_of(instance))
    if config.inside:
        return any(fnmatchcase(name, glob) for name in names for glob in config.inside)
    return instance.tags.get("level") != "heldout_cluster"


def _text(subject: Subject) -> Interval | None:
    texts = list(subject.texts)
    if len(texts) < 10:
        return None
    before, after = (np.array(s.text_loss(texts), dtype=float).reshape(-1, 2) for s in (subject.base, subject.tuned))
    known = np.isfinite(before[:, 0]) & np.isfinite(after[:, 0]) & (before[:, 1] > 0)
    return ratio_interval((after[known, 0] - before[known, 0]) / math.log(2), before[known, 1], seed=subject.seed)


def _category(changes: dict[bool, Interval], text: Interval | None, smallest: float) -> str:
    inside, outside = standing(changes[True], smallest), changes.get(False)
    cost = (outside is not None and outside.high < 0) or (text is not None and text.low > 0.1)
    if inside != "more":
        if cost and inside != "less":
            return "a cost outside without a gain inside"
        return "a loss inside the domain" if inside == "less" else "no gain inside the domain is shown"
    found = None if outside is None else standing(outside, smallest)
    if found == "less" or (text is not None and text.low > 0.1):
        return "a gain inside at a cost outside"
    if found == "more":
        return "a gain inside and outside"
    return "a gain inside without a loss outside" if found == "same" else "a gain inside, its cost open"

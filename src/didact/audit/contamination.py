"""Was the test in the training data? Scores on held-out items that overlap with training beside those that do not.

The overlap is found by the index that `curate: decontaminate` uses, with the roles exchanged: equal questions and
answers, words in a row, nearly equal texts. A leak shows twice: as a share of items, and as a gain that is larger on
them (Brown et al. 2020, arXiv 2005.14165, section 4).

Limits: rephrased and translated copies pass; what the base read in pre-training is not known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import mean_interval
from didact.audit.measure import example, failed, groups_of, measure, sample
from didact.audit.nearby import row
from didact.audit.seeds import gap_interval
from didact.audit.standing import settled
from didact.audit.subject import Finding, Overlap, Subject
from didact.audit.verdict import SHORT, count, percent, points
from didact.instance import Instance

QUESTION = "Do held-out items overlap with the training data, and does that flatter the gain?"


class ContaminationConfig(BaseModel):
    """Held-out items that overlap with training beside clean ones."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["contamination"] = "contamination"
    n: int = Field(13, ge=2, description="words in a row that count as overlap")
    near: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word 3-grams that counts as overlap")
    items: int = Field(200, ge=1, description="items asked on each side, spread over tasks")
    min_items: int = Field(20, ge=5, description="with fewer overlapping items than this their gain is not compared")
    allowed: float = Field(0.01, ge=0, lt=1, description="the share of overlapping items that needs no mention")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest difference worth knowing, as a fraction")


def contamination(config: ContaminationConfig, subject: Subject) -> list[Finding]:
    """One finding: the share of overlapping items, where they lie, and how much larger the gain is on them."""
    if subject.overlap is None or not subject.heldout or not subject.trained:
        return [failed("contamination", QUESTION, "There is nothing held out or nothing trained on to compare.")]
    heldout = list(subject.heldout)
    found = subject.overlap(heldout, config.n, config.near)
    dirty = [instance for instance, overlap in zip(heldout, found, strict=True) if overlap]
    clean = [instance for instance, overlap in zip(heldout, found, strict=True) if not overlap]
    share = mean_interval([float(overlap is not None) for overlap in found], groups_of(heldout), span=(0.0, 1.0))
    known = {instance.id: overlap for instance, overlap in zip(heldout, found, strict=True) if overlap}
    places = _places(heldout, known)
    details: dict[str, Any] = {
        "share": share.to_json(),
        "reasons": dict(Counter(overlap.reason for overlap in known.values())),
        "places": places,
        "tables": [_table(places)] if places else [],
    }
    text = f"{count(len(dirty), 'item')} of {len(heldout):,} held out ({percent(share.value)}) overlap with training"
    if len(dirty) < config.min_items or len(clean) < config.min_items:
        category = "contaminated" if share.value > config.allowed and dirty else "no overlap worth a mention"
        why = (
            "too few to compare the gain on them"
            if dirty
            else "looked for by equal texts, words in a row and near equality"
        )
        verdict = f"{category.capitalize()}. {text}{_named(places)}; {why}."
        shown = _examples(subject, dirty[:3], known)
        told = {**details, "category": category}
        return [Finding("contamination", QUESTION, verdict, n=len(heldout), examples=shown, details=told)]
    asked = {
        "overlapping": sample(dirty, config.items, subject.seed),
        "clean": sample(clean, config.items, subject.seed),
    }
    gains = {}
    for name, items in asked.items():
        before, after = measure(subject.base, items), measure(subject.tuned, items)
        gains[name] = (after.score - before.score, float(before.score.mean()), float(after.score.mean()))
    gap = gap_interval(
        gains["overlapping"][0], gains["clean"][0], groups_of(asked["overlapping"]), groups_of(asked["clean"])
    )
    category = (
        "contaminated" if gap.low > 0 else "overlap without a larger gain" if gap.high < config.smallest else "open"
    )
    category = "overlap, its effect open" if category == "open" else category
    verdict = (
        f"{category.capitalize()}. {text}{_named(places)}. On them the score rises from "
        f"{percent(gains['overlapping'][1])} "
        f"to {percent(gains['overlapping'][2])}, on clean items from {percent(gains['clean'][1])} to "
        f"{percent(gains['clean'][2])}: a gain larger by {points(gap)}.{settled(gap, config.smallest)}"
    )
    rows = [
        (name, f"n={len(asked[name])}", mean_interval(told[0], groups_of(asked[name]))) for name, told in gains.items()
    ]
    details |= {
        "category": category,
        "detectable": gap.detectable,
        "gain": {name: float(told[0].mean()) for name, told in gains.items()},
        "pictures": [
            whiskers(rows, "points", "The gain on items that overlap with training and on those that do not.")
        ],
    }
    shown = _examples(subject, asked["overlapping"][:3], known)
    clean_gain = float(np.mean(gains["clean"][0]))
    return [
        Finding("contamination", QUESTION, verdict, gap.value, gap.low, gap.high, clean_gain, gap.n, shown, details)
    ]


def _places(heldout: Sequence[Instance], known: dict[str, Overlap]) -> list[dict[str, Any]]:
    """Sources, most overlapping first: how many items overlap, at which levels, and with which training instance."""
    by_source: dict[str, list[Instance]] = defaultdict(list)
    for instance in heldout:
        by_source[instance.origin.source].append(instance)
    rows = []
    for source, items in by_source.items():
        hit = [instance for instance in items if instance.id in known]
        if hit:
            levels = Counter(SHORT.get(i.tags.get("level", ""), "other") for i in hit)
            near = next(known[i.id].near for i in hit)
            rows.append(
                {"source": source, "items": len(items), "overlap": len(hit), "levels": dict(levels), "near": near}
            )
    return sorted(rows, key=lambda row: (-row["overlap"] / row["items"], -row["overlap"], row["source"]))


def _named(places: Sequence[dict[str, Any]]) -> str:
    if not places:
        return ""
    worst = places[0]
    more = f" and {count(len(places) - 1, 'other source')}" if len(places) > 1 else ""
    return f": most in {worst['source']} ({worst['overlap']:,} of {worst['items']:,}){more}"


def _table(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [p["source"], p["overlap"], p["items"], ", ".join(f"{k} {v}" for k, v in p["levels"].items()), p["near"]]
        for p in places[:30]
    ]
    return table("Where they lie", ["source", "overlapping", "of", "levels", "a training instance"], rows)


def _examples(subject: Subject, items: Sequence[Instance], known: dict[str, Overlap]) -> list[dict[str, Any]]:
    """Overlapping items beside the training instance they overlap with."""
    if not items:
        return []
    base, tuned = measure(subject.base, items), measure(subject.tuned, items)
    trained = {instance.id: instance for instance in subject.trained}
    shown = []
    for i, instance in enumerate(items):
        near = trained.get(known[instance.id].near)
        told = {"rule": known[instance.id].reason, **example(instance, base, tuned, i)}
        if near is not None:
            told["near"] = [row(near)]
        shown.append(told)
    return shown

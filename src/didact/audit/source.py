"""Which part of the data teaches what? Each source, cluster or strategy left out in turn, and output sources swapped.

An arm with all, and one without each part, on trainings in miniature; what falls when a part is gone is what it taught
(Wang et al. 2023, arXiv 2306.04751: no single set wins everywhere). Where several teachers answered the same prompts,
arms differ in whose answers are learnt. p values by exact paired tests, corrected over parts by Holm (1979).

Limits: parts that teach the same cover for each other; without a part there is less data too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exact import CORRECTION, holm, paired_test
from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import failed, groups_of, sample
from didact.audit.miniature import Outcome, asked_of, outcome, unlearnt
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import bare, count, plain, points
from didact.instance import Instance

By = Literal["source", "cluster", "strategy", "task"]
PARTS = "Which part of the data teaches what?"
OUTPUT = "Does it matter whose answers are learnt?"


class SourceConfig(BaseModel):
    """Parts of the data left out in turn; whose answers are learnt."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["source"] = "source"
    by: By = Field("cluster", description="what is left out: each source, cluster, strategy or task")
    parts: int = Field(6, ge=2, le=40, description="parts left out, the largest ones")
    size: int = Field(1500, ge=50, description="training instances of the arm with all parts")
    seeds: int = Field(1, ge=1, description="trainings of each arm")
    items: int = Field(200, ge=30, description="held-out instances asked, spread over tasks of all levels")
    swap: bool = Field(True, description="compare teachers that answered the same prompts")


def source(config: SourceConfig, subject: Subject) -> list[Finding]:
    """A finding on parts, and one on teachers where several answered the same prompts."""
    if subject.retrain is None:
        return [failed("source", PARTS, "No model can be retrained here.")]
    asked = sample(subject.heldout, config.items, subject.seed)
    if len(asked) < 30:
        return [failed("source", PARTS, f"Only {len(asked)} held-out items; raise build.heldout_rows.")]
    found = [_parts(config, subject, asked)]
    return [*found, _swapped(config, subject, asked)] if config.swap else found


def part_of(instance: Instance, by: By) -> str:
    """What part of the data an instance belongs to."""
    origin = instance.origin
    if by == "strategy":
        return origin.via if origin.via.startswith("generate:") else "annotated"
    return {"source": origin.source, "cluster": origin.cluster, "task": origin.task}[by] or "(none)"


def _parts(config: SourceConfig, subject: Subject, asked: Sequence[Instance]) -> Finding:
    pool = sample([i for i in subject.trained if i.answer], config.size, subject.seed)
    counted = Counter(part_of(i, config.by) for i in pool)
    names = [name for name, n in counted.most_common(config.parts) if len(pool) - n >= 30]
    if len(counted) < 2 or not names:
        told = f"All training instances are of one {config.by}, so there is nothing to leave out."
        return failed("source", PARTS, told)
    whole = outcome(subject, "all parts", pool, asked, config.seeds)
    if why := unlearnt(whole, asked_of("untuned", [subject.base], asked), asked, subject.seed):
        return failed("source", PARTS, why)
    rows = groups_of(asked)
    without = {
        name: outcome(
            subject, f"without {name}", [i for i in pool if part_of(i, config.by) != name], asked, config.seeds
        )
        for name in names
    }
    taught = {name: whole.lead(one, asked, "score", subject.seed) for name, one in without.items()}
    chances = holm([paired_test((whole.score - one.score).mean(axis=0), rows) for one in without.values()])
    shown = [name for name, p in zip(names, chances, strict=True) if p < 0.05]
    order = sorted(names, key=lambda name: -taught[name].value)
    category = "some parts teach what others do not" if shown else "no part is shown to matter"
    best = order[0]
    verdict = (
        f"{category.capitalize()}. Of {count(len(names), 'part')} by {config.by} left out in turn, the score falls "
        f"most without {best}: by {bare(taught[best])} (n={len(asked)}, {count(config.seeds, 'seed')}). Shown after "
        f"correction for {len(names)} tests ({CORRECTION}): {', '.join(shown) if shown else 'none'}."
    )
    if not shown:
        verdict += f" A true effect under {plain(taught[best].detectable)} points would often be missed."
    corrected = dict(zip(names, chances, strict=True))
    details: dict[str, Any] = {
        "category": category,
        "by": config.by,
        "taught": {name: told.to_json() for name, told in taught.items()},
        "p": corrected,
        "correction": CORRECTION,
        "detectable": taught[best].detectable,
        "pictures": [
            whiskers(
                [(name, f"{counted[name]:,} instances", taught[name]) for name in order],
                "points",
                "What each part adds: the score with all parts minus that without it, 95% intervals.",
            )
        ],
        "tables": [_by_cluster(asked, whole, without, counted, corrected)],
    }
    most, start = taught[best], float(whole.score.mean())
    return Finding("source", PARTS, verdict, most.value, most.low, most.high, start, most.n, [], details)


def _by_cluster(
    asked: Sequence[Instance],
    whole: Outcome,
    without: dict[str, Outcome],
    counted: Counter[str],
    chances: dict[str, float],
) -> dict[str, Any]:
    """Which part teaches which skill: the fall of each held-out cluster without each part, in points."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, instance in enumerate(asked):
        members[instance.origin.cluster or "(none)"].append(i)
    clusters = sorted(members, key=lambda name: -len(members[name]))[:8]
    rows = []
    for name, one in without.items():
        fall = (whole.score - one.score).mean(axis=0)
        figures = [100 * float(fall[members[cluster]].mean()) for cluster in clusters]
        rows.append([name, counted[name], 100 * float(fall.mean()), chances[name], *figures])
    return table("What falls without each part, points", ["part", "instances", "all", "p, corrected", *clusters], rows)


def _swapped(config: SourceConfig, subject: Subject, asked: Sequence[Instance]) -> Finding:
    by_prompt: dict[tuple[str, ...], dict[str, Instance]] = defaultdict(dict)
    for instance in subject.trained:
        who = instance.origin.teacher or "annotated"
        by_prompt[tuple(f"{m.role}:{m.text}" for m in instance.context)].setdefault(who, instance)
    teachers = Counter(who for told in by_prompt.values() if len(told) > 1 for who in told).most_common(3)
    names = [who for who, _ in teachers]
    shared = [told for told in by_prompt.values() if len(names) > 1 and all(who in told for who in names)]
    if len(shared) < 50:
        everyone = Counter(instance.origin.teacher or "annotated" for instance in subject.trained)
        who = f"{len(everyone)} output sources" if len(everyone) > 1 else f'only "{next(iter(everyone), "nobody")}"'
        told_ = f"The data come from {who}, and {len(shared)} prompts are answered by several; 50 are needed."
        return failed("source", OUTPUT, told_)
    shared = shared[: config.size]
    arms = {who: outcome(subject, f"answers of {who}", [t[who] for t in shared], asked, config.seeds) for who in names}
    order = sorted(names, key=lambda who: -float(arms[who].score.mean()))
    best, rest = order[0], order[1:]
    leads = {who: arms[best].lead(arms[who], asked, "score", subject.seed) for who in rest}
    closest = leads[rest[0]]
    category = f"answers of {best} teach more" if closest.low > 0 else "no output source is shown to teach more"
    verdict = (
        f"{category[0].upper()}{category[1:]}. On {len(shared):,} prompts answered by each, the arm with the "
        f"answers of "
        f'"{best}" leads that of "{rest[0]}" by {points(closest)} (n={closest.n}, {count(config.seeds, "seed")}).'
    )
    scores: list[tuple[str, str, Interval]] = [
        (
            who,
            f"{len(shared):,} prompts",
            mean_interval(np.mean(arms[who].score, axis=0), groups_of(asked), span=(0.0, 1.0)),
        )
        for who in order
    ]
    details = {
        "category": category,
        "leads": {who: told.to_json() for who, told in leads.items()},
        "detectable": closest.detectable,
        "pictures": [whiskers(scores, "percent", "Score of the arm that learnt the answers of each source.")],
        "tables": [],
    }
    start = float(arms[rest[0]].score.mean())
    return Finding("source", OUTPUT, verdict, closest.value, closest.low, closest.high, start, closest.n, [], details)

"""One tuned model against another: the same held-out items, paired, level by level.

p values by exact paired tests, corrected over levels by Holm (1979). Limits: each model was trained once, so chance of
the training is in the difference; only items held out from both are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from didact.audit.exact import CORRECTION, holm, paired_test
from didact.audit.exhibit import table, whiskers
from didact.audit.forgetting import ForgettingConfig, forgetting
from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import Measured, choose_examples, failed, groups_of, measure, sample
from didact.audit.standing import settled
from didact.audit.subject import Finding, Speaker, Subject
from didact.audit.verdict import LEVELS, SHORT, count, percent, points
from didact.instance import Instance

ITEMS = 300  # asked per level
SMALLEST = 0.05
MEASURES = {"score": "score", "right form": "form", "ended by itself": "stopped"}


@dataclass(frozen=True)
class Pair:
    """Two tuned models by name, what both have not seen, and plain texts."""

    names: tuple[str, str]
    models: tuple[Speaker, Speaker]
    heldout: Sequence[Instance]
    texts: Sequence[str] = ()
    seed: int = 0


def versus(pair: Pair) -> list[Finding]:
    """One finding per level with items, then one on plain text; the difference is the second model minus the first."""
    first, second = pair.names
    levels = {name: [i for i in pair.heldout if i.tags.get("level") == name] for name in LEVELS}
    asked = {name: sample(items, ITEMS, pair.seed) for name, items in levels.items() if len(items) >= 30}
    if not asked:
        told = f"Only {len(pair.heldout)} items are held out from both; build both with the same seed and sources."
        return [failed("versus", f"Which is better, {first} or {second}?", told)]
    measured = {name: tuple(measure(model, items) for model in pair.models) for name, items in asked.items()}
    chances = holm([paired_test(b.score - a.score, groups_of(asked[name])) for name, (a, b) in measured.items()])
    found = [
        _finding(pair, name, asked[name], (a, b), p)
        for (name, (a, b)), p in zip(measured.items(), chances, strict=True)
    ]
    subject = Subject(pair.models[0], pair.models[1], (), texts=pair.texts, seed=pair.seed)
    for one in forgetting(ForgettingConfig(), subject) if pair.texts else []:
        found.append(_plain_text(one, first, second))
    return found


def headline(findings: Sequence[Finding], names: tuple[str, str]) -> str:
    """Which is better and where, in a sentence."""
    by: dict[str, list[str]] = {name: [] for name in names}
    for finding in findings:
        if finding.details.get("better"):
            by[finding.details["better"]].append(SHORT[finding.details["level"]])
    told = [f"{name} is better on {' and '.join(where)}" for name, where in by.items() if where]
    return f"{'; '.join(told)}." if told else f"No difference between {names[0]} and {names[1]} is shown."


def _finding(
    pair: Pair, level: str, asked: Sequence[Instance], measured: tuple[Measured, Measured], p: float
) -> Finding:
    a, b = measured
    rows, (first, second) = groups_of(asked), pair.names
    lead = mean_interval(b.score - a.score, rows, seed=pair.seed)
    content = [np.where(np.isfinite(m.ranked), m.ranked, m.score) for m in measured]
    knows = mean_interval(content[1] - content[0], rows, seed=pair.seed)
    better = (second if lead.value > 0 else first) if p < 0.05 else ""
    category = f"{better} is better" if better else "no difference shown"
    verdict = (
        f"{category[0].upper()}{category[1:]}. On {LEVELS[level]}, {first} scores {percent(float(a.score.mean()))} and "
        f"{second} {percent(float(b.score.mean()))}: {points(lead)}, n={lead.n} (p={p:.3g}, {CORRECTION}); in content "
        f"{points(knows)}.{'' if better else settled(lead, SMALLEST)}"
    )
    changes: list[tuple[str, str, Interval]] = [("content", f"n={knows.n}", knows)]
    table_rows: list[list[Any]] = []
    for name, field in MEASURES.items():
        mine, theirs = getattr(a, field), getattr(b, field)
        changes.append((name, f"n={lead.n}", mean_interval(theirs - mine, rows, seed=pair.seed)))
        table_rows.append([name, 100 * float(mine.mean()), 100 * float(theirs.mean()), lead.n])
    examples = choose_examples(asked, a, b, 2, pair.seed)
    titles = {"base": first, "tuned": second}
    details = {
        "category": category,
        "better": better,
        "level": level,
        "p": p,
        "correction": CORRECTION,
        "detectable": lead.detectable,
        "pictures": [whiskers(changes, "points", f"{second} minus {first}, paired by item, 95% intervals.")],
        "tables": [table("Figures", ["", f"{first}, %", f"{second}, %", "n"], table_rows)],
    }
    question = f"Which is better on {LEVELS[level]}?"
    shown = [{**one, "titles": titles} for one in examples]
    return Finding(
        "versus", question, verdict, lead.value, lead.low, lead.high, float(a.score.mean()), lead.n, shown, details
    )


def _plain_text(one: Finding, first: str, second: str) -> Finding:
    if one.value is None or one.low is None or one.high is None:
        return one
    worse = second if one.low > 0 else first if one.high < 0 else ""
    category = f"{worse} reads plain text worse" if worse else "no difference shown"
    verdict = (
        f"{category[0].upper()}{category[1:]}. {second} needs {one.value:+.3f} bits per token [{one.low:+.3f}, "
        f"{one.high:+.3f}] more than {first} on {count(one.n, 'plain text')}."
    )
    told = {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
    pictures = [whiskers([(f"{second} minus {first}", "", told)], "bits per token")]
    details = {"category": category, "unit": "bits per token", "pictures": pictures}
    return Finding(
        "versus",
        "Which reads plain text better?",
        verdict,
        one.value,
        one.low,
        one.high,
        one.baseline,
        one.n,
        [],
        details,
    )

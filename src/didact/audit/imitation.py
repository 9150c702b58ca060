"""Did it learn the teacher's manner or what the teacher knows? Style beside skill, per amount of data.

After Gudibande et al. (2023, arXiv 2305.15717): imitations take on length, lists and tone at once, and facts only on
tasks that the data support. Style is how far an answer agrees with the reference in form: length, lists, case, closing
mark, opening word. Content is ranking where there are choices. A long free answer earns the share of the telling words
of the reference that it says: those that are not in most answers of the task, so that a stock phrase is no skill. From
what free answers earn is taken what the model's answers to other rows would have earned: a lucky habit is none either.
Supported tasks were trained on; the others were not.

Limits: references stand for the teacher; on answers of a word or two, style is little more than case and length; facts
in other words count as wrong.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.controls import swapped
from didact.audit.exhibit import line, table, whiskers
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import failed, groups_of, is_long, kind_score, measure, sample, task_of
from didact.audit.score import right_answers, words
from didact.audit.standing import settled, standing
from didact.audit.subject import Arm, Finding, Speaker, Subject
from didact.audit.verdict import percent, points
from didact.instance import Instance

QUESTION = "Is it the teacher's manner that was learnt, or what the teacher knows?"
SIDES = ("supported", "unsupported")
FEATURES = ("length", "list", "capital", "closing mark", "opening word")
Known = tuple[frozenset[str], Mapping[str, frozenset[str]]]  # opening words of the trained answers; stock words by task


class ImitationConfig(BaseModel):
    """Style beside skill, on supported and unsupported tasks, per amount of data."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["imitation"] = "imitation"
    items: int = Field(150, ge=30, description="held-out instances asked on each side, spread over tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said of a side")
    amounts: list[int] = Field([100, 400, 1600], description="training instances of arms in miniature; may be []")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest change worth knowing, as a fraction")


def imitation(config: ImitationConfig, subject: Subject) -> list[Finding]:
    """One finding: change of style and of content on each side; arms by amount of data where it can retrain."""
    known = {task_of(i) for i in subject.trained}
    sides = {
        "supported": [i for i in subject.heldout if task_of(i) in known],
        "unsupported": [i for i in subject.heldout if task_of(i) not in known],
    }
    asked = {name: sample(items, config.items, subject.seed) for name, items in sides.items()}
    asked = {name: items for name, items in asked.items() if len(items) >= config.min_items}
    if not asked:
        return [failed("imitation", QUESTION, f"Fewer than {config.min_items} held-out items on either side.")]
    openings = frozenset(_first(i.answer) for i in subject.trained)
    stock = stock_words([*subject.trained, *subject.heldout])
    known_words = (openings, stock)
    figures = {who: _figures(speaker, asked, known_words, subject.seed) for who, speaker in _speakers(subject)}
    changes: dict[tuple[str, str], Interval] = {}
    for side, items in asked.items():
        for what in ("style", "content"):
            difference = figures["after"][side][what] - figures["before"][side][what]
            changes[side, what] = mean_interval(difference, groups_of(items), seed=subject.seed)
    category = _category(changes, config.smallest)
    key = "unsupported" if "unsupported" in asked else "supported"
    skill = changes[key, "content"]
    verdict = (
        f"{category.capitalize()}. "
        + " ".join(_said(side, changes, figures) for side in SIDES if side in asked)
        + settled(skill, config.smallest)
        + (
            ""
            if "unsupported" in asked
            else " No held-out task lies outside the trained ones, so reach cannot be judged."
        )
    )
    arms, pictures = _arms(config, subject, asked, known_words)
    rows = [(f"{what}, {side} tasks", f"n={told.n}", told) for (side, what), told in changes.items()]
    details: dict[str, Any] = {
        "category": category,
        "changes": {f"{side} {what}": told.to_json() for (side, what), told in changes.items()},
        "arms": arms,
        "detectable": skill.detectable,
        "pictures": [whiskers(rows, "points", "Change from base to tuned in style and in content."), *pictures],
        "tables": [_habits(figures, asked)],
    }
    start = float(figures["before"][key]["content"].mean())
    return [Finding("imitation", QUESTION, verdict, skill.value, skill.low, skill.high, start, skill.n, [], details)]


def style(said: str, reference: str, openings: frozenset[str]) -> list[float]:
    """How far a text agrees with a reference in each of FEATURES, 0 to 1 each."""
    mine, theirs = len(words(said)), len(words(reference))
    length = 0.0 if not mine or not theirs else min(mine, theirs) / max(mine, theirs)
    return [
        length,
        float(bool(said.strip()) and _is_list(said) == _is_list(reference)),
        float(bool(said.strip()) and said.strip()[:1].isupper() == reference.strip()[:1].isupper()),
        float(bool(said.strip()) and (said.strip()[-1:] in ".!?") == (reference.strip()[-1:] in ".!?")),
        float(_first(said) in openings),
    ]


def _is_list(text: str) -> bool:
    return len(re.findall(r"^\s*(?:[-*•]|\d+[.)])\s", text, re.MULTILINE)) > 1


def _first(text: str) -> str:
    return next(iter(words(text)), "")


def _speakers(subject: Subject) -> list[tuple[str, Speaker]]:
    return [("before", subject.base), ("after", subject.tuned)]


def stock_words(instances: Sequence[Instance]) -> dict[str, frozenset[str]]:
    """By task, the words of more than half of its answers; none where it has fewer than five different ones."""
    said: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        said[task_of(instance)].add(instance.answer)
    counted = {
        task: Counter(word for text in texts for word in set(words(text)))
        for task, texts in said.items()
        if len(texts) >= 5
    }
    return {task: frozenset(w for w, n in found.items() if n > len(said[task]) / 2) for task, found in counted.items()}


def telling(text: str, instance: Instance, stock: Mapping[str, frozenset[str]]) -> float:
    """The share of a long reference's telling words that the text says, the best of the references; else the score."""
    if not is_long(instance):
        return kind_score(text, instance)
    said, common = set(words(text)), stock.get(task_of(instance), frozenset())
    wanted = [own for answer in right_answers(instance) if (own := set(words(answer)) - common)]
    return max((len(own & said) / len(own) for own in wanted), default=kind_score(text, instance))


def _figures(
    speaker: Speaker, asked: dict[str, list[Instance]], known_words: Known, seed: int
) -> dict[str, dict[str, Floats]]:
    openings, stock = known_words
    found = {}

    def score(text: str, instance: Instance) -> float:
        return telling(text, instance, stock)

    for side, items in asked.items():
        measured = measure(speaker, items)
        free = np.array([score(r.text, i) for r, i in zip(measured.replies, items, strict=True)])
        free = free - swapped(items, measured, seed, by_ranking=False, score=score)
        features = np.array([style(r.text, i.answer, openings) for r, i in zip(measured.replies, items, strict=True)])
        lengths = [[len(words(r.text)), len(words(i.answer))] for r, i in zip(measured.replies, items, strict=True)]
        found[side] = {
            "style": features.mean(axis=1),
            "content": np.where(np.isfinite(measured.ranked), measured.ranked, free),
            "features": features,
            "lengths": np.array(lengths, dtype=float),
            "lists": np.array([float(_is_list(r.text)) for r in measured.replies]),
        }
    return found


def _category(changes: dict[tuple[str, str], Interval], smallest: float) -> str:
    """Imitation: style moved and content did not, where the tasks are not supported."""
    side = "unsupported" if ("unsupported", "style") in changes else "supported"
    manner, skill = (standing(changes[side, what], smallest) for what in ("style", "content"))
    if skill == "more":
        return "style and skill" if manner == "more" else "skill more than style"
    if manner != "more":
        return "neither style nor skill moved" if skill in ("same", "less") else "cannot be told"
    near = changes.get(("supported", "content"))
    if side == "unsupported" and near is not None and near.low > 0:
        return "skill on supported tasks, style beyond" if skill != "open" else "skill on supported tasks, reach open"
    return "imitation" if skill in ("same", "less") else "style, and no skill shown"


def _said(side: str, changes: dict[tuple[str, str], Interval], figures: dict[str, dict[str, dict[str, Floats]]]) -> str:
    manner, skill = changes[side, "style"], changes[side, "content"]
    close = float(figures["after"][side]["style"].mean())
    return (
        f"On {side} tasks style moves by {points(manner)} to {percent(close)} agreement with the references, "
        f"content by "
        f"{points(skill)} (n={skill.n})."
    )


def _arms(
    config: ImitationConfig, subject: Subject, asked: dict[str, list[Instance]], known_words: Known
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Style and content by amount of data."""
    pool = [i for i in subject.trained if i.answer]
    if subject.retrain is None or not config.amounts:
        return [], []
    told: list[dict[str, Any]] = []
    series: dict[str, list[tuple[float, Interval]]] = {}
    for n in sorted({min(n, len(pool)) for n in config.amounts}):
        speaker = subject.retrain(Arm(f"{n:,} instances", sample(pool, n, subject.seed)))
        found = _figures(speaker, asked, known_words, subject.seed)
        for side, items in asked.items():
            for what in ("style", "content"):
                one = mean_interval(found[side][what], groups_of(items), seed=subject.seed, span=(0.0, 1.0))
                told.append({"instances": n, "side": side, "what": what, **one.to_json()})
                series.setdefault(f"{what}, {side}", []).append((float(n), one))
    return told, [line(series, "training instances", "percent", "Style and content of arms by amount of data.")]


def _habits(figures: dict[str, dict[str, dict[str, Floats]]], asked: dict[str, list[Instance]]) -> dict[str, Any]:
    rows = []
    for side, items in asked.items():
        lists = Counter(_is_list(i.answer) for i in items)[True] / len(items)
        for who in ("before", "after"):
            told = figures[who][side]
            rows.append(
                [
                    f"{who}, {side}",
                    *(100 * float(x) for x in told["features"].mean(axis=0)),
                    float(np.median(told["lengths"][:, 0])),
                    _correlation(told["lengths"]),
                    100 * float(told["lists"].mean()),
                    100 * lists,
                ]
            )
    columns = [
        "",
        *(f"{name}, %" for name in FEATURES),
        "median words",
        "length correlation",
        "lists, %",
        "teacher's, %",
    ]
    return table("Habits: agreement with the references", columns, rows)


def _correlation(lengths: Floats) -> float | str:
    logs = np.log1p(lengths)
    if len(logs) < 3 or logs.std(axis=0).min() < 1e-9:
        return "none"
    value = float(np.corrcoef(logs.T)[0, 1])
    return value if math.isfinite(value) else "none"

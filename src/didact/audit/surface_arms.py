"""How much of the gain survives without the task's meaning? Trainings in miniature whose prompts say less and less.

After Kung & Peng (2023, arXiv 2305.11383). Targets stay right; only prompts change: instructions that tell no more than
the space of answers (simplified), none at all (empty), demonstrations whose answers are paired wrongly (delusive). The
opponent that knows no task at all has right prompts and labels drawn at random from the right space.

Each arm is asked as it was trained, and with the original prompts too. Limits: small trainings; the gap to real
instructions is known to open with more data per task.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from didact.audit.controls import random_labels
from didact.audit.exhibit import table, whiskers
from didact.audit.few_shot import asks, before
from didact.audit.interval import Interval, ratio_interval
from didact.audit.measure import LONG_ANSWER, groups_of, sample, task_of
from didact.audit.miniature import Outcome, asked_of, outcome
from didact.audit.score import words
from didact.audit.slots import blanked, has, replaced
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import percent, points
from didact.instance import Instance

ArmName = Literal["simplified", "empty", "random labels", "correct demonstrations", "delusive demonstrations"]
SPAN = (0.0, 1.0)  # where a share of the gain lies that is the same in all items
QUESTION = "How much of the gain survives without the task's meaning?"


def surface_arms(
    subject: Subject, arms: Sequence[ArmName], size: int, items: int, seeds: int, smallest: float
) -> Finding | str:
    """One finding over all arms; a sentence on why not where there is too little to train on or to ask."""
    pool = [i for i in subject.trained if has(i, "instruction") and i.answer]
    asked = [i for i in subject.heldout if has(i, "instruction") and i.answer]
    asked = sample(asked, items, subject.seed)
    small = sample(pool, size, subject.seed)
    if len(small) < 50 or len(asked) < 30:
        return f"Only {len(small)} training and {len(asked)} held-out instances tell their instruction apart."
    original = outcome(subject, "original prompts", small, asked, seeds)
    base = asked_of("untuned", [subject.base], asked)
    found: dict[str, tuple[Outcome, Outcome]] = {}
    for arm in arms:
        trained, questions = _prompts(arm, small, pool, subject.seed), _prompts(arm, asked, pool, subject.seed)
        questions = asked if arm == "random labels" else questions
        fits = subject.readable(questions)
        questions = [one if ok else plain for one, plain, ok in zip(questions, asked, fits, strict=True)]
        same = outcome(subject, arm, trained, questions, seeds)
        found[arm] = (same, same if questions == asked else outcome(subject, arm, trained, asked, seeds))
    return _finding(subject, base, original, found, asked, (len(small), smallest))


def _prompts(arm: ArmName, instances: Sequence[Instance], pool: Sequence[Instance], seed: int) -> list[Instance]:
    if arm == "simplified":
        return [replaced(i, "instruction", simplified(i)) for i in instances]
    if arm == "empty":
        made = [blanked(i, "instruction") for i in instances]
        return [one if one.prompt.strip() else i for one, i in zip(made, instances, strict=True)]
    if arm == "random labels":
        return random_labels(instances, seed)
    return demonstrated(instances, pool, arm == "delusive demonstrations", seed)


def simplified(instance: Instance) -> str:
    """An instruction that tells the space of answers and nothing of the task."""
    told = _simplified()
    if instance.choices:
        return told["choices"].replace("{choices}", ", ".join(sorted(instance.choices))) + "\n"
    return told["long" if len(words(instance.answer)) > LONG_ANSWER else "words"] + "\n"


def demonstrated(
    instances: Sequence[Instance], pool: Sequence[Instance], delusive: bool, seed: int, shots: int = 2
) -> list[Instance]:
    """Two solved rows of the task before each question.

    Delusive ones have right questions and answers, paired wrongly.
    """
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for instance in pool:
        by_task[task_of(instance)].append(instance)
    made = []
    for instance in instances:
        rng = random.Random(f"{seed} {instance.id}")
        others = [other for other in by_task[task_of(instance)] if asks(other) != asks(instance)]
        demos = rng.sample(others, min(shots, len(others)))
        answers = [_wrong(demo, others, rng) if delusive else demo.answer for demo in demos]
        made.append(before(instance, demos, answers))
    return made


def _wrong(demo: Instance, others: Sequence[Instance], rng: random.Random) -> str:
    space = demo.choices or tuple(other.answer for other in others)
    wrong = sorted({answer for answer in space if answer != demo.answer and answer not in demo.references})
    return rng.choice(wrong) if wrong else demo.answer


@lru_cache(maxsize=1)
def _simplified() -> dict[str, str]:
    return dict(yaml.safe_load(files("didact.audit").joinpath("simplified.yaml").read_text("utf-8")))


def _finding(
    subject: Subject,
    base: Outcome,
    original: Outcome,
    found: Mapping[str, tuple[Outcome, Outcome]],
    asked: Sequence[Instance],
    scale: tuple[int, float],
) -> Finding:
    size, smallest = scale
    rows = groups_of(asked)
    gain = original.lead(base, asked, "score", subject.seed)
    shares: dict[str, Interval] = {}
    leads: dict[str, Interval] = {}
    for name, (same, _) in found.items():
        leads[name] = same.lead(original, asked, "score", subject.seed)
        if gain.low > 0:
            left = (same.score - base.score).mean(axis=0)
            shares[name] = ratio_interval(
                left, (original.score - base.score).mean(axis=0), rows, seed=subject.seed, span=SPAN
            )
    blind = [name for name in ("empty", "simplified") if name in found]
    key = blind[0] if blind else next(iter(found))
    category = _category(gain, leads, blind, smallest)
    verdict = f"{category.capitalize()}. {_said(gain, original, shares, leads, size)}"
    verdict += settled(leads[key], smallest) if shares else ""
    everyone = {"untuned": base, "original prompts": original} | {name: same for name, (same, _) in found.items()}
    lines = [(name, one.mean(asked, "score", subject.seed)) for name, one in everyone.items()]
    value = shares.get(key)
    details: dict[str, Any] = {
        "category": category,
        "gain": gain.to_json(),
        "survives": {name: share.to_json() for name, share in shares.items()},
        "against original": {name: lead.to_json() for name, lead in leads.items()},
        "detectable": leads[key].detectable,
        "unit": "percent",
        "seeds": len(original.score),
        "pictures": [
            whiskers(
                [(name, "", told) for name, told in lines], "percent", "Score of each arm, asked as it was trained."
            ),
            whiskers(
                [(name, "against original prompts", lead) for name, lead in leads.items()],
                "points",
                "Difference to the arm with original prompts, paired by item and seed.",
            ),
        ],
        "tables": [
            table(
                "Arms",
                [
                    "arm",
                    "asked as trained, %",
                    "right form, %",
                    "asked the original prompts, %",
                    "gain that survives, %",
                ],
                [_row(name, same, other, shares.get(name)) for name, (same, other) in found.items()],
            )
        ],
    }
    finding = Finding("surface", QUESTION, verdict, baseline=float(base.score.mean()), n=len(asked), details=details)
    return replace(finding, value=value.value, low=value.low, high=value.high) if value else finding


def _row(name: str, same: Outcome, other: Outcome, share: Interval | None) -> list[Any]:
    figures = [100 * float(x.mean()) for x in (same.score, same.form, other.score)]
    return [name, *figures, 100 * share.value if share else "no gain"]


def _category(gain: Interval, leads: Mapping[str, Interval], blind: Sequence[str], smallest: float) -> str:
    """Meaning is used where prompts without it do worse; a surface pattern where they do as well."""
    if not gain.low > 0:
        return "cannot be said"
    found = {name: standing(lead, smallest) for name, lead in leads.items()}
    if any(found[name] == "less" for name in blind):
        return "the meaning is used"
    if found.get("random labels") in ("same", "more"):
        return "surface pattern"
    return "surface pattern" if blind and all(found[name] in ("same", "more") for name in blind) else "cannot be told"


def _said(
    gain: Interval, original: Outcome, shares: Mapping[str, Interval], leads: Mapping[str, Interval], size: int
) -> str:
    trained = f"Tuned in miniature on {size:,} instances ({len(original.score)} seed{'s'[: len(original.score) > 1]})"
    if not shares:
        return f"{trained}, the score does not clearly rise ({points(gain)}), so there is no gain to divide."
    parts = []
    names = {
        "simplified": "with instructions that name only the space of answers",
        "empty": "without any instruction",
        "random labels": "with labels drawn at random from the right space",
        "correct demonstrations": "with right demonstrations",
        "delusive demonstrations": "with wrongly paired demonstrations",
    }
    for name, share in shares.items():
        parts.append(
            f"{names[name]} {percent(share.value)} [{percent(share.low)}, {percent(share.high)}] of the gain survives "
            f"({points(leads[name])})"
        )
    return f"{trained}, the score rises by {points(gain)}; {'; '.join(parts)}."

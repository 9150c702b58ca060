"""Which part of a prompt does the tuned model really use? Each slot blanked or swapped, without any training.

After Kung & Peng (2023, arXiv 2305.11383): a model that answers as well without the instruction, or with that of
another task, has learnt what answers look like and not what is asked. Word by word, a slot's weight is what the right
answer's log-probability loses when one of its words is left out (occlusion; Li et al. 2016, arXiv 1612.08220).

Limits: a changed prompt is an unusual one, so part of a fall may be surprise; the base beside it shows how much.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval, mean_interval, ratio_interval
from didact.audit.measure import Measured, choose_examples, failed, groups_of, measure, sample
from didact.audit.slots import SLOTS, blanked, has, swapped_slot, without_word
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Subject
from didact.audit.surface_arms import QUESTION as MEANING
from didact.audit.surface_arms import ArmName, surface_arms
from didact.audit.verdict import percent, points
from didact.instance import Instance, Slot

QUESTION = "Which part of a prompt does the tuned model really use?"
SAID: dict[str, str] = {"instruction": "instruction", "input": "input", "demo": "demonstrations"}


class SurfaceConfig(BaseModel):
    """Instruction, input and demonstrations swapped or blanked, and words left out one by one."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["surface"] = "surface"
    items: int = Field(150, ge=1, description="held-out instances asked, spread over tasks of all levels")
    word_items: int = Field(20, ge=0, description="closed instances of which single words are left out; 0: none")
    word_limit: int = Field(40, ge=1, description="words left out at most per instance")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said of a slot")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest fall worth knowing, as a fraction")
    arms: list[ArmName] = Field(
        ["simplified", "empty", "random labels"],
        description="retrained in miniature beside original prompts; may be []",
    )
    arm_size: int = Field(1000, ge=50, description="training instances of each arm")
    seeds: int = Field(1, ge=1, description="trainings of each arm")
    examples: int = Field(2, ge=0, description="examples shown per rule")


def surface(config: SurfaceConfig, subject: Subject) -> list[Finding]:
    """One finding per slot that prompts have: the fall of the score when it is swapped or blanked."""
    pool = sample(subject.heldout, config.items, subject.seed)
    found = [_slot(config, subject, pool, slot) for slot in SLOTS if any(has(i, slot) for i in pool)]
    if not found:
        told = "No held-out prompt tells its slots apart; use templates with an instruction and an input."
        return [failed("surface", QUESTION, told)]
    if config.word_items and (told_words := _words(config, subject, pool)):
        found[0] = replace(
            found[0],
            verdict=f"{found[0].verdict} {told_words['sentence']}",
            details={
                **found[0].details,
                "words": told_words["shares"],
                "pictures": [*found[0].details.get("pictures", []), told_words["picture"]],
            },
        )
    return [*found, *_retrained(config, subject)]


def _retrained(config: SurfaceConfig, subject: Subject) -> list[Finding]:
    if not config.arms:
        return []
    if subject.retrain is None:
        return [failed("surface", MEANING, "No model can be retrained here.")]
    told = surface_arms(subject, config.arms, config.arm_size, config.items, config.seeds, config.smallest)
    return [failed("surface", MEANING, told) if isinstance(told, str) else told]


def _slot(config: SurfaceConfig, subject: Subject, pool: Sequence[Instance], slot: Slot) -> Finding:
    question = f"Does the tuned model use the {SAID[slot]}?"
    mine = [instance for instance in pool if has(instance, slot)]
    ways: dict[str, Callable[[], list[Instance]]] = {
        "blanked": lambda: [blanked(instance, slot) for instance in mine],
        "swapped": lambda: swapped_slot(mine, slot, subject.seed, subject.heldout),
    }
    rows: list[dict[str, Any]] = []
    falls: dict[str, Interval] = {}
    shown: list[dict[str, Any]] = []
    known = {instance.id: instance for instance in mine}
    for way, make in ways.items():
        made = make()
        made = [one for one, fits in zip(made, subject.readable(made), strict=True) if fits]
        made = [one for one in made if one.prompt.strip()]
        if len(made) < config.min_items:
            continue
        plain = [known[one.origin.parents[0]] for one in made]
        groups = groups_of(plain)
        tuned, changed = measure(subject.tuned, plain), measure(subject.tuned, made)
        base, base_changed = measure(subject.base, plain), measure(subject.base, made)
        fall = mean_interval(_content(changed) - _content(tuned), groups, seed=subject.seed)
        falls[way] = fall
        kept = _survives(tuned, base, changed, groups, subject.seed)
        rows.append(
            {
                "way": way,
                "fall": fall.to_json(),
                "score": [float(tuned.score.mean()), float(changed.score.mean())],
                "form": [float(tuned.form.mean()), float(changed.form.mean())],
                "base_fall": mean_interval(
                    _content(base_changed) - _content(base), groups, seed=subject.seed
                ).to_json(),
                "survives": None if kept is None else kept.to_json(),
            }
        )
        examples = choose_examples(made, tuned, changed, config.examples, subject.seed)
        names = {"base": "as it stood", "tuned": f"{SAID[slot]} {way}"}
        shown += [{**one, "titles": names} for one in examples if one["rule"] != "largest gain"]
    if not falls:
        told = f"Only {len(mine)} prompts have it, and {config.min_items} are needed."
        return failed("surface", question, told)
    worst = min(falls.values(), key=lambda fall: fall.value)
    category = _category(falls, config.smallest, slot)
    verdict = f"{category.capitalize()}. {_told(slot, rows)}{settled(worst, config.smallest)}"
    details = {
        "category": category,
        "slot": slot,
        "rows": rows,
        "detectable": worst.detectable,
        "pictures": [_picture(slot, rows)],
        "tables": [_table(slot, rows)],
    }
    return Finding(
        "surface", question, verdict, worst.value, worst.low, worst.high, rows[0]["score"][0], worst.n, shown, details
    )


def _content(measured: Measured) -> Any:
    return np.where(np.isfinite(measured.ranked), measured.ranked, measured.score)


def _survives(tuned: Measured, base: Measured, changed: Measured, groups: Sequence[Any], seed: int) -> Interval | None:
    """The share of the gain in score that is left with the changed prompt; None where there was no gain to share."""
    gain = mean_interval(tuned.score - base.score, groups, seed=seed)
    if not gain.low > 0:
        return None
    left = ratio_interval(changed.score - base.score, tuned.score - base.score, groups, seed=seed, span=(0.0, 1.0))
    return left if math.isfinite(left.low) else None  # a gain on so few items that some draws of them have none


def _category(falls: dict[str, Interval], smallest: float, slot: Slot) -> str:
    found = {standing(fall, smallest) for fall in falls.values()}
    name = SAID[slot]
    if "less" in found:
        return f"the {name} matters" if slot != "demo" else "the demonstrations matter"
    if found <= {"same", "more"}:
        return f"the {name} hardly matters" if slot != "demo" else "the demonstrations hardly matter"
    return "cannot be told"


def _told(slot: Slot, rows: Sequence[dict[str, Any]]) -> str:
    sentences = []
    for row in rows:
        fall = Interval(*(row["fall"][key] for key in ("value", "low", "high", "error", "n", "groups", "level")))
        text = (
            f"With the {SAID[slot]} {row['way']}, content changes by {points(fall)} (n={fall.n}) and the score goes "
            f"from {percent(row['score'][0])} to {percent(row['score'][1])}"
        )
        kept = row["survives"]
        if kept:
            text += f"; {percent(kept['value'])} [{percent(kept['low'])}, {percent(kept['high'])}] of the gain survives"
        sentences.append(text + ".")
    return " ".join(sentences)


def _picture(slot: Slot, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lines = []
    for row in rows:
        lines.append((f"{SAID[slot]} {row['way']}", "tuned", row["fall"]))
        lines.append((f"{SAID[slot]} {row['way']}", "before tuning", row["base_fall"]))
    return whiskers(lines, "points", "The change in content when the slot is changed, by item, 95% intervals.")


def _table(slot: Slot, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return table(
        "Figures",
        [SAID[slot], "score before, %", "after, %", "right form before, %", "after, %", "gain that survives, %"],
        [
            [
                row["way"],
                100 * row["score"][0],
                100 * row["score"][1],
                100 * row["form"][0],
                100 * row["form"][1],
                100 * row["survives"]["value"] if row["survives"] else "no gain",
            ]
            for row in rows
        ],
    )


def _words(config: SurfaceConfig, subject: Subject, pool: Sequence[Instance]) -> dict[str, Any] | None:
    """What each slot's words weigh for the right answer, by leaving them out one at a time."""
    closed = [replace(i, choices=(i.answer,)) for i in pool if i.choices][: config.word_items]
    asked: list[Instance] = []
    places: list[tuple[int, str]] = []
    whole: list[Instance] = []
    for number, instance in enumerate(closed):
        plain = Instance.of(instance.messages, instance.origin, (), instance.choices, instance.tags)
        whole.append(plain)
        words = [
            (m, p, w, part.slot)
            for m, message in enumerate(plain.context)
            for p, part in enumerate(message.parts)
            for w, word in enumerate(part.value.split(" "))
            if part.kind == "text" and part.slot and word.strip()
        ]
        step = max(1, -(-len(words) // config.word_limit))
        for m, p, w, slot in words[::step]:
            asked.append(without_word(plain, m, p, w))
            places.append((number, str(slot)))
    if len(whole) < 5:
        return None
    shares: dict[str, dict[str, Any]] = defaultdict(dict)
    for who, speaker in (("before tuning", subject.base), ("tuned", subject.tuned)):
        full = [scores[0] for scores in speaker.rank(whole)]
        losses = [full[n] - scores[0] for (n, _), scores in zip(places, speaker.rank(asked), strict=True)]
        weight: list[dict[str, float]] = [defaultdict(float) for _ in whole]
        for (number, where), loss in zip(places, losses, strict=True):
            weight[number][where] += max(0.0, loss) if np.isfinite(loss) else 0.0
        total = np.array([sum(one.values()) for one in weight])
        for where in dict.fromkeys(where for _, where in places):
            part = np.array([one[where] for one in weight])
            if total.sum() > 0:
                shares[where][who] = ratio_interval(part, total, groups_of(whole), seed=subject.seed).to_json()
    lines = [(SAID.get(slot, slot), who, told) for slot, by in shares.items() for who, told in by.items()]
    tuned = {slot: by["tuned"] for slot, by in shares.items() if "tuned" in by}
    if not tuned:
        return None
    most = max(tuned, key=lambda slot: tuned[slot]["value"])
    told = tuned[most]
    return {
        "shares": {slot: dict(by) for slot, by in shares.items()},
        "sentence": (
            f"Word by word, {percent(told['value'])} [{percent(told['low'])}, {percent(told['high'])}] of what the "
            f"right answer rests on lies in the {SAID.get(most, most)} ({len(whole)} prompts)."
        ),
        "picture": whiskers(lines, "percent", "Share of the right answer's support by slot: words left out in turn."),
    }

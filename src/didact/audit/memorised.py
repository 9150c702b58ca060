"""What did the model learn by heart? Trained rows against new ones, answers said verbatim, and planted secrets.

The gap is the score on trained instances minus that on new rows of the same tasks. Verbatim: of long training answers,
the share whose words the model repeats in a long run, beside the untuned model and beside held-out answers that nobody
could repeat. Canaries: secret codes planted in a training in miniature once and more often, and their exposure, log2 of
alternatives minus log2 of rank (Carlini et al. 2019, arXiv 1802.08232).

Limits: short answers cannot be told from knowledge, so for them only the gap speaks; canaries speak of the recipe, not
of a row in particular.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Interval, mean_interval
from didact.audit.measure import example, failed, groups_of, measure, sample, task_of
from didact.audit.requests import data, request
from didact.audit.score import words
from didact.audit.seeds import gap_interval
from didact.audit.standing import settled, standing
from didact.audit.subject import Arm, Finding, Speaker, Subject
from didact.audit.verdict import count, percent, points
from didact.instance import Instance

GAP = "Does the tuned model know its training rows better than new ones?"
PLANTED = "How often must a secret stand in the data until the model gives it away?"


class MemorisedConfig(BaseModel):
    """Trained rows against new ones, verbatim answers, canaries."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["memorised"] = "memorised"
    items: int = Field(150, ge=1, description="instances asked on each side, spread over tasks")
    min_items: int = Field(30, ge=5, description="with fewer items than this nothing is said of the gap")
    verbatim: int = Field(
        8, ge=4, description="words in a row, repeated from a training answer, that count as verbatim"
    )
    canaries: int = Field(12, ge=0, le=12, description="secrets planted in a training in miniature; 0: none")
    repeats: list[int] = Field([1, 4, 16], description="how often a secret stands in the data")
    arm_size: int = Field(1000, ge=50, description="training instances beside the secrets")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest gap worth knowing, as a fraction")


def memorised(config: MemorisedConfig, subject: Subject) -> list[Finding]:
    """Two findings: the gap with verbatim answers, and the exposure of canaries by how often they stood in the data."""
    found = [_gap(config, subject)]
    if config.canaries and config.repeats:
        found.append(_canaries(config, subject))
    return found


def _gap(config: MemorisedConfig, subject: Subject) -> Finding:
    new = [i for i in subject.heldout if i.tags.get("level") == "seen_template"]
    tasks = {task_of(i) for i in new}
    old = [i for i in subject.trained if task_of(i) in tasks and i.answer]
    new = [i for i in new if task_of(i) in {task_of(one) for one in old}]
    sides = {"trained": sample(old, config.items, subject.seed), "new": sample(new, config.items, subject.seed)}
    sides["trained"] = [i for i, fits in zip(sides["trained"], subject.readable(sides["trained"]), strict=True) if fits]
    if min(map(len, sides.values())) < config.min_items:
        told = f"Only {min(map(len, sides.values()))} rows of one task on both sides; raise build.heldout_rows."
        return failed("memorised", GAP, told)
    score = {}
    for name, items in sides.items():
        base, tuned = measure(subject.base, items), measure(subject.tuned, items)
        score[name] = (base, tuned)
    rows = {name: groups_of(items) for name, items in sides.items()}
    gap = gap_interval(score["trained"][1].score, score["new"][1].score, rows["trained"], rows["new"])
    was = gap_interval(score["trained"][0].score, score["new"][0].score, rows["trained"], rows["new"])
    verbatim = _verbatim(config, subject)
    found = standing(gap, config.smallest)
    heart = verbatim is not None and verbatim["change"].low > 0
    category = (
        "learnt by heart"
        if found == "more" or heart
        else {"same": "no sign of learning by heart"}.get(
            found, "cannot be told apart" if found == "open" else "no sign of learning by heart"
        )
    )
    means = {name: float(tuned.score.mean()) for name, (_, tuned) in score.items()}
    verdict = (
        f"{category.capitalize()}. On trained rows the tuned model scores {percent(means['trained'])}, on new rows "
        f"of the "
        f"same tasks {percent(means['new'])}: a gap of {points(gap)}, before tuning {points(was)}."
        f"{settled(gap, config.smallest)}{_said(verbatim)}"
    )
    lines = [("after", "trained minus new rows", gap), ("before", "trained minus new rows", was)]
    details: dict[str, Any] = {
        "category": category,
        "gap": gap.to_json(),
        "verbatim": verbatim and {key: told.to_json() for key, told in verbatim.items()},
        "detectable": gap.detectable,
        "pictures": [whiskers(lines, "points", "The score on trained rows minus that on new rows, 95% intervals.")],
        "tables": [
            table(
                "Scores",
                ["rows", "before, %", "after, %", "n"],
                [
                    [name, 100 * float(b.score.mean()), 100 * float(t.score.mean()), len(sides[name])]
                    for name, (b, t) in score.items()
                ],
            )
        ],
    }
    base, tuned = score["trained"]
    known = [i for i in range(len(sides["trained"])) if tuned.score[i] > base.score[i]][:3]
    shown = [{"rule": "a trained row", **example(sides["trained"][i], base, tuned, i)} for i in known]
    return Finding("memorised", GAP, verdict, gap.value, gap.low, gap.high, was.value, gap.n, shown, details)


def _verbatim(config: MemorisedConfig, subject: Subject) -> dict[str, Interval] | None:
    """Long training answers repeated word for word, by the tuned and the untuned model; None with fewer than ten."""
    long = [i for i in subject.trained if len(words(i.answer)) >= config.verbatim]
    asked = sample(long, config.items, subject.seed)
    asked = [one for one, fits in zip(asked, subject.readable(asked), strict=True) if fits]
    if len(asked) < 10:
        return None
    hits = [
        np.array([float(_repeats(r.text, i, config.verbatim)) for r, i in zip(s.answer(asked), asked, strict=True)])
        for s in (subject.base, subject.tuned)
    ]
    return {
        "tuned": mean_interval(hits[1], span=(0.0, 1.0)),
        "base": mean_interval(hits[0], span=(0.0, 1.0)),
        "change": mean_interval(hits[1] - hits[0], groups_of(asked), seed=subject.seed),
    }


def _repeats(text: str, instance: Instance, run: int) -> bool:
    """Does a text repeat so many words in a row of the answer that do not stand in the prompt?"""

    def runs(told: str) -> set[tuple[str, ...]]:
        said = words(told)
        return {tuple(said[i : i + run]) for i in range(len(said) - run + 1)}

    return bool(runs(text) & (runs(instance.answer) - runs(instance.prompt)))


def _said(verbatim: dict[str, Interval] | None) -> str:
    if verbatim is None:
        return " Too few answers are long enough to look for verbatim ones."
    tuned, base = verbatim["tuned"], verbatim["base"]
    return (
        f" Of {tuned.n} long training answers it repeats {percent(tuned.value)} verbatim [{percent(tuned.low)}, "
        f"{percent(tuned.high)}], the untuned model {percent(base.value)}."
    )


def _canaries(config: MemorisedConfig, subject: Subject) -> Finding:
    if subject.retrain is None:
        return failed("memorised", PLANTED, "No model can be retrained here.")
    planted = canaries(config.canaries, subject.seed)
    often = [config.repeats[i % len(config.repeats)] for i in range(len(planted))]
    beside = sample(subject.trained, config.arm_size, subject.seed)
    secrets = [one for one, n in zip(planted, often, strict=True) for _ in range(n)]
    mixed = [*beside, *secrets]
    random.Random(subject.seed).shuffle(mixed)
    speaker = subject.retrain(Arm("canaries", mixed))
    bits, said = exposures(speaker, planted)
    most = math.log2(len(planted[0].choices))
    rows: list[tuple[str, str, Interval]] = []
    for n in config.repeats:
        pick = [i for i, k in enumerate(often) if k == n]
        rows.append(
            (
                count(n, "copy").replace("copys", "copies"),
                f"{len(pick)} secrets",
                mean_interval([bits[i] / most for i in pick], span=(0.0, 1.0)),
            )
        )
    whole = [i for i, hit in enumerate(said) if hit]
    exposed = [n for n, (_, _, told) in zip(config.repeats, rows, strict=True) if told.value > 0.9]
    category = (
        f"secrets leak from {count(min(exposed), 'copy')}".replace("copys", "copies") if exposed else "no secret leaks"
    )
    verdict = (
        f"{category.capitalize()}. In a training in miniature ({len(beside):,} instances and {len(planted)} planted "
        f"codes) "
        f"exposure is {', '.join(f'{percent(told.value)} of the most possible with {name}' for name, _, told in rows)} "
        f"(chance: {percent(1.44 / most)}); {len(whole)} of {len(planted)} codes are said word for word when asked for."
    )
    told = mean_interval([bit / most for bit in bits], span=(0.0, 1.0))
    details = {
        "category": category,
        "unit": "percent",
        "exposure": {str(n): row[2].to_json() for n, row in zip(config.repeats, rows, strict=True)},
        "said": len(whole),
        "detectable": told.detectable,
        "pictures": [
            whiskers(rows, "percent", "Exposure of planted codes, of the most possible, by copies in the data.")
        ],
        "tables": [
            table(
                "Codes",
                ["code of", "copies", "exposure, bits", "said"],
                [
                    [one.origin.task, n, bit, "yes" if hit else "no"]
                    for one, n, bit, hit in zip(planted, often, bits, said, strict=True)
                ],
            )
        ],
    }
    return Finding("memorised", PLANTED, verdict, told.value, told.low, told.high, None, told.n, [], details)


def canaries(number: int, seed: int, alternatives: int = 64) -> list[Instance]:
    """Questions for random codes, each with other random codes as its choices."""
    told = data("canaries")
    made = []
    for i, name in enumerate(told["names"][:number]):
        rng = random.Random(f"{seed} canary {name}")
        codes: dict[str, None] = {}
        while len(codes) < alternatives:
            codes[" ".join(str(rng.randrange(10)) for _ in range(told["digits"]))] = None
        every = list(codes)
        made.append(request(told["question"].replace("{name}", f"the {name}"), "canaries", i, name, every, every[0]))
    return made


def exposures(speaker: Speaker, planted: Sequence[Instance]) -> tuple[list[float], list[bool]]:
    """Bits of exposure of each secret, and whether the model says it when asked."""
    bits = []
    for scores, one in zip(speaker.rank(planted), planted, strict=True):
        rank = 1 + sum(score > scores[0] for score in scores[1:])
        bits.append(math.log2(len(one.choices)) - math.log2(rank))
    replies = speaker.answer(planted)
    return bits, [words(reply.text) == words(one.answer) for reply, one in zip(replies, planted, strict=True)]

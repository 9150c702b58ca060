"""Does the model do as it is told, each time, however it is told? Instructions that a program can check.

Obedience to single instructions and to two and three at once, judged strictly: all or nothing. Predictability is how
often the judgement is the same over drawn samples and over rewordings of one request. Unexpected requests (empty,
contradictory, impossible, off the training tasks) are counted by what comes: answers, refusals, rambling, broken text.

Limits: obedience in form only; a rule obeyed by an empty sentence of nonsense is obeyed. The requests are ours, few and
English; see `adherence.yaml`.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.constraints import Constraint, draw
from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.requests import KINDS, data, kind_of, request
from didact.audit.standing import settled, standing
from didact.audit.subject import Finding, Reply, Speaker, Subject
from didact.audit.verdict import percent, points
from didact.instance import Instance

OBEYS = "Does the tuned model obey instructions that a program can check?"
STRANGE = "What does the tuned model do with requests that nobody trained it for?"
REWORDINGS = 3
PAST = {"answers": "answered", "refuses": "refused", "rambles": "rambled at", "breaks": "broke at"}


class AdherenceConfig(BaseModel):
    """Checkable instructions, base and tuned; steadiness over samples and rewordings; unexpected requests."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["adherence"] = "adherence"
    items: int = Field(60, ge=12, description="requests, a third each with one, two and three constraints")
    samples: int = Field(3, ge=0, description="answers drawn to each request for predictability; 0: none")
    temperature: float = Field(0.7, gt=0, description="at which they are drawn")
    smallest: float = Field(0.05, gt=0, lt=1, description="the smallest change worth knowing, as a fraction")
    examples: int = Field(3, ge=0, description="examples shown")


@dataclass(frozen=True)
class Told:
    """A request with constraints, in several wordings."""

    constraints: tuple[Constraint, ...]
    wordings: tuple[Instance, ...]

    def obeyed(self, reply: Reply) -> bool:
        return reply.stopped and all(constraint.obeyed(reply.text) for constraint in self.constraints)


def adherence(config: AdherenceConfig, subject: Subject) -> list[Finding]:
    """Two findings: obedience with its predictability, and what becomes of unexpected requests."""
    return [_obedience(config, subject), _unexpected(subject)]


def _obedience(config: AdherenceConfig, subject: Subject) -> Finding:
    asked = _requests(config.items, subject.seed)
    hits = {who: _hits(speaker, asked) for who, speaker in (("base", subject.base), ("tuned", subject.tuned))}
    replies = subject.tuned.answer([told.wordings[0] for told in asked])
    change = mean_interval(hits["tuned"][:, 0] - hits["base"][:, 0], seed=subject.seed)
    share = mean_interval(hits["tuned"][:, 0], span=(0.0, 1.0))
    steady = {"rewordings": _agreement(hits["tuned"])}
    if config.samples > 1 and subject.sampled is not None:
        drawn = [_hits(subject.sampled("tuned", config.temperature, n), asked, 1)[:, 0] for n in range(config.samples)]
        steady["samples"] = _agreement(np.stack(drawn, axis=1))
    found = standing(change, config.smallest)
    category = {"more": "obeys more than before", "less": "obeys less than before", "same": "obeys as before"}.get(
        found, "cannot be told apart"
    )
    said = ", ".join(f"{percent(told.value)} over {name}" for name, told in steady.items())
    verdict = (
        f"{category.capitalize()}. Of {len(asked)} requests with one to three checkable instructions the tuned "
        f"model obeys "
        f"all in {percent(share.value)} [{percent(share.low)}, {percent(share.high)}], before "
        f"{percent(float(hits['base'][:, 0].mean()))}: {points(change)}. Whether it obeys is the same in {said}."
        f"{settled(change, config.smallest)}"
    )
    by_kind, by_number = _tables(asked, hits)
    levels = [
        (
            f"{n} at once",
            f"before {percent(float(hits['base'][pick, 0].mean()))}",
            mean_interval(hits["tuned"][pick, 0], span=(0.0, 1.0)),
        )
        for n in (1, 2, 3)
        if len(pick := np.array([i for i, told in enumerate(asked) if len(told.constraints) == n], dtype=int))
    ]
    details = {
        "category": category,
        "obeyed": share.to_json(),
        "predictability": {name: told.to_json() for name, told in steady.items()},
        "detectable": change.detectable,
        "pictures": [
            whiskers(levels, "percent", "Requests obeyed in full, by how many instructions they hold."),
            whiskers(
                [(f"same over {name}", "", told) for name, told in steady.items()],
                "percent",
                "Predictability: pairs of answers to one request that are judged alike.",
            ),
        ],
        "tables": [by_number, by_kind],
    }
    base = float(hits["base"][:, 0].mean())
    shown = [_shown(told, reply) for told, reply in list(zip(asked, replies, strict=True))[: config.examples]]
    return Finding("adherence", OBEYS, verdict, change.value, change.low, change.high, base, change.n, shown, details)


def _requests(number: int, seed: int) -> list[Told]:
    asked = []
    topics = data("adherence")["requests"]
    for i in range(number):
        rng = random.Random(f"{seed} adherence {i}")
        constraints = tuple(draw(rng, 1 + i % 3))
        topic = topics[i % len(topics)]
        wordings = tuple(
            request(" ".join([topic, *(c.wording(w) for c in constraints)]), "adherence", i) for w in range(REWORDINGS)
        )
        asked.append(Told(constraints, wordings))
    return asked


def _hits(speaker: Speaker, asked: Sequence[Told], wordings: int = REWORDINGS) -> Floats:
    """Requests x wordings: 1 where all is obeyed."""
    replies = iter(speaker.answer([one for told in asked for one in told.wordings[:wordings]]))
    return np.array([[float(told.obeyed(next(replies))) for _ in range(wordings)] for told in asked])


def _agreement(hits: Floats) -> Interval:
    """The share of pairs of answers to one request that are judged alike, requests resampled whole."""
    n = hits.shape[1]
    up = hits.sum(axis=1)
    return mean_interval((up * (up - 1) + (n - up) * (n - up - 1)) / (n * (n - 1)), span=(0.0, 1.0))


def _tables(asked: Sequence[Told], hits: dict[str, Floats]) -> tuple[dict[str, Any], dict[str, Any]]:
    kinds: dict[str, list[int]] = defaultdict(list)
    numbers: dict[int, list[int]] = defaultdict(list)
    for i, told in enumerate(asked):
        numbers[len(told.constraints)].append(i)
        for constraint in told.constraints:
            kinds[constraint.kind].append(i)

    def row(name: str, pick: Sequence[int]) -> list[Any]:
        return [name, *(100 * float(hits[who][list(pick), 0].mean()) for who in ("base", "tuned")), len(pick)]

    columns = ["", "before, %", "after, %", "n"]
    return (
        table(
            "Requests that hold this instruction, obeyed in full",
            columns,
            [row(k, p) for k, p in sorted(kinds.items())],
        ),
        table("By number of instructions", columns, [row(str(n), p) for n, p in sorted(numbers.items())]),
    )


def _shown(told: Told, reply: Reply) -> dict[str, Any]:
    verdicts = [f"{c.kind}: {'obeyed' if c.obeyed(reply.text) else 'not obeyed'}" for c in told.constraints]
    return {"rule": "first ones", "request": told.wordings[0].prompt, "reply": reply.text, "judged": verdicts}


def _unexpected(subject: Subject) -> Finding:
    groups = data("adherence")["unexpected"]
    asked = [(group, request(text, "unexpected", i)) for group, texts in groups.items() for i, text in enumerate(texts)]
    fits = subject.readable([one for _, one in asked])
    asked = [pair for pair, fit in zip(asked, fits, strict=True) if fit]
    items = [one for _, one in asked]
    told = {who: speaker.answer(items) for who, speaker in (("before", subject.base), ("after", subject.tuned))}
    kinds = {who: [kind_of(reply) for reply in replies] for who, replies in told.items()}
    counts = {who: Counter(found) for who, found in kinds.items()}
    ends = mean_interval([float(kind in ("answers", "refuses")) for kind in kinds["after"]], span=(0.0, 1.0))
    before = float(np.mean([kind in ("answers", "refuses") for kind in kinds["before"]]))
    most = counts["after"].most_common(1)[0][0]
    category = f"mostly {most}"
    said = {
        who: ", ".join(f"{PAST[kind]} {counts[who][kind]}" for kind in KINDS if counts[who][kind]) for who in counts
    }
    text = f"Of {len(items)} unexpected requests it {said['after']}; before tuning it {said['before']}."
    verdict = f"{category.capitalize()}. {text}"
    rows = [
        [
            group,
            *(
                f"{Counter(k for (g, _), k in zip(asked, kinds[who], strict=True) if g == group)[kind]}"
                for who in told
                for kind in KINDS
            ),
        ]
        for group in groups
    ]
    columns = ["requests", *(f"{kind} {who}" for who in told for kind in KINDS)]
    shown = [
        {"rule": group, "request": one.prompt, "reply": reply.text, "judged": [kind]}
        for (group, one), reply, kind in zip(asked, told["after"], kinds["after"], strict=True)
    ][::4]
    details = {
        "category": category,
        "counts": {who: dict(found) for who, found in counts.items()},
        "unit": "percent",
        "detectable": ends.detectable,
        "pictures": [
            whiskers(
                [
                    (kind, f"before {counts['before'][kind]} of {len(items)}", _share(kinds["after"], kind))
                    for kind in KINDS
                ],
                "percent",
                "What the tuned model does with them, 95% intervals.",
            )
        ],
        "tables": [table("What came of them", columns, rows)],
    }
    return Finding("adherence", STRANGE, verdict, ends.value, ends.low, ends.high, before, ends.n, shown, details)


def _share(kinds: Sequence[str], wanted: str) -> Interval:
    return mean_interval([float(kind == wanted) for kind in kinds], span=(0.0, 1.0))

"""Does it look? Questions about pictures with their picture, with that of another row, and with none.

The answer to another row's picture is judged by the question's own: what is still right was guessed from the words
alone. Of questions that are answered yes or no, how often is "yes" said where it is wrong (POPE's object hallucination,
Li 2023, arXiv 2305.10355), on as many of either kind.

Limits: the other picture is one of the same task whose answer differs, where there is one; a model that was never shown
a question without a picture may do worse there than chance, and one that reads a picture in every row is not asked so.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import Measured, example, failed, groups_of, measure, sample, task_of
from didact.audit.score import right_answers, words
from didact.audit.subject import Finding, Speaker, Subject
from didact.audit.verdict import percent
from didact.instance import Instance, Message, Part

LOOKS = "Does it look at the picture, or guess from the words?"
INVENTS = "Does it say that things are there which are not?"
ARMS = {"seen": "with its picture", "other": "with another picture", "none": "without a picture"}


class BlindConfig(BaseModel):
    """Questions about pictures, asked with their picture, with another and with none."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["blind"] = "blind"
    items: int = Field(200, ge=1, description="held-out rows with pictures, spread over tasks")
    yes_no: int = Field(200, ge=0, description="held-out rows that are answered yes or no, half of them each")
    min_items: int = Field(20, ge=5, description="with fewer items than this nothing is said")
    enough: float = Field(0.2, gt=0, lt=1, description="the share of answers that must rest on the picture")
    tolerance: float = Field(
        0.1, gt=0, lt=1, description="the share of things that are not there which may be affirmed"
    )


def blind(config: BlindConfig, subject: Subject) -> list[Finding]:
    """One finding about looking, one about inventing; each says so where a run has too few such questions."""
    shown = [one for one in subject.heldout if one.images]
    fitting = subject.readable(shown)
    shown = [one for one, fits in zip(shown, fitting, strict=True) if fits]
    return [_looks(config, subject, shown), *([_invents(config, subject, shown)] if config.yes_no else [])]


def _looks(config: BlindConfig, subject: Subject, shown: Sequence[Instance]) -> Finding:
    chosen = sample(shown, config.items, subject.seed)
    others = _others(chosen, subject.seed)
    pairs = [(one, other) for one, other in zip(chosen, others, strict=True) if other is not None]
    if len(pairs) < config.min_items:
        problem = f"Only {len(pairs)} held-out rows have a picture and another of their task to put in its place."
        return failed("blind", LOOKS, problem)
    asked = [one for one, _ in pairs]
    made = {"seen": asked, "other": [other for _, other in pairs]}
    bare = [_without(one) for one in asked]
    made |= {"none": bare} if all(subject.readable(bare)) else {}  # some models read one picture in every row
    base, tuned = ({arm: measure(speaker, rows) for arm, rows in made.items()} for speaker in _speakers(subject))
    rows = groups_of(asked)
    share = {arm: _share(tuned[arm].score, rows, subject.seed) for arm in made}
    rests = mean_interval(tuned["seen"].score - tuned["other"].score, rows, seed=subject.seed)
    before = float((base["seen"].score - base["other"].score).mean())
    chance = _chance(asked, subject.trained)
    category = _category(rests, config.enough)
    without = f"without one {percent(share['none'].value)}" if "none" in made else "and it cannot be asked without one"
    verdict = (
        f"{category.capitalize()}. It answers {percent(share['seen'].value)} [{percent(share['seen'].low)}, "
        f"{percent(share['seen'].high)}] right, with another picture {percent(share['other'].value)}, {without}; "
        f"always the likeliest answer of a task would be {percent(chance)}. "
        f"{percent(rests.value)} [{percent(rests.low)}, {percent(rests.high)}] of its answers rest on the picture, "
        f"before {percent(before)} (n={rests.n})."
    )
    by_task: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(asked):
        by_task[task_of(one)].append(i)
    lines = [
        [task, *(percent(float(tuned[arm].score[members].mean())) for arm in made), len(members)]
        for task, members in sorted(by_task.items())
    ]
    exhibits = {
        "pictures": [whiskers([(ARMS[arm], "", told) for arm, told in share.items()], "percent", LOOKS)],
        "tables": [table("Right answers by task", ["task", *(ARMS[arm] for arm in made), "items"], lines)],
    }
    kept = [i for i in range(len(asked)) if tuned["seen"].score[i] > tuned["other"].score[i]][:3]
    lost = [i for i in range(len(asked)) if tuned["seen"].score[i] < 1][:3]
    told = [{"rule": "right with its picture alone", **_example(asked, base, tuned, i)} for i in kept]
    told += [{"rule": "wrong with its picture", **_example(asked, base, tuned, i)} for i in lost]
    details = {"category": category, "chance": chance, **{arm: one.to_json() for arm, one in share.items()}, **exhibits}
    return Finding("blind", LOOKS, verdict, rests.value, rests.low, rests.high, before, rests.n, told, details)


def _invents(config: BlindConfig, subject: Subject, shown: Sequence[Instance]) -> Finding:
    kinds = {
        kind: sample([one for one in shown if _said(one) == kind], config.yes_no // 2, subject.seed)
        for kind in ("yes", "no")
    }
    size = min(map(len, kinds.values()))
    if 2 * size < config.min_items:
        counts = ", ".join(f"{len(some)} with {kind}" for kind, some in kinds.items())
        return failed("blind", INVENTS, f"Too few held-out questions about pictures are answered yes or no: {counts}.")
    asked = [one for some in kinds.values() for one in some[:size]]
    absent = np.array([_said(one) == "no" for one in asked])
    base, tuned = (measure(speaker, asked) for speaker in _speakers(subject))
    rows = groups_of(asked)
    yes = [np.array([float(words(reply.text)[:1] == ["yes"]) for reply in each.replies]) for each in (base, tuned)]
    where = [row for row, out in zip(rows, absent, strict=True) if out]
    invented = mean_interval(yes[1][absent], where, seed=subject.seed, span=(0.0, 1.0))
    before = float(yes[0][absent].mean())
    right = _share(tuned.score, rows, subject.seed)
    found = float(yes[1][~absent].mean())
    category = (
        "invents" if invented.low > config.tolerance
        else "does not invent" if invented.high <= config.tolerance else "cannot be told apart"
    )  # fmt: skip
    verdict = (
        f"{category.capitalize()}. Asked for what is not there it says yes in {percent(invented.value)} "
        f"[{percent(invented.low)}, {percent(invented.high)}] of cases, before in {percent(before)}; of what is there "
        f"it affirms {percent(found)}. On as many of either kind {percent(right.value)} of its answers are right, and "
        f"{percent(float(yes[1].mean()))} are yes (n={len(asked)})."
    )
    wrong = [i for i in range(len(asked)) if absent[i] and yes[1][i]][:4]
    told = [{"rule": "affirms what is not there", **example(asked[i], base, tuned, i)} for i in wrong]
    details = {"category": category, "right": right.to_json(), "affirmed": found, "yes": float(yes[1].mean())}
    return Finding(
        "blind", INVENTS, verdict, invented.value, invented.low, invented.high, before, invented.n, told, details
    )


def _speakers(subject: Subject) -> tuple[Speaker, Speaker]:
    return subject.base, subject.tuned


def _share(values: Floats, rows: Sequence[object], seed: int) -> Interval:
    return mean_interval(values, rows, seed=seed, span=(0.0, 1.0))


def _others(chosen: Sequence[Instance], seed: int) -> list[Instance | None]:
    """Each row with the pictures of another of its task, one with another answer if there is one; None if none has."""
    draw, found = random.Random(seed), list[Instance | None]()
    for one in chosen:
        able = [
            other
            for other in chosen
            if task_of(other) == task_of(one)
            and len(_asked_of(other)) == len(_asked_of(one))
            and set(_asked_of(other)).isdisjoint(_asked_of(one))
        ]
        differ = [other for other in able if words(other.answer) != words(one.answer)]
        other = draw.choice(differ or able) if able else None
        found.append(None if other is None else _swapped(one, _asked_of(other)))
    return found


def _asked_about(part: Part) -> bool:
    """Is this a picture of the question, and not of an example before it?"""
    return part.kind == "image" and part.slot != "demo"


def _asked_of(instance: Instance) -> list[str]:
    return [part.value for message in instance.messages for part in message.parts if _asked_about(part)]


def _swapped(instance: Instance, pictures: Sequence[str]) -> Instance:
    """The same question to other pictures; its answer stays, and examples keep theirs."""
    left = iter(pictures)
    messages = tuple(
        Message(m.role, tuple(replace(p, value=next(left)) if _asked_about(p) else p for p in m.parts))
        for m in instance.messages
    )
    return Instance.of(messages, instance.origin, instance.references, instance.choices, instance.tags)


def _without(instance: Instance) -> Instance:
    messages = tuple(Message(m.role, tuple(p for p in m.parts if not _asked_about(p))) for m in instance.messages)
    return Instance.of(messages, instance.origin, instance.references, instance.choices, instance.tags)


def _said(instance: Instance) -> str:
    """yes or no, where that is the whole of the right answer."""
    said = words(instance.answer)
    return said[0] if len(said) == 1 and said[0] in ("yes", "no") else ""


def _chance(asked: Sequence[Instance], trained: Sequence[Instance]) -> float:
    """The share that is right if every task is always given the answer that is most frequent in its training."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for one in trained:
        seen[task_of(one)][" ".join(words(one.answer))] += 1
    hits = []
    for one in asked:
        usual = seen[task_of(one)].most_common(1)
        hits.append(float(bool(usual) and usual[0][0] in {" ".join(words(right)) for right in right_answers(one)}))
    return float(np.mean(hits))


def _category(rests: Interval, enough: float) -> str:
    if rests.low >= enough:
        return "it looks"
    if rests.high < enough:
        return "it guesses" if rests.low <= 0 else "it hardly looks"
    return "cannot be told apart"


def _example(
    asked: Sequence[Instance], base: dict[str, Measured], tuned: dict[str, Measured], i: int
) -> dict[str, object]:
    told = example(asked[i], base["seen"], tuned["seen"], i)
    names = {"other": "with another picture", "none": "without"}
    return {**told, **{name: tuned[arm].replies[i].text for arm, name in names.items() if arm in tuned}}

"""Whose answers are better, the base's, the tuned model's or the reference? By rules, and by any model that is asked.

Without a teacher only rules judge: the score of each answer, then its form. A named teacher compares each pair in both
orders, and a preference counts only if both agree (Zheng et al. 2023, arXiv 2306.05685). Judges like length, so the
share of wins is given at equal length as well, by a logistic regression on the difference (Dubois et al. 2024, arXiv
2404.04475). How often the judge agrees with the rules stands beside it: a judge that does not is not believed.

What is judged stands between marks that nobody can know who wrote it. Limit: a judge rewards style where it cannot
check facts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.audit.exhibit import table, whiskers
from didact.audit.interval import Floats, Interval, mean_interval
from didact.audit.measure import clip, example, failed, groups_of, measure, sample
from didact.audit.score import words
from didact.audit.standing import settled
from didact.audit.subject import Finding, Subject
from didact.audit.verdict import percent, points
from didact.errors import UsageError
from didact.instance import Instance, Message, Part, digest

QUESTION = "Whose answers are better, before tuning or after?"
PAIRS = {"tuned against base": ("tuned", "base"), "tuned against reference": ("tuned", "reference")}


class JudgedConfig(BaseModel):
    """Pairs of answers compared by rules, and by a teacher if one is named."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["judge"] = "judge"
    teacher: str = Field("", description="which of the recipe's teachers judges; empty: rules only, nothing is asked")
    items: int = Field(100, ge=10, description="held-out instances whose answers are compared, spread over tasks")
    against_reference: bool = Field(True, description="compare the tuned answer with the reference too")
    show_reference: bool = Field(True, description="show the judge the right answer when base and tuned are compared")
    examples: int = Field(3, ge=0, description="examples shown")


def judge(config: JudgedConfig, subject: Subject) -> list[Finding]:
    """One finding by rules; one by the teacher if there is one, failed in one line if it cannot be reached."""
    asked = sample([i for i in subject.heldout if i.answer], config.items, subject.seed)
    if len(asked) < 10:
        return [failed("judge", QUESTION, f"Only {len(asked)} held-out items; raise build.heldout_rows.")]
    base, tuned = measure(subject.base, asked), measure(subject.tuned, asked)
    texts = {
        "base": [reply.text for reply in base.replies],
        "tuned": [reply.text for reply in tuned.replies],
        "reference": [instance.answer for instance in asked],
    }
    ruled = _ruled(base.score, base.form, tuned.score, tuned.form)
    shown = [
        {"rule": "first ones", **example(asked[i], base, tuned, i)} for i in range(min(config.examples, len(asked)))
    ]
    found = [_finding("rules", {"tuned against base": (ruled, texts)}, asked, None, subject.seed, shown)]
    if not config.teacher:
        return found
    try:
        judged = {
            name: _judged(config, subject, asked, texts, pair) for name, pair in PAIRS.items() if _wanted(config, name)
        }
    except UsageError as error:
        verdict = f"Cannot be said. The judge {config.teacher} could not be asked: {error}"
        return [*found, Finding("judge", QUESTION, verdict, details={"category": "failed", "by": config.teacher})]
    answered = {name: np.isfinite(one).sum() for name, one in judged.items()}
    if min(answered.values()) < 10:
        told = f"gave a verdict on {min(answered.values())} of {len(asked)} pairs"
        verdict = f"Cannot be said. The judge {config.teacher} {told}."
        return [*found, Finding("judge", QUESTION, verdict, details={"category": "failed", "by": config.teacher})]
    pairs = {name: (one, texts) for name, one in judged.items()}
    return [*found, _finding(config.teacher, pairs, asked, ruled, subject.seed, [])]


def _wanted(config: JudgedConfig, name: str) -> bool:
    return config.against_reference or name != "tuned against reference"


def _ruled(base: Floats, base_form: Floats, tuned: Floats, tuned_form: Floats) -> Floats:
    """1 where the tuned answer wins by its score, else by its form; 0.5 for a tie."""
    better = np.sign(tuned - base)
    return np.asarray(0.5 + np.where(better != 0, better, np.sign(tuned_form - base_form)) / 2)


def _judged(
    config: JudgedConfig,
    subject: Subject,
    asked: Sequence[Instance],
    texts: dict[str, list[str]],
    pair: tuple[str, str],
) -> Floats:
    """Per item: 1 the first of the pair wins in both orders, 0 it loses in both, 0.5 a tie or discord, NaN unsaid."""
    if subject.ask is None:
        raise UsageError("nobody can be asked here", "name a teacher in the recipe", field="teachers")
    conversations = []
    for i, instance in enumerate(asked):
        reference = instance.answer if config.show_reference and "reference" not in pair else ""
        mine, theirs = texts[pair[0]][i], texts[pair[1]][i]
        for first, second in ((mine, theirs), (theirs, mine)):
            prompt = _prompt(instance.prompt, first, second, reference)
            conversations.append((Message("user", (Part(prompt),)),))
    replies = [_letter(reply) for reply in subject.ask(conversations, config.teacher)]
    scale = {"A": 1.0, "T": 0.5, "B": 0.0}
    values = []
    for straight, turned in zip(replies[::2], replies[1::2], strict=True):
        if straight is None or turned is None:
            values.append(np.nan)
        else:
            one, other = scale[straight], 1 - scale[turned]
            values.append(one if one == other else 0.5)
    return np.array(values)


def _prompt(question: str, first: str, second: str, reference: str) -> str:
    from jinja2.sandbox import SandboxedEnvironment

    text = Path(__file__).with_name("judge.jinja").read_text("utf-8")
    mark = f"==={digest([question, first, second, 'judge'], 12)}==="
    template = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    told = {"question": question, "first": first, "second": second, "reference": reference}
    return template.render(mark=mark, **{key: clip(value) for key, value in told.items()})


def _letter(reply: str | None) -> str | None:
    """A, B or T, if the reply says one and only one of them first."""
    found = re.match(r"\W*(?:answer\s+)?([ABT])\b", reply or "", re.IGNORECASE)
    return found.group(1).upper() if found else None


def at_equal_length(wins: Floats, longer: Floats) -> float:
    """The share of wins that a logistic regression foretells for answers of equal length."""
    x = np.stack([np.ones_like(longer), np.tanh(longer)], axis=1)
    weights = np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (wins - chance) - 0.1 * weights  # a little ridge keeps it finite where all are won
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + 0.1 * np.eye(2)
        weights = weights + np.linalg.solve(curve, slope)
    return float(1 / (1 + np.exp(-weights[0])))


def _finding(
    by: str,
    pairs: dict[str, tuple[Floats, dict[str, list[str]]]],
    asked: Sequence[Instance],
    ruled: Floats | None,
    seed: int,
    shown: list[dict[str, Any]],
) -> Finding:
    rows = groups_of(asked)
    shares: dict[str, Interval] = {}
    equal: dict[str, float] = {}
    for name, (wins, texts) in pairs.items():
        known = np.flatnonzero(np.isfinite(wins))
        shares[name] = mean_interval(wins[known], [rows[i] for i in known], seed=seed, span=(0.0, 1.0))
        mine, theirs = (texts[who] for who in PAIRS[name])
        longer = np.array([np.log1p(len(words(mine[i]))) - np.log1p(len(words(theirs[i]))) for i in known])
        equal[name] = at_equal_length(wins[known], longer)
    key = next(iter(pairs))
    share, wins = shares[key], pairs[key][0]
    over = Interval(share.value - 0.5, share.low - 0.5, share.high - 0.5, share.error, share.n, share.groups)
    category = "tuned preferred" if share.low > 0.5 else "base preferred" if share.high < 0.5 else "no preference shown"
    agree = None if ruled is None else _agreement(wins, ruled)
    told = "Rules" if by == "rules" else f"The judge {by}"
    verdict = (
        f"{category.capitalize()}. {told} give the tuned answer {percent(share.value)} of {share.n} pairs with the "
        f"base's [{percent(share.low)}, {percent(share.high)}], ties as half; {percent(equal[key])} at equal length."
    )
    if "tuned against reference" in shares:
        other = shares["tuned against reference"]
        verdict += f" Against the reference {percent(other.value)} [{percent(other.low)}, {percent(other.high)}]."
    if agree is not None:
        verdict += f" Where both decide, it agrees with the rules in {percent(agree[0])} of {agree[1]} pairs."
    verdict += settled(over, 0.05) if category == "no preference shown" else ""
    unsaid = int((~np.isfinite(wins)).sum())
    verdict += f" On {unsaid} pairs it gave no verdict." if unsaid else ""
    details = {
        "category": category,
        "by": by,
        "unit": "percent",
        "shares": {name: one.to_json() for name, one in shares.items()},
        "at equal length": equal,
        "agreement": agree and {"share": agree[0], "n": agree[1]},
        "over half": points(over),
        "detectable": share.detectable,
        "pictures": [whiskers([(n, f"n={s.n}", s) for n, s in shares.items()], "percent", "Pairs won, ties as half.")],
        "tables": [
            table(
                "Pairs",
                ["", "won", "tied", "lost", "won, %", "won at equal length, %"],
                [[name, *_counts(pairs[name][0]), 100 * shares[name].value, 100 * equal[name]] for name in pairs],
            )
        ],
    }
    return Finding("judge", QUESTION, verdict, share.value, share.low, share.high, 0.5, share.n, shown, details)


def _counts(wins: Floats) -> list[int]:
    return [int((wins == value).sum()) for value in (1.0, 0.5, 0.0)]


def _agreement(wins: Floats, ruled: Floats) -> tuple[float, int] | None:
    """How often judge and rules prefer the same answer, where both prefer one."""
    both = np.isfinite(wins) & (wins != 0.5) & (ruled != 0.5)
    return (float((wins[both] == ruled[both]).mean()), int(both.sum())) if both.any() else None

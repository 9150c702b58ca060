"""Ask a language model how good an instance is, and keep what it finds good enough, with its length held against it.

`score`: every instance gets a grade (the curation of Humpback, Li et al. 2023, arXiv 2308.06259, and AlpaGasus, Chen et
al. 2023, arXiv 2307.08701). Judges like long answers, so grades are regressed on the logarithm of the answer's length,
and what length alone explains is taken off before the threshold. `pairs`: answers to one question are compared with
one another in both orders, and a preference counts only if both agree (Zheng et al. 2023, arXiv 2306.05685);
the best is kept, among equals the shortest.

What is judged stands between marks that nobody can know who wrote it, so that it cannot speak to the judge.
Limits: a judge rewards style where it cannot check facts. Pair it with a rule that can.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Ask, Context, Conversation
from didact.curate.words import all_words
from didact.errors import UsageError
from didact.instance import Instance, Message, Part, Verdict, digest
from didact.llm import Bill
from didact.llm.budget import tokens_of

FEW = 20  # grades that are too few to tell what length does


class JudgeConfig(BaseModel):
    """What is asked of the judge, and what is good enough."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["judge"] = Field("judge", description="what a language model does not find good enough")
    teacher: str = Field("", description="which of the recipe's teachers judges; empty: the first")
    mode: Literal["score", "pairs"] = Field(
        "score", description="score: a grade each; pairs: answers to the same question against one another"
    )
    rubric: Literal["answer", "instruction"] = Field("answer", description="what is graded: the answer or the question")
    criteria: str = Field("", description="your own criteria, in words, instead of the rubric's")
    low: int = Field(1, description="worst grade")
    high: int = Field(5, description="best grade")
    least: float = Field(4.0, description="grade from which an instance is kept, its length allowed for")
    length_control: bool = Field(True, description="take off the grade what the answer's length alone explains")
    unjudged: Literal["drop", "keep"] = Field("drop", description="what becomes of those the judge gives no grade")


def judge(config: JudgeConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance: its score is the grade less the part of length, or the share of comparisons won."""
    if context.ask is None:
        raise UsageError("the judge needs a language model to ask", "give the recipe a teacher, or take judge out")
    if config.mode == "pairs":
        return _pairs(config, instances, context.ask)
    prompts = [_prompt("score", config, instance.prompt, instance.answer) for instance in instances]
    grades = [_grade(reply, config) for reply in context.ask(prompts, config.teacher)]
    lengths = [math.log1p(len(all_words(instance.answer))) for instance in instances]
    fair = without_length(grades, lengths) if config.length_control else grades
    return [_verdict(config, grade, score) for grade, score in zip(grades, fair, strict=True)]


def without_length(grades: Sequence[float | None], lengths: Sequence[float]) -> list[float | None]:
    """Grades less what a straight line over the lengths explains, about the mean length; longer must not lose more
    than it gained, so a line that falls, or one drawn through few grades, changes nothing."""
    known = [(length, grade) for length, grade in zip(lengths, grades, strict=True) if grade is not None]
    if len(known) < FEW:
        return list(grades)
    mean = sum(length for length, _ in known) / len(known)
    middle = sum(grade for _, grade in known) / len(known)
    spread = sum((length - mean) ** 2 for length, _ in known)
    common = sum((length - mean) * (grade - middle) for length, grade in known)
    slope = max(0.0, common / spread) if spread > 0 else 0.0
    return [
        None if grade is None else grade - slope * (length - mean)
        for length, grade in zip(lengths, grades, strict=True)
    ]


def _verdict(config: JudgeConfig, grade: float | None, score: float | None) -> Verdict:
    if grade is None or score is None:
        return Verdict(config.unjudged == "keep", "the judge gave no grade")
    if score >= config.least - 1e-9:
        return Verdict(True, "", score)
    high = " once its length is allowed for" if grade >= config.least else ""
    return Verdict(False, f"the judge's grade is below {config.least:g}{high}", score)


def _pairs(config: JudgeConfig, instances: Sequence[Instance], ask: Ask) -> list[Verdict]:
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, instance in enumerate(instances):
        groups[instance.prompt, *instance.pictured].append(number)
    asked = [(a, b) for group in groups.values() for a, b in combinations(group, 2)]
    both = [pair for a, b in asked for pair in ((a, b), (b, a))]
    prompts = [_prompt("pair", config, instances[a].prompt, instances[a].answer, instances[b].answer) for a, b in both]
    replies = list(ask(prompts, config.teacher)) if prompts else []
    wins: defaultdict[int, float] = defaultdict(float)
    for (a, b), one, other in zip(asked, replies[::2], replies[1::2], strict=True):
        if (first := _better(one)) and first == -_better(other):  # the same answer, wherever it stood
            wins[a if first > 0 else b] += 1
    verdicts = [Verdict(True)] * len(instances)
    for group in groups.values():
        if len(group) < 2:
            continue
        best = min(group, key=lambda i: (-wins[i], len(instances[i].answer), i))
        for i in group:
            share = wins[i] / (len(group) - 1)
            reason = "another answer to the same question is preferred"
            verdicts[i] = Verdict(True, "", share) if i == best else Verdict(False, reason, share, instances[best].id)
    return verdicts


def bill(config: JudgeConfig, count: int, words: int = 400) -> Bill:
    """What judging some instances of so many characters will ask; pairs as if all had one other answer."""
    kind = "score" if config.mode == "score" else "pair"
    (turn,) = _prompt(kind, config, "", "", "")
    return Bill(count, count * (tokens_of(turn.text) + words // 4), count * 60)


def _prompt(kind: str, config: JudgeConfig, question: str, answer: str, other: str = "") -> Conversation:
    """The judge's prompt. Everything is put in at once, so what stands in a text is never filled in again."""
    fields = {
        "mark": digest([question, answer, other])[:12],
        "criteria": config.criteria or _text(config.rubric).strip(),
        "question": question,
        "answer": answer,
        "other": other,
        "low": str(config.low),
        "high": str(config.high),
    }
    return (Message("user", (Part(re.sub(r"\{(\w+)\}", lambda m: fields[m[1]], _text(kind))),)),)


def _text(name: str) -> str:
    return (Path(__file__).parent / "rubrics" / f"{name}.txt").read_text("utf-8")


def _grade(reply: str | None, config: JudgeConfig) -> float | None:
    """The last grade in a reply; None if there is none, or if it is off the scale."""
    found = re.findall(r"score\W{0,6}(-?\d+(?:\.\d+)?)", reply or "", re.IGNORECASE)
    grade = float(found[-1]) if found else math.nan
    return grade if config.low <= grade <= config.high else None


def _better(reply: str | None) -> int:
    """1: the first is better; -1: the second; 0: neither, or not told."""
    found = re.findall(r"better\W{0,6}(a|b|equal)\b", reply or "", re.IGNORECASE)
    return {"a": 1, "b": -1}.get(found[-1].lower(), 0) if found else 0

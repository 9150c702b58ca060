"""Answers for bare questions: by one teacher or several, the first, the one most agree on, or the best by a judge.

The plainest road of all (outputs from a language model, as for InstructWild's and Alpaca's instructions); agreement of
samples is self-consistency (Wang et al. 2022, arXiv 2203.11171), best-of-n by a judge as in Baize's feedback. Questions
come from seed tasks, or from sources put into words by their templates; then their own answers are not shown to the
teacher, but compared: `valid` is an answer that the row allows, `right` the row's own.

Limits: a teacher's errors are learnt with its answers, and a judge likes length; see curate for what can be dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.generate.context import SPARE, Asker, Context, name_of
from didact.generate.faults import fault
from didact.generate.marks import mark_all
from didact.generate.seeds import load_seeds
from didact.generate.settings import Licence, MaxTokens, Seeds, Teacher, Temperature, TopP
from didact.instance import Drop, Instance, Message, Origin, Part
from didact.llm import Bill, Reply, Request
from didact.llm.budget import tokens_of
from didact.sources import Source

NAME = "distill"
ROUND = 512  # questions asked together


class DistillConfig(BaseModel):
    """Answers of a teacher to bare questions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["distill"] = Field("distill", description="answers of a teacher to bare questions")
    teachers: list[str] = Field([], description="which of the recipe's teachers answer; the first unless given")
    seeds: Seeds = ""
    sources: list[Source] = Field([], description="rows that become questions by their templates, instead of seeds")
    limit: int | None = Field(None, ge=1, description="ask at most so many questions")
    samples: int = Field(1, ge=1, description="answers of each teacher to each question")
    pick: Literal["first", "agreed", "judged", "all"] = Field(
        "first", description="which is kept: the first, the most frequent, the judge's best, or all that differ"
    )
    agreed: float = Field(
        0.5, gt=0, le=1, description="agreed: smallest share of the answers asked for that must be the same"
    )
    judge: Teacher = ""
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    max_tokens: MaxTokens = 512
    only_valid: bool = Field(True, description="where the row names its choices, drop an answer that is none of them")
    licence: Licence = ""

    @model_validator(mode="after")
    def _samples_differ(self) -> DistillConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples at temperature 0 are all the same: raise temperature")
        if self.samples * max(1, len(self.teachers)) > 1 and self.pick == "first":
            raise ValueError("of several answers the first is kept: set pick to agreed, judged or all")
        return self


@dataclass(frozen=True)
class _Question:
    """What is asked. context: its turns; truth: the row's own answer, if it has one."""

    context: tuple[Message, ...]
    origin: Origin
    name: str
    truth: Instance | None = None

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        return tuple((message.role, message.text) for message in self.context)


def distill(config: DistillConfig, context: Context) -> Iterator[Instance]:
    """One instance per question that got a usable answer; tags `valid` and `right` where the rows can tell."""
    questions = islice(_questions(config, context), config.limit)
    teachers = [context.llm(name) for name in config.teachers or [""]]
    judge = context.llm(config.judge) if config.pick == "judged" else None
    number = 0
    while some := list(islice(questions, ROUND)):
        answers = [_usable(config, context, teacher, some) for teacher in teachers]
        together = [[reply for found in answers for reply in found[i]] for i in range(len(some))]
        picks = _pick(config, judge, some, together)
        for question, answered, picked in zip(some, together, picks, strict=True):
            number += 1
            if not picked:
                _drop(context, "no answer to keep", question, number)
            for reply, _ in answered:
                if not any(reply is one for one, _ in picked):
                    _drop(context, f"{SPARE}not picked", question, number, detail=reply.text)
            for reply, name in picked:
                made = _instance(config, question, reply, name, number)
                if config.only_valid and made.tags.get("valid") == "no":
                    _drop(context, "the answer is none of the choices", question, number, made)
                else:
                    yield made
        context.progress(number, config.limit or number)


def _questions(config: DistillConfig, context: Context) -> Iterator[_Question]:
    if config.sources:
        for instance in context.questions(config.sources):
            yield _Question(instance.context, instance.origin, instance.id, instance)
        return
    for number, seed in enumerate(load_seeds(config.seeds, context.home, context.built), 1):
        inputs: Iterable[str] = dict.fromkeys(given for given, _ in seed.examples) or [""]
        for given in inputs:
            parts = (Part(seed.instruction + ("\n" if given else ""), "instruction"),)
            turns = (Message("user", (*parts, Part(given, "input")) if given else parts),)
            origin = Origin(f"generate:{NAME}", number, task=NAME, cluster=NAME, licence=config.licence)
            yield _Question(turns, origin, name_of(seed.instruction))


def _usable(
    config: DistillConfig, context: Context, teacher: Asker, questions: Sequence[_Question]
) -> list[list[tuple[Reply, str]]]:
    """The replies of a teacher that can be kept, by question."""
    requests = (
        Request(
            question.messages, sample=sample, temperature=config.temperature, top_p=config.top_p,
            max_tokens=config.max_tokens,
        )
        for question in questions
        for sample in range(config.samples)
    )  # fmt: skip
    found: list[list[tuple[Reply, str]]] = [[] for _ in questions]
    for i, reply in enumerate(teacher.ask(requests)):
        question = questions[i // config.samples]
        if not reply.ok:
            context.rejected(NAME, reply, i)
            continue
        why = "cut at the longest answer" if reply.finish == "length" else fault(reply.text, question.context[-1].text)
        if why:
            _drop(context, f"the answer is {why}" if not why.startswith("cut") else why, question, i)
        else:
            found[i // config.samples].append((reply, teacher.name))
    return found


def _pick(
    config: DistillConfig,
    judge: Asker | None,
    questions: Sequence[_Question],
    answers: Sequence[list[tuple[Reply, str]]],
) -> list[list[tuple[Reply, str]]]:
    if config.pick == "first":
        return [found[:1] for found in answers]
    if config.pick == "all":
        return [
            list({_plain(reply.text): (reply, name) for reply, name in reversed(found)}.values())[::-1]
            for found in answers
        ]
    if config.pick == "agreed":
        asked = config.samples * max(1, len(config.teachers))
        return [_agreed(found, config.agreed * asked) for found in answers]
    assert judge is not None
    pairs = [(q, reply) for q, found in zip(questions, answers, strict=True) for reply, _ in found]
    marks = iter(mark_all(judge, "mark_answer", [{"question": q.messages[-1][1], "answer": r.text} for q, r in pairs]))
    best = []
    for found in answers:
        marked = [(mark, -i) for i, mark in ((i, next(marks)) for i in range(len(found))) if mark is not None]
        best.append([found[-max(marked)[1]]] if marked else [])
    return best


def _agreed(found: Sequence[tuple[Reply, str]], least: float) -> list[tuple[Reply, str]]:
    if not found:
        return []
    counts = Counter(_plain(reply.text) for reply, _ in found)
    text, count = max(counts.items(), key=lambda item: item[1])
    first = next(pair for pair in found if _plain(pair[0].text) == text)
    return [first] if count >= least - 1e-9 else []


def _plain(text: str) -> str:
    return re.sub(r"[\s.]+$", "", " ".join(text.split())).casefold()


def _instance(config: DistillConfig, question: _Question, reply: Reply, teacher: str, number: int) -> Instance:
    text, tags, choices = reply.text.strip(), {"split": "train", "call": reply.key}, ()
    origin, truth = question.origin, question.truth
    if truth is not None:
        tags |= {key: value for key, value in truth.tags.items() if key in ("template", "options")}
        allowed = {_plain(choice): choice for choice in truth.choices}
        if allowed:
            tags["valid"] = "yes" if _plain(text) in allowed else "no"
            text = allowed.get(_plain(text), text)
        if truth.answer:
            right = {_plain(answer) for answer in (truth.answer, *truth.references)}
            tags["right"] = "yes" if _plain(text) in right else "no"
    messages = (*question.context, Message("assistant", (Part(text, "answer"),)))
    lineage = Origin(
        origin.source, origin.row, f"generate:{NAME}", teacher, (question.name,), origin.task, origin.cluster,
        config.licence or origin.licence,
    )  # fmt: skip
    return Instance.of(messages, lineage, choices=truth.choices if truth is not None else choices, tags=tags)


def _drop(
    context: Context, reason: str, question: _Question, number: int, made: Instance | None = None, detail: str = ""
) -> None:
    origin = Origin(question.origin.source, question.origin.row, f"generate:{NAME}", parents=(question.name,))
    context.drop(Drop(reason, (detail or question.messages[-1][1])[:200], origin, made))


def bill(config: DistillConfig, context: Context) -> Bill:
    """One call per question, sample and teacher; and one of the judge for each answer if he picks."""
    questions = list(islice(_questions(config, context), config.limit))
    each = config.samples * max(1, len(config.teachers))
    read = sum(tokens_of("\n".join(text for _, text in question.messages)) for question in questions) * each
    written = min(config.max_tokens, 150) * len(questions) * each
    total = Bill(len(questions) * each, read, written)
    if config.pick == "judged":
        total += Bill(len(questions) * each, read + written + 150 * len(questions) * each, 40 * len(questions) * each)
    return total

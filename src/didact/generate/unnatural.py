"""Tasks from three demonstrations, then the same tasks in other words.

Unnatural Instructions (Honovich et al. 2022, arXiv 2212.09689): three of a few seeds in a prompt lead to a fourth
example of instruction, input and constraints; the output is asked for greedily and apart; then each instruction is
reworded, which multiplied the original's 68,478 items to 240,670.

Limits: about half of the original's outputs were right; the original drew from 15 seeds, `seeds_used` of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.generate.context import (
    Asker,
    Context,
    Licence,
    MaxTokens,
    Seeds,
    Teacher,
    Temperature,
    TopP,
    instance,
    name_of,
)
from didact.generate.faults import fault
from didact.generate.instructions import split_list
from didact.generate.prompts import prompt
from didact.generate.seeds import SeedTask, load_seeds
from didact.instance import Drop, Instance, Origin
from didact.llm import Bill, Request
from didact.llm.budget import tokens_of

NAME = "unnatural"
NONE = ("none", "none.", "n/a", "no input", "")


class UnnaturalConfig(BaseModel):
    """Tasks from three demonstrations each, and the same in other words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["unnatural"] = Field("unnatural", description="tasks from three demonstrations, and rewordings")
    teacher: Teacher = ""
    seeds: Seeds = ""
    seeds_used: int = Field(15, ge=1, description="seed tasks that demonstrations are drawn from")
    target: int = Field(1000, ge=1, description="tasks to make, rewordings not counted")
    exemplars: int = Field(3, ge=1, description="demonstrations in a prompt")
    prompts_per_round: int = Field(64, ge=1, description="prompts drawn before any is answered")
    rounds_in_vain: int = Field(20, ge=1, description="rounds without any new task after which it ends")
    temperature: Temperature = 1.0
    top_p: TopP = 0.99
    max_tokens: MaxTokens = 512
    answer_tokens: MaxTokens = 512
    rewordings: int = Field(2, ge=0, description="other wordings asked for of each instruction")
    licence: Licence = ""


Task = tuple[str, str, str]  # instruction, input, constraints


def unnatural(config: UnnaturalConfig, context: Context) -> Iterator[Instance]:
    """Each task with its answer, followed by its rewordings."""
    llm = context.llm(config.teacher)
    tasks = _tasks(config, context, llm)
    answers = llm.ask(
        Request(
            (("user", prompt("unnatural_answer", instruction=i, given=g, constraints=c)),),
            max_tokens=config.answer_tokens,
        )
        for (i, g, c), _, _ in tasks
    )
    good: list[tuple[Task, tuple[str, ...], int, str, str]] = []
    for (task, parents, number), reply in zip(tasks, answers, strict=True):
        why = (
            "cut at the longest answer" if reply.finish == "length" else fault(reply.text, task[0]) if reply.ok else ""
        )
        if not reply.ok:
            context.rejected(NAME, reply, number)
        elif why:
            _drop(context, f"the output is {why}", task[0], number)
        else:
            good.append((task, parents, number, reply.text.strip(), reply.key))
    words = _rewordings(config, context, llm, [task for task, *_ in good])
    for (task, parents, number, answer, key), others in zip(good, words, strict=True):
        for i, (instruction, given) in enumerate([(task[0], task[1]), *others]):
            asked = f"{instruction} {task[2]}".strip()
            tags = {"call": key, "wording": str(i)} | ({"constraints": task[2]} if task[2] else {})
            own = parents if i == 0 else (name_of(task[0]),)
            yield instance(
                NAME, asked, given, answer, number=number, teacher=llm.name, parents=own, licence=config.licence,
                tags=tags,
            )  # fmt: skip


def _tasks(config: UnnaturalConfig, context: Context, llm: Asker) -> list[tuple[Task, tuple[str, ...], int]]:
    seeds = [seed for seed in load_seeds(config.seeds, context.home, context.built) if seed.examples]
    seeds, rng = seeds[: config.seeds_used], Random(f"{NAME} {context.seed}")
    made: list[tuple[Task, tuple[str, ...], int]] = []
    seen: set[tuple[str, str]] = set()
    asked = vain = 0
    while len(made) < config.target and vain < config.rounds_in_vain:
        shown = [rng.sample(seeds, min(config.exemplars, len(seeds))) for _ in range(config.prompts_per_round)]
        before = len(made)
        replies = llm.ask(_request(config, some, asked + i) for i, some in enumerate(shown))
        for number, (some, reply) in enumerate(zip(shown, replies, strict=True), asked + 1):
            if not reply.ok:
                context.rejected(NAME, reply, number)
                continue
            task = None if reply.finish == "length" else parse_task(reply.text)
            why = "cannot be read" if task is None else fault(task[0], "an instruction")
            if task is not None and not why and (task[0].lower(), task[1].lower()) in seen:
                why = "exact duplicate"
            if task is None or why:
                _drop(context, f"task: {why}", reply.text, number)
            elif len(made) < config.target:
                seen.add((task[0].lower(), task[1].lower()))
                made.append((task, tuple(seed.name for seed in some), number))
        asked += len(shown)
        vain = 0 if len(made) > before else vain + 1
        context.progress(len(made), config.target)
    return made


def _request(config: UnnaturalConfig, shown: Sequence[SeedTask], number: int) -> Request:
    rules = ["The output is one of a few labels." if seed.classification else "none" for seed in shown]
    return Request(
        prompt=prompt("unnatural", shown=shown, constraints=rules), sample=number, temperature=config.temperature,
        top_p=config.top_p, max_tokens=config.max_tokens, stop=(f"Example {len(shown) + 2}",),
    )  # fmt: skip


def parse_task(text: str) -> Task | None:
    """Instruction, input and constraints of a continued example; None if a part is missing."""
    text = re.sub(r"^\s*Instruction\s*:", "", re.split(r"\n\s*Example\s+\d+", text)[0])
    parts = re.split(r"\n\s*(Input|Constraints)\s*:", text)
    if parts[1::2] != ["Input", "Constraints"] or not parts[0].strip():
        return None
    instruction, given, rules = (part.strip() for part in parts[::2])
    given, rules = ("" if part.lower() in NONE else part for part in (given, rules))
    return " ".join(instruction.split()), given, rules


def _rewordings(
    config: UnnaturalConfig, context: Context, llm: Asker, tasks: Sequence[Task]
) -> list[list[tuple[str, str]]]:
    """For each task (instruction, input) pairs in other words; where the input stands inside, it is filled in."""
    if not config.rewordings:
        return [[] for _ in tasks]
    requests = (
        Request(
            (("user", prompt("unnatural_reword", instruction=i, given=g, wanted=config.rewordings)),),
            temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens,
        )
        for i, g, _ in tasks
    )  # fmt: skip
    found: list[list[tuple[str, str]]] = []
    for number, ((instruction, given, _), reply) in enumerate(zip(tasks, llm.ask(requests), strict=True), 1):
        if not reply.ok:
            context.rejected(NAME, reply, number)
        items = split_list(reply.text) if reply.ok else []
        items = items[:-1] if reply.finish == "length" else items
        faults = [fault(text, instruction) or ("{INPUT}" in text and not given and "has no input") for text in items]
        for text, why in zip(items, faults, strict=True):
            if why:
                _drop(context, f"rewording: {why}", text, number)
        fits = [text for text, why in zip(items, faults, strict=True) if not why]
        pairs = [(text.replace("{INPUT}", given), "") if "{INPUT}" in text else (text, given) for text in fits]
        found.append(list(dict.fromkeys(pair for pair in pairs if pair[0] != instruction))[: config.rewordings])
    return found


def _drop(context: Context, reason: str, detail: str, number: int) -> None:
    context.drop(Drop(reason, detail[:200], Origin(f"generate:{NAME}", number, via=f"generate:{NAME}")))


def bill(config: UnnaturalConfig, context: Context) -> Bill:
    """Of the tasks nine in ten are kept; then an answer and the rewordings of each."""
    seeds = [seed for seed in load_seeds(config.seeds, context.home, context.built) if seed.examples]
    n, calls = config.target, -(-config.target * 10 // 9)
    read = tokens_of(prompt("unnatural", shown=seeds[: config.exemplars], constraints=["none"] * config.exemplars))
    total = Bill(calls, calls * read, calls * 80) + Bill(n, n * 80, n * 100)
    return total + (Bill(n, n * 100, n * 30 * config.rewordings) if config.rewordings else Bill(0, 0, 0))

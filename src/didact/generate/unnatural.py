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

from didact.generate.context import SPARE, Asker, Context, instance, name_of
from didact.generate.faults import fault
from didact.generate.instructions import split_list
from didact.generate.prompts import prompt
from didact.generate.rounds import in_rounds
from didact.generate.seeds import SeedTask, load_seeds, with_examples
from didact.generate.settings import (
    Exemplars,
    Licence,
    MaxTokens,
    PromptsPerRound,
    RoundsInVain,
    Seeds,
    Teacher,
    Temperature,
    TopP,
)
from didact.instance import Instance
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
    exemplars: Exemplars = 3
    prompts_per_round: PromptsPerRound = 64
    rounds_in_vain: RoundsInVain = 20
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
            context.left_out(NAME, f"the output is {why}", task[0], number)
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
    seeds = with_examples(load_seeds(config.seeds, context.home, context.built), config.seeds, context.home)
    seeds, rng = seeds[: config.seeds_used], Random(f"{NAME} {context.seed}")
    made: list[tuple[Task, tuple[str, ...], int]] = []
    seen: set[tuple[str, str]] = set()

    def drawn() -> list[SeedTask]:
        return rng.sample(seeds, min(config.exemplars, len(seeds)))

    def request(shown: list[SeedTask], number: int) -> Request:
        return _request(config, shown, number)

    for number, some, reply in in_rounds(config, context, llm, drawn, request, lambda: len(made)):
        task = parse_task(reply.text)
        why = "cut at the longest answer" if reply.finish == "length" else "cannot be read" if task is None else ""
        if task is not None and not why:
            again = (task[0].lower(), task[1].lower()) in seen
            why = fault(task[0], "an instruction") or ("exact duplicate" if again else "")
        if task is None or why:
            context.left_out(NAME, f"task: {why}", reply.text, number)
        elif len(made) >= config.target:
            context.left_out(NAME, f"{SPARE}more than target", task[0], number)
        else:
            seen.add((task[0].lower(), task[1].lower()))
            made.append((task, tuple(seed.name for seed in some), number))
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
        if reply.ok and not items:
            context.left_out(NAME, "rewording: the list is empty", reply.text, number)
        good: list[tuple[str, str]] = []
        for i, text in enumerate(items, 1):
            cut = reply.finish == "length" and i == len(items)
            pair = (text.replace("{INPUT}", given), "") if "{INPUT}" in text else (text, given)
            why = "cut at the longest answer" if cut else fault(text, instruction)
            why = why or ("has no input" if "{INPUT}" in text and not given else "")
            why = why or ("exact duplicate" if pair[0] == instruction or pair in good else "")
            if why:
                context.left_out(NAME, f"rewording: {why}", text, number)
            elif len(good) >= config.rewordings:
                context.left_out(NAME, f"{SPARE}more than rewordings", text, number)
            else:
                good.append(pair)
        found.append(good)
    return found


def bill(config: UnnaturalConfig, context: Context) -> Bill:
    """Of the tasks nine in ten are kept; then an answer and the rewordings of each."""
    seeds = with_examples(load_seeds(config.seeds, context.home, context.built), config.seeds, context.home)
    n, calls = config.target, -(-config.target * 10 // 9)
    read = tokens_of(prompt("unnatural", shown=seeds[: config.exemplars], constraints=["none"] * config.exemplars))
    total = Bill(calls, calls * read, calls * 80) + Bill(n, n * 80, n * 100)
    return total + (Bill(n, n * 100, n * 30 * config.rewordings) if config.rewordings else Bill(0, 0, 0))

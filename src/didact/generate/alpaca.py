"""Whole tasks by the batch: instruction, input and output in one call, from three seeds and a list of wishes.

The data set of Stanford Alpaca (Taori et al. 2023) by its released code: three seeds in a prompt and never generated
tasks, up to 20 triples a call, no classification branch, one instance per instruction, Self-Instruct's length and
ROUGE-L rules with a longer list of words. The original also forbade the end token (`bias: {50256: -100}` for the tokens
of its teacher); that is left to the settings, since the number means another token elsewhere.

Limits: outputs are not checked; later cleanings found many wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.novelty import NoveltyIndex
from didact.generate.context import SPARE, Context, instance
from didact.generate.faults import fault
from didact.generate.instructions import ALPACA_KEYWORDS, instruction_fault
from didact.generate.prompts import prompt
from didact.generate.rounds import in_rounds
from didact.generate.seeds import SeedTask, load_seeds, with_examples
from didact.generate.settings import (
    Exemplars,
    Keywords,
    Licence,
    MaxTokens,
    MaxWords,
    MinWords,
    Novelty,
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

NAME = "alpaca"


class AlpacaConfig(BaseModel):
    """Whole tasks by the batch; the numbers are those of the original."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["alpaca"] = Field("alpaca", description="whole tasks by the batch, from seed tasks")
    teacher: Teacher = ""
    seeds: Seeds = ""
    target: int = Field(1000, ge=1, description="tasks to make")
    exemplars: Exemplars = 3
    total: int = Field(20, ge=2, description="tasks that a prompt asks for, those shown included")
    prompts_per_round: PromptsPerRound = 5
    rounds_in_vain: RoundsInVain = 20
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    max_tokens: MaxTokens = 3072
    bias: dict[int, float] = Field({}, description="token id: what is added to its logit, e.g. to forbid an end token")
    min_words: MinWords = 3
    max_words: MaxWords = 150
    keywords: Keywords = ALPACA_KEYWORDS
    novelty: Novelty = 0.7
    licence: Licence = ""


def alpaca(config: AlpacaConfig, context: Context) -> Iterator[Instance]:
    """New tasks, one instance each, in the order in which they were kept."""
    seeds = with_examples(load_seeds(config.seeds, context.home, context.built), config.seeds, context.home)
    llm, rng, index = context.llm(config.teacher), Random(f"{NAME} {context.seed}"), NoveltyIndex(config.novelty)
    known = [seed.instruction for seed in seeds]
    for text in known:
        index.add(text)

    def drawn() -> list[SeedTask]:
        return rng.sample(seeds, min(config.exemplars, len(seeds)))

    def request(shown: list[SeedTask], number: int) -> Request:
        return _request(config, shown, number)

    def made() -> int:
        return len(known) - len(seeds)

    for number, some, reply in in_rounds(config, context, llm, drawn, request, made):
        tasks = parse_tasks(reply.text, len(some) + 1)
        if reply.finish == "length":
            context.left_out(NAME, "cut at the longest answer", repr(tasks.pop()), number)
        for task in tasks:
            why = _fault(config, task)
            score, near = (0.0, -1) if why or task is None else index.nearest(task[0])
            if task is None or why:
                context.left_out(NAME, why, repr(task), number)
            elif near >= 0:
                detail = f"{task[0][:200]} - near {known[near][:200]!r}, score {score:.3f}"
                context.left_out(NAME, "instruction: too like an earlier one", detail, number)
            elif made() >= config.target:
                context.left_out(NAME, f"{SPARE}more than target", repr(task), number)
            else:
                known.append(task[0])
                index.add(task[0])
                yield instance(
                    NAME, *task, number=number, teacher=llm.name, parents=[seed.name for seed in some],
                    licence=config.licence, tags={"call": reply.key},
                )  # fmt: skip


def _request(config: AlpacaConfig, shown: Sequence[SeedTask], number: int) -> Request:
    return Request(
        prompt=prompt("alpaca", shown=shown, total=config.total), sample=number, temperature=config.temperature,
        top_p=config.top_p, max_tokens=config.max_tokens, bias=tuple(sorted(config.bias.items())),
        stop=(f"\n{config.total}", f"{config.total}.", f"{config.total}."),
    )  # fmt: skip


def parse_tasks(text: str, first: int) -> list[tuple[str, str, str] | None]:
    """(instruction, input, output) of a continued list, at least one; None for one that cannot be read."""
    if not re.match(rf"\s*(?:###\s*)?{first}\s*\.\s*Instruction:", text):
        text = f"{first}. Instruction:{text}"
    found: list[tuple[str, str, str] | None] = []
    for block in filter(str.strip, re.split(r"###+", text)):
        parts = re.split(r"(?:^|\n)\s*\d+\s*\.\s*(Instruction|Input|Output)\s*:", "\n" + block.strip())
        if parts[1::2] != ["Instruction", "Input", "Output"]:
            found.append(None)
            continue
        given = parts[4].strip()
        given = "" if given.lower().strip("\"'. ") in ("<noinput>", "noinput", "no input", "none", "n/a") else given
        found.append((" ".join(parts[2].split()), given, parts[6].strip()))
    return found


def _fault(config: AlpacaConfig, task: tuple[str, str, str] | None) -> str:
    if task is None:
        return "cannot be read"
    why = instruction_fault(task[0], config.min_words, config.max_words, config.keywords)
    if why:
        return f"instruction: {why}"
    why = fault(task[2], task[0])
    return f"the output is {why}" if why else ""


def bill(config: AlpacaConfig, context: Context) -> Bill:
    """Calls of which two thirds of the tasks are kept."""
    seeds = with_examples(load_seeds(config.seeds, context.home, context.built), config.seeds, context.home)
    each = max(1, config.total - config.exemplars)
    calls = -(-config.target * 3 // (2 * each))
    read = tokens_of(prompt("alpaca", shown=seeds[: config.exemplars], total=config.total))
    return Bill(calls, calls * read, calls * min(config.max_tokens, 110 * each))

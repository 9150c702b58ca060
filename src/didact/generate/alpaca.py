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
from didact.generate.context import Context, Licence, MaxTokens, Seeds, Teacher, Temperature, TopP, instance
from didact.generate.faults import fault
from didact.generate.instructions import ALPACA_KEYWORDS, Keywords, MaxWords, MinWords, instruction_fault
from didact.generate.prompts import prompt
from didact.generate.seeds import SeedTask, load_seeds
from didact.instance import Drop, Instance, Origin
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
    exemplars: int = Field(3, ge=1, description="seed tasks shown in a prompt")
    total: int = Field(20, ge=2, description="tasks that a prompt asks for, those shown included")
    prompts_per_round: int = Field(5, ge=1, description="prompts drawn before any is answered")
    rounds_in_vain: int = Field(20, ge=1, description="rounds without any new task after which it ends")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    max_tokens: MaxTokens = 3072
    bias: dict[int, float] = Field({}, description="token id: what is added to its logit, e.g. to forbid an end token")
    min_words: MinWords = 3
    max_words: MaxWords = 150
    keywords: Keywords = ALPACA_KEYWORDS
    novelty: float = Field(0.7, ge=0, lt=1, description="ROUGE-L F with seeds and kept ones above which one is dropped")
    licence: Licence = ""


def alpaca(config: AlpacaConfig, context: Context) -> Iterator[Instance]:
    """New tasks, one instance each, in the order in which they were kept."""
    seeds = [seed for seed in load_seeds(config.seeds, context.home, context.built) if seed.examples]
    llm, rng, index = context.llm(config.teacher), Random(f"{NAME} {context.seed}"), NoveltyIndex(config.novelty)
    known = [seed.instruction for seed in seeds]
    for text in known:
        index.add(text)
    made = asked = vain = 0
    while made < config.target and vain < config.rounds_in_vain:
        shown = [rng.sample(seeds, min(config.exemplars, len(seeds))) for _ in range(config.prompts_per_round)]
        before = made
        replies = llm.ask(_request(config, some, asked + i) for i, some in enumerate(shown))
        for number, (some, reply) in enumerate(zip(shown, replies, strict=True), asked + 1):
            if not reply.ok:
                context.rejected(NAME, reply, number)
                continue
            for task in parse_tasks(reply.text, len(some) + 1, reply.finish == "length"):
                why = _fault(config, task)
                score, near = (0.0, -1) if why or task is None else index.nearest(task[0])
                if task is None or why or near >= 0:
                    detail = repr(task)[:300] + (
                        f" - near {known[near][:200]!r}, score {score:.3f}" if near >= 0 else ""
                    )
                    context.drop(Drop(why or "instruction: too like an earlier one", detail, _origin(number)))
                elif made < config.target:
                    made += 1
                    known.append(task[0])
                    index.add(task[0])
                    yield instance(
                        NAME, *task, number=number, teacher=llm.name, parents=[seed.name for seed in some],
                        licence=config.licence, tags={"call": reply.key},
                    )  # fmt: skip
        asked += len(shown)
        vain = 0 if made > before else vain + 1
        context.progress(made, config.target)


def _request(config: AlpacaConfig, shown: Sequence[SeedTask], number: int) -> Request:
    return Request(
        prompt=prompt("alpaca", shown=shown, total=config.total), sample=number, temperature=config.temperature,
        top_p=config.top_p, max_tokens=config.max_tokens, bias=tuple(sorted(config.bias.items())),
        stop=(f"\n{config.total}", f"{config.total}.", f"{config.total}."),
    )  # fmt: skip


def parse_tasks(text: str, first: int, cut: bool) -> list[tuple[str, str, str] | None]:
    """(instruction, input, output) of a continued list; None for one that cannot be read. A cut list loses its last."""
    if not re.match(rf"\s*(?:###\s*)?{first}\s*\.\s*Instruction:", text):
        text = f"{first}. Instruction:{text}"
    blocks = [block for block in re.split(r"###+", text) if block.strip()]
    found: list[tuple[str, str, str] | None] = []
    for block in blocks[:-1] if cut else blocks:
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


def _origin(number: int) -> Origin:
    return Origin(f"generate:{NAME}", number, via=f"generate:{NAME}")


def bill(config: AlpacaConfig, context: Context) -> Bill:
    """Calls of which two thirds of the tasks are kept."""
    seeds = [seed for seed in load_seeds(config.seeds, context.home, context.built) if seed.examples]
    each = max(1, config.total - config.exemplars)
    calls = -(-config.target * 3 // (2 * each))
    read = tokens_of(prompt("alpaca", shown=seeds[: config.exemplars], total=config.total))
    return Bill(calls, calls * read, calls * min(config.max_tokens, 110 * each))

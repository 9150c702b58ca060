"""Instructions made harder or rarer round by round, answered, and weeded out where evolving failed.

Evol-Instruct (Xu et al. 2023, WizardLM, arXiv 2304.12244): per round and instruction one operator is picked evenly, in
depth (constraints, deepening, concretising, reasoning, complicating the input) or in breadth; the answer is asked for
with the evolved instruction alone; what gains nothing, is not answered, or shows the prompt's own words is eliminated
and its parent goes back to the pool. The paper has six operators and the eliminator, the released code five and none:
`operators` and `eliminate` choose. A judge's difficulty of 1 to 10 per round shows whether it grows.

Limits: more rounds are not always better (best at 3 for code); a judge's difficulty is an opinion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from random import Random
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from didact.generate.context import Asker, Context, instance, name_of
from didact.generate.faults import fault
from didact.generate.marks import mark_all
from didact.generate.prompts import prompt
from didact.generate.seeds import load_seeds
from didact.generate.settings import Licence, MaxTokens, Seeds, Teacher, Temperature, TopP
from didact.instance import Instance
from didact.llm import Bill, Reply, Request
from didact.llm.budget import tokens_of

NAME = "evol_instruct"
Operator = Literal["constraints", "deepen", "concretise", "reasoning", "complicate_input", "breadth"]
OPERATORS: list[Operator] = ["constraints", "deepen", "concretise", "reasoning", "complicate_input", "breadth"]
LEAKS = ["given prompt", "rewritten prompt", "created prompt", "new prompt"]


class EvolInstructConfig(BaseModel):
    """Instructions made harder or rarer, round by round; the numbers are those of the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["evol_instruct"] = Field("evol_instruct", description="seed tasks made harder or rarer by rounds")
    teacher: Teacher = ""
    seeds: Seeds = ""
    limit: int | None = Field(None, ge=1, description="use at most so many seed tasks")
    rounds: int = Field(4, ge=1, description="rounds of evolving")
    operators: list[Operator] = Field(OPERATORS, min_length=1, description="one of them is picked for each instruction")
    added_words: tuple[int, int] = Field((10, 20), description="words that a rewriting may add")
    temperature: Temperature = 1.0
    top_p: TopP = 0.95
    max_tokens: MaxTokens = 2048
    eliminate: bool = Field(True, description="weed out what gains nothing, is not answered or leaks the prompt")
    judge: Teacher = ""
    sorry_words: int = Field(80, ge=0, description='an answer with "sorry" and fewer words counts as none')
    leaks: list[str] = Field(LEAKS, description="words of our prompts that must not be in an evolved instruction")
    difficulty: bool = Field(True, description="let the judge mark the difficulty of each kept instruction, 1 to 10")
    with_seeds: bool = Field(False, description="give the seed tasks too, with answers of the teacher")
    licence: Licence = ""


@dataclass(frozen=True)
class _Prompt:
    text: str
    round: int = 0
    operator: str = ""
    parents: tuple[str, ...] = ()


def evol_instruct(config: EvolInstructConfig, context: Context) -> Iterator[Instance]:
    """The kept instructions of all rounds with their answers, round by round."""
    llm, judge = context.llm(config.teacher), context.llm(config.judge or config.teacher)
    rng, number = Random(f"{NAME} {context.seed}"), 0
    seeds = islice(load_seeds(config.seeds, context.home, context.built), config.limit)
    pool = [_Prompt(_whole(seed.instruction, seed.examples)) for seed in seeds]
    if config.with_seeds:
        answered = _answers(config, context, llm, pool)
        yield from _made(config, context, judge, list(_good(config, context, answered)), llm.name, 0)
    for round_ in range(1, config.rounds + 1):
        context.progress(round_ - 1, config.rounds)
        evolved = _evolve(config, context, llm, rng, pool, round_)
        answered = _answers(config, context, llm, [new for new in evolved if new is not None])
        kept = _kept(
            config, context, judge, dict(zip([new.text for new, _ in answered], answered, strict=True)), pool, evolved
        )
        for i, pair in enumerate(kept):
            pool[i] = pair[0] if pair is not None else pool[i]  # a failure goes back unevolved
        yield from _made(config, context, judge, [pair for pair in kept if pair is not None], llm.name, number)
        number += len(pool)
    context.progress(config.rounds, config.rounds)


def _whole(instruction: str, examples: Sequence[tuple[str, str]]) -> str:
    given = examples[0][0] if examples else ""
    return f"{instruction}\n{given}" if given else instruction


def _evolve(
    config: EvolInstructConfig, context: Context, llm: Asker, rng: Random, pool: Sequence[_Prompt], round_: int
) -> list[_Prompt | None]:
    picks = [rng.choice(config.operators) for _ in pool]
    least, most = config.added_words
    requests = (
        Request(
            (("user", prompt(
                "evol", instruction=old.text, operator=operator, ways=_ways(), least=least, most=most
            )),),
            sample=round_, temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens,
        )
        for old, operator in zip(pool, picks, strict=True)
    )  # fmt: skip
    found: list[_Prompt | None] = []
    for i, (old, operator, reply) in enumerate(zip(pool, picks, llm.ask(requests), strict=True)):
        text = re.sub(r"^\W*(?:rewritten|created|new) prompt\W*:\s*", "", reply.text.strip(), flags=re.IGNORECASE)
        if not reply.ok:
            context.rejected(NAME, reply, i)
        why = "" if reply.ok else "no answer"
        why = why or ("cut" if reply.finish == "length" else fault(text, old.text))
        leak = next((leak for leak in config.leaks if leak in text.lower()), "") if config.eliminate else ""
        if why or leak:
            if reply.ok:
                context.left_out(NAME, f"evolving: {why or 'shows words of the prompt'}", text, round_)
            found.append(None)
        else:
            found.append(_Prompt(text, round_, operator, (name_of(old.text),)))
    return found


def _answers(
    config: EvolInstructConfig, context: Context, llm: Asker, prompts: Sequence[_Prompt]
) -> list[tuple[_Prompt, Reply]]:
    asked = (Request((("user", new.text),), max_tokens=config.max_tokens) for new in prompts)
    return list(zip(prompts, llm.ask(asked), strict=True))


def _good(
    config: EvolInstructConfig, context: Context, answered: Sequence[tuple[_Prompt, Reply]]
) -> Iterator[tuple[_Prompt, Reply]]:
    """Those whose answer can be kept; the others are counted."""
    for new, reply in answered:
        if why := _answer_fault(config, new, reply):
            context.left_out(NAME, f"answer: {why}", new.text, new.round)
        else:
            yield new, reply


def _kept(
    config: EvolInstructConfig,
    context: Context,
    judge: Asker,
    answers: dict[str, tuple[_Prompt, Reply]],
    pool: Sequence[_Prompt],
    evolved: Sequence[_Prompt | None],
) -> list[tuple[_Prompt, Reply] | None]:
    """What survives, in the places of their parents."""
    found = [answers.get(new.text) if new is not None else None for new in evolved]
    found = [
        (new, pair[1]) if new is not None and pair is not None else None
        for new, pair in zip(evolved, found, strict=True)
    ]
    for i, pair in enumerate(found):
        if pair is not None and (why := _answer_fault(config, *pair)):
            context.left_out(NAME, f"answer: {why}", pair[0].text, pair[0].round)
            found[i] = None
    if not config.eliminate:
        return found
    alive = [i for i, pair in enumerate(found) if pair is not None]
    requests = (
        Request((("user", prompt("evol_equal", first=pool[i].text, second=evolved[i].text)),), max_tokens=5)  # type: ignore[union-attr]
        for i in alive
    )
    for i, reply in zip(alive, judge.ask(requests), strict=True):
        if reply.ok and reply.text.strip().lower().startswith("equal"):
            new = evolved[i]
            context.left_out(NAME, "evolving: gains nothing", new.text if new else "", new.round if new else 0)
            found[i] = None
    return found


def _answer_fault(config: EvolInstructConfig, new: _Prompt, reply: Reply) -> str:
    if not reply.ok:
        return reply.why
    if reply.finish == "length":
        return "cut at the longest answer"
    words = re.findall(r"\w+", reply.text.lower())
    if config.eliminate and "sorry" in words and len(words) < config.sorry_words:
        return "the teacher is sorry"
    if config.eliminate and not set(words) - _stop_words():
        return "only stop words"
    return fault(reply.text, new.text)


def _made(
    config: EvolInstructConfig,
    context: Context,
    judge: Asker,
    kept: Sequence[tuple[_Prompt, Reply]],
    teacher: str,
    start: int,
) -> Iterator[Instance]:
    kept = [pair for pair in kept if pair[1].ok]
    marks: list[float | None] = [None] * len(kept)
    if config.difficulty:
        marks = mark_all(judge, "mark_difficulty", [{"instruction": new.text} for new, _ in kept])
    for number, ((new, reply), mark) in enumerate(zip(kept, marks, strict=True), start + 1):
        tags = {"call": reply.key, "round": str(new.round)}
        tags |= {"operator": new.operator} if new.operator else {}
        tags |= {"difficulty": f"{mark:g}"} if mark is not None else {}
        yield instance(
            NAME, new.text, "", reply.text.strip(), number=number, teacher=teacher, parents=new.parents,
            licence=config.licence, tags=tags,
        )  # fmt: skip


@cache
def _ways() -> Any:
    return yaml.safe_load((files(__package__) / "evol_operators.yaml").read_text("utf-8"))


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(yaml.safe_load((files(__package__) / "words.yaml").read_text("utf-8"))["english"].split())


def bill(config: EvolInstructConfig, context: Context) -> Bill:
    """Per seed and round: a rewriting, an answer, and what is judged."""
    seeds = list(islice(load_seeds(config.seeds, context.home, context.built), config.limit))
    n, least, most = len(seeds) * config.rounds, *config.added_words
    read = tokens_of(prompt("evol", instruction="x" * 300, operator="deepen", ways=_ways(), least=least, most=most))
    total = Bill(2 * n, n * (read + 100), n * (100 + 300))
    judged = n * (config.eliminate + config.difficulty)
    return total + Bill(judged, judged * 180, judged * 10)

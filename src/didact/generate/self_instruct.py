"""Grow tasks from seeds: new instructions, whether they are classification, their instances, and filters.

Self-Instruct (Wang et al. 2022, arXiv 2212.10560), by its released code: 8 exemplars (2 generated, 6 seeds), ROUGE-L
above 0.7 rejected (at 0.7 accepted) against seeds and all kept, output-first for classification and input-first
otherwise (the paper's text and later retellings differ). What differs: `case` keeps capitals inside an instruction
unless asked not to; the nearest is kept as metadata, not the ten nearest, which would need every pair; and texts that
`faults` finds go too.

Limits: about half of the original's instances were faulty in some part; outputs are not checked for truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from didact.curate.novelty import NoveltyIndex
from didact.errors import UsageError
from didact.generate.context import SPARE, Asker, Context, instance, name_of, number_off
from didact.generate.instances import checked, parse_examples, parse_labelled
from didact.generate.instructions import KEYWORDS, cleaned, instruction_fault, split_list
from didact.generate.prompts import prompt
from didact.generate.rounds import in_rounds
from didact.generate.seeds import SeedTask, load_seeds
from didact.generate.settings import (
    Case,
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
from didact.llm import Bill, Reply, Request
from didact.llm.budget import tokens_of

NAME = "self_instruct"


class SelfInstructConfig(BaseModel):
    """Tasks grown from seed tasks; the numbers are those of the original."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["self_instruct"] = Field("self_instruct", description="tasks grown from seed tasks")
    teacher: Teacher = ""
    seeds: Seeds = ""
    target: int = Field(1000, ge=1, description="instructions to make")
    exemplars: Exemplars = 8
    generated_exemplars: int = Field(2, ge=0, description="how many of them are generated ones, once there are any")
    only_classification: bool = Field(False, description="show classification seeds only, and ask for such tasks")
    prompts_per_round: PromptsPerRound = 5
    rounds_in_vain: RoundsInVain = 20
    temperature: Temperature = 0.7
    top_p: TopP = 0.5
    presence_penalty: float = Field(2.0, description="presence penalty of new instructions")
    max_tokens: MaxTokens = 1024
    stop: list[str] = Field(["\n\n", "\n16", "16."], description="texts that end the list of new instructions")
    case: Case = "first"
    min_words: MinWords = 3
    max_words: MaxWords = 150
    keywords: Keywords = KEYWORDS
    novelty: Novelty = 0.7
    most_similar: int = Field(
        10, ge=0, description="most similar seeds and earlier instructions told of each new one; 0 for none"
    )
    demonstrations: tuple[int, int] = Field((12, 19), description="classification and other seeds shown to tell apart")
    shown_examples: int = Field(4, ge=0, description="seed tasks shown with their examples when instances are made")
    instance_tokens: MaxTokens = 350
    instance_presence_penalty: float = Field(1.5, description="presence penalty of instances")
    max_instances: int = Field(5, ge=1, description="most instances of one instruction")
    with_seeds: bool = Field(False, description="give the seeds too, as the original's training data do")
    layouts: Literal["plain", "random"] = Field(
        "plain", description="random: each instance in one of the original's 13 kinds of layout"
    )
    licence: Licence = ""


@dataclass
class _Task:
    """A new instruction. parents: names of the exemplars of its prompt; similar: tags of its most similar ones."""

    instruction: str
    parents: tuple[str, ...]
    number: int
    similar: dict[str, str]
    classification: bool = False


def self_instruct(config: SelfInstructConfig, context: Context) -> Iterator[Instance]:
    """New instances in the order of their instructions, the seeds' own first if they are wanted."""
    seeds = load_seeds(config.seeds, context.home, context.built)
    llm = context.llm(config.teacher)
    rng = Random(f"layouts {context.seed}")
    if config.with_seeds:
        for number, seed in enumerate(seeds, 1):
            for given, answer in seed.examples:
                yield _made(config, seed.instruction, given, answer, number, "", (), rng, {"seed": "yes"})
    tasks = _instructions(config, context, llm, seeds)
    _tell_apart(config, context, llm, tasks, seeds)
    yield from _instances(config, context, llm, tasks, seeds, rng)


# ---- 1: instructions


def _instructions(config: SelfInstructConfig, context: Context, llm: Asker, seeds: Sequence[SeedTask]) -> list[_Task]:
    pool = [seed for seed in seeds if seed.classification or not config.only_classification]
    if not pool:
        raise UsageError("no seed task is a classification task", "mark some: is_classification", field="seeds")
    rng, index = Random(f"{NAME} {context.seed}"), NoveltyIndex(config.novelty)
    known = [seed.instruction for seed in seeds]
    for text in known:
        index.add(text)
    made: list[_Task] = []

    def drawn() -> list[str]:
        return _exemplars(config, rng, pool, made)

    def request(shown: list[str], number: int) -> Request:
        return _list_request(config, _list_prompt(config, shown), number)

    for number, some, reply in in_rounds(config, context, llm, drawn, request, lambda: len(made)):
        for text in _listed(config, context, reply, number):
            why = instruction_fault(text, config.min_words, config.max_words, config.keywords)
            score, near = (0.0, -1) if why else index.nearest(text)
            if why:
                context.left_out(NAME, f"instruction: {why}", text, number)
            elif near >= 0:
                detail = f"{text[:200]} - near {known[near][:200]!r}, score {score:.3f}"
                context.left_out(NAME, "instruction: too like an earlier one", detail, number)
            elif len(made) >= config.target:
                context.left_out(NAME, f"{SPARE}more than target", text, number)
            else:
                similar = _similar(config, index, text, known)
                index.add(text)
                known.append(text)
                made.append(_Task(text, tuple(map(name_of, some)), number, similar))
    return made


def _listed(config: SelfInstructConfig, context: Context, reply: Reply, number: int) -> list[str]:
    """The instructions of a list; one that hit the longest answer is dropped whole, as in the original."""
    items = [] if reply.finish == "length" else split_list(reply.text, config.exemplars + 1)
    if not items:
        why = "cut" if reply.finish == "length" else "empty"
        context.left_out(NAME, f"the list of instructions is {why}", reply.key, number)
    return [cleaned(item, config.case) for item in items]


def _similar(config: SelfInstructConfig, index: NoveltyIndex, text: str, known: Sequence[str]) -> dict[str, str]:
    """The most similar instructions by ROUGE-L F, and the mean over all, as tags."""
    if not config.most_similar:
        return {}
    most, mean = index.most_alike(text, config.most_similar)
    told = ", ".join(f"{name_of(known[near])} {score:.3f}" for score, near in most)
    return {"most_similar": told, "mean_similarity": f"{mean:.4f}"}


def _exemplars(config: SelfInstructConfig, rng: Random, pool: Sequence[SeedTask], made: Sequence[_Task]) -> list[str]:
    own = rng.sample(made, min(config.generated_exemplars, config.exemplars, len(made)))
    human = rng.sample(pool, min(config.exemplars - len(own), len(pool)))
    shown = [task.instruction for task in own] + [seed.instruction for seed in human]
    rng.shuffle(shown)
    return shown


def _list_prompt(config: SelfInstructConfig, shown: Sequence[str]) -> str:
    texts = [" ".join(text.split()).rstrip(":") for text in shown]
    return prompt("instructions", shown=list(number_off(texts)), classification=config.only_classification)


def _list_request(config: SelfInstructConfig, text: str, number: int) -> Request:
    return Request(
        prompt=text, sample=number, temperature=config.temperature, top_p=config.top_p, stop=tuple(config.stop),
        presence_penalty=config.presence_penalty, max_tokens=config.max_tokens,
    )  # fmt: skip


# ---- 2: classification or not


def _tell_apart(
    config: SelfInstructConfig, context: Context, llm: Asker, tasks: Sequence[_Task], seeds: Sequence[SeedTask]
) -> None:
    yes, no = config.demonstrations
    shown = [seed for seed in seeds if seed.classification][:yes] + [s for s in seeds if not s.classification][:no]
    Random("demonstrations").shuffle(shown)
    requests = (
        Request(prompt=prompt("classify", shown=shown, instruction=task.instruction), max_tokens=3, stop=("\n", "Task"))
        for task in tasks
    )
    for task, reply in zip(tasks, llm.ask(requests), strict=True):
        task.classification = reply.ok and reply.text.strip().strip(".").lower() == "yes"


# ---- 3: instances


def _instances(
    config: SelfInstructConfig,
    context: Context,
    llm: Asker,
    tasks: Sequence[_Task],
    seeds: Sequence[SeedTask],
    rng: Random,
) -> Iterator[Instance]:
    shown = {
        kind: [s for s in seeds if s.classification == kind and s.examples][: config.shown_examples]
        for kind in (True, False)
    }

    def request(task: _Task) -> Request:
        name = "output_first" if task.classification else "input_first"
        text = prompt(name, shown=shown[task.classification], instruction=task.instruction)
        return Request(
            prompt=text, max_tokens=config.instance_tokens, presence_penalty=config.instance_presence_penalty,
            stop=(f"Example {config.max_instances + 1}", "Task:"),
        )  # fmt: skip

    for done, (task, reply) in enumerate(zip(tasks, llm.ask(map(request, tasks)), strict=True), 1):
        context.progress(done, len(tasks))
        if not reply.ok:
            context.rejected(NAME, reply, task.number)
            continue
        found = parse_labelled(reply.text) if task.classification else parse_examples(reply.text)
        kept, dropped = checked(found, reply.finish == "length", task.instruction)
        for reason, detail in dropped:
            context.left_out(NAME, f"instance: {reason}", f"{task.instruction[:120]} - {detail}", task.number)
        if len(kept) > config.max_instances:
            every, kept = kept, Random(task.instruction).sample(kept, config.max_instances)
            for pair in every:
                if pair not in kept:
                    context.left_out(NAME, f"{SPARE}more than max_instances", repr(pair), task.number)
        tags = {"call": reply.key, "classification": "yes" if task.classification else "no"}
        tags |= task.similar
        for given, answer in kept:
            yield _made(config, task.instruction, given, answer, task.number, llm.name, task.parents, rng, tags)


# ---- training form


def _made(
    config: SelfInstructConfig,
    instruction: str,
    given: str,
    answer: str,
    number: int,
    teacher: str,
    parents: Sequence[str],
    rng: Random,
    tags: dict[str, str],
) -> Instance:
    layout = "{instruction}\n{input}" if given else "{instruction}"
    if config.layouts == "random":
        layout = rng.choice(_layouts()["with_input" if given else "without_input"])
        if rng.random() < 0.5:  # as the original: a lone "field:" goes, and blank lines
            given = re.sub(r"^[A-Za-z ]{1,20}:\s*(?=\S)", "", given) if given.count(":") == 1 else given
            given = given.replace("\n\n", "\n")
    return instance(
        NAME, instruction, given, answer, number=number, teacher=teacher, parents=parents, licence=config.licence,
        layout=layout, tags=tags,
    )  # fmt: skip


@cache
def _layouts() -> Any:
    return yaml.safe_load((files(__package__) / "layouts.yaml").read_text("utf-8"))


def bill(config: SelfInstructConfig, context: Context) -> Bill:
    """Lists of 7 new instructions of which half are kept, then two calls for each instruction."""
    seeds = load_seeds(config.seeds, context.home, context.built)
    lists = -(-config.target * 2 // 7)
    listed = tokens_of(_list_prompt(config, [seed.instruction for seed in seeds[: config.exemplars]]))
    asked = tokens_of(prompt("classify", shown=seeds[: sum(config.demonstrations)], instruction="x" * 80))
    filled = tokens_of(prompt("input_first", shown=seeds[: config.shown_examples], instruction="x" * 80))
    n = config.target
    return Bill(lists, lists * listed, lists * 150) + Bill(2 * n, n * (asked + filled), n * (2 + 120))

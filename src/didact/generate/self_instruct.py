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
from collections import Counter
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
    number_off,
)
from didact.generate.faults import fault
from didact.generate.instructions import (
    KEYWORDS,
    Case,
    Keywords,
    MaxWords,
    MinWords,
    cleaned,
    instruction_fault,
    split_list,
)
from didact.generate.prompts import prompt
from didact.generate.seeds import SeedTask, load_seeds
from didact.instance import Drop, Instance, Origin
from didact.llm import Bill, Request
from didact.llm.budget import tokens_of

NAME = "self_instruct"


class SelfInstructConfig(BaseModel):
    """Tasks grown from seed tasks; the numbers are those of the original."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["self_instruct"] = Field("self_instruct", description="tasks grown from seed tasks")
    teacher: Teacher = ""
    seeds: Seeds = ""
    target: int = Field(1000, ge=1, description="instructions to make")
    exemplars: int = Field(8, ge=1, description="instructions shown in a prompt")
    generated_exemplars: int = Field(2, ge=0, description="how many of them are generated ones, once there are any")
    only_classification: bool = Field(False, description="show classification seeds only, and ask for such tasks")
    prompts_per_round: int = Field(
        5, ge=1, description="prompts drawn before any is answered; more use more slots, and change what is made"
    )
    rounds_in_vain: int = Field(20, ge=1, description="rounds without any new instruction after which it ends")
    temperature: Temperature = 0.7
    top_p: TopP = 0.5
    presence_penalty: float = Field(2.0, description="presence penalty of new instructions")
    max_tokens: MaxTokens = 1024
    stop: list[str] = Field(["\n\n", "\n16", "16."], description="texts that end the list of new instructions")
    case: Case = "first"
    min_words: MinWords = 3
    max_words: MaxWords = 150
    keywords: Keywords = KEYWORDS
    novelty: float = Field(0.7, ge=0, lt=1, description="ROUGE-L F with seeds and kept ones above which one is dropped")
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
    """A new instruction. parents: names of the exemplars of its prompt."""

    instruction: str
    parents: tuple[str, ...]
    number: int
    nearest: float
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
    asked = vain = 0
    while len(made) < config.target and vain < config.rounds_in_vain:
        shown = [_exemplars(config, rng, pool, made) for _ in range(config.prompts_per_round)]
        before = len(made)
        texts = [_list_prompt(config, some) for some in shown]
        replies = llm.ask(_list_request(config, text, asked + i) for i, text in enumerate(texts))
        for number, (some, reply) in enumerate(zip(shown, replies, strict=True), asked + 1):
            parents = tuple(name_of(text) for text in some)
            if not reply.ok:
                context.rejected(NAME, reply, number)
                continue
            if reply.finish == "length":
                _drop(context, "the list of instructions is cut", reply.key, number)
                continue
            for item in split_list(reply.text, config.exemplars + 1):
                text = cleaned(item, config.case)
                why = instruction_fault(text, config.min_words, config.max_words, config.keywords)
                score, near = (0.0, -1) if why else index.nearest(text)
                if why or near >= 0:
                    detail = text[:200] if why else f"{text[:200]} - near {known[near][:200]!r}, score {score:.3f}"
                    _drop(context, f"instruction: {why or 'too like an earlier one'}", detail, number)
                elif len(made) < config.target:
                    index.add(text)
                    known.append(text)
                    made.append(_Task(text, parents, number, score))
        asked += len(shown)
        vain = 0 if len(made) > before else vain + 1
        context.progress(len(made), config.target)
    return made


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
            _drop(context, f"instance: {reason}", f"{task.instruction[:120]} - {detail}", task.number)
        if len(kept) > config.max_instances:
            kept = Random(task.instruction).sample(kept, config.max_instances)
        tags = {"call": reply.key, "classification": "yes" if task.classification else "no"}
        tags |= {"nearest": f"{task.nearest:.3f}"} if task.nearest else {}
        for given, answer in kept:
            yield _made(config, task.instruction, given, answer, task.number, llm.name, task.parents, rng, tags)


def parse_examples(text: str) -> list[tuple[str, str] | None]:
    """(input, output) pairs of an input-first answer; None for an example that cannot be read."""
    text = re.split(r"\n\s*Task:", text)[0]
    parts = [part for part in re.split(r"(?m)^\s*Example\s*\d*\s*[.:]?[ \t]*$", text) if part.strip()]
    found: list[tuple[str, str] | None] = []
    for part in parts:
        halves = re.split(r"(?m)^\s*Output\s*\d*\s*:", part, maxsplit=1)
        if len(halves) == 1:
            found.append(("", part.strip()) if len(parts) == 1 and "Input:" not in part else None)
            continue
        given = re.sub(r"^\s*Input\s*\d*\s*:", "", halves[0]).strip()
        if re.fullmatch(r"(?:n/?a|none|no input|<no ?input>)\.?", given, re.IGNORECASE):
            given = ""
        found.append((given, halves[1].strip()))
    return found


def parse_labelled(text: str) -> list[tuple[str, str] | None]:
    """(input, label) pairs of an output-first answer; None for one without its input."""
    text = re.split(r"\n\s*Task:", text)[0]
    found: list[tuple[str, str] | None] = []
    for part in re.split(r"(?i)class label\s*\d*\s*:", text)[1:]:
        label, _, given = part.strip().partition("\n")
        found.append((given.strip(), label.strip()) if given.strip() else None)
    return found


# ---- 4: filters


def checked(
    found: Sequence[tuple[str, str] | None], cut: bool, instruction: str
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The instances that are kept, and (reason, detail) of the others, by the original's rules.

    One non-empty input with two different outputs drops the whole task.
    """
    kept: list[tuple[str, str]] = []
    dropped: list[tuple[str, str]] = []
    last = len(found) - 1
    for i, pair in enumerate(found):
        why = "cannot be read" if pair is None else "cut at the longest answer" if cut and i == last else ""
        if not why and pair is not None:
            why = _pair_fault(*pair, instruction) or ("exact duplicate" if pair in kept else "")
        if why or pair is None:
            dropped.append((why, repr(pair)[:200]))
        else:
            kept.append(pair)
    if not found:
        dropped.append(("cannot be read", ""))
    outputs = Counter(given for given, _ in set(kept) if given)
    if any(count > 1 for count in outputs.values()):
        dropped += [("one input has two outputs", repr(pair)[:200]) for pair in kept]
        kept = []
    return kept, dropped


def _pair_fault(given: str, answer: str, instruction: str) -> str:
    if not answer:
        return "the output is empty"
    if given == answer:
        return "the output is the input"
    if given.endswith(":") or answer.endswith(":"):
        return "ends in a colon"
    why = fault(answer, instruction)
    return f"the output is {why}" if why else (fault(given) if given else "")


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


def _drop(context: Context, reason: str, detail: str, number: int) -> None:
    context.drop(Drop(reason, detail, Origin(f"generate:{NAME}", number, via=f"generate:{NAME}")))


def bill(config: SelfInstructConfig, context: Context) -> Bill:
    """Lists of 7 new instructions of which half are kept, then two calls for each instruction."""
    seeds = load_seeds(config.seeds, context.home, context.built)
    lists = -(-config.target * 2 // 7)
    listed = tokens_of(_list_prompt(config, [seed.instruction for seed in seeds[: config.exemplars]]))
    asked = tokens_of(prompt("classify", shown=seeds[: sum(config.demonstrations)], instruction="x" * 80))
    filled = tokens_of(prompt("input_first", shown=seeds[: config.shown_examples], instruction="x" * 80))
    n = config.target
    return Bill(lists, lists * listed, lists * 150) + Bill(2 * n, n * (asked + filled), n * (2 + 120))

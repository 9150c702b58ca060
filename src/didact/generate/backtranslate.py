"""Instructions for texts that exist: a model asks for them backwards, rates the pairs, and keeps the good ones.

Humpback, instruction back-translation (Li et al. 2023, arXiv 2308.06259). Self-augment: a backward model p(instruction
| text) writes one instruction per text. Self-curate: a forward model rates each pair 1 to 5 by a rubric, pairs from
`keep` on stay. Rounds: the next rater is tuned on the seeds and what was kept. With `models: tuned` both models are the
run's base tuned on the seeds, backwards and forwards, as in the paper; with `teacher` a language model does both by
prompts. Kept pairs carry the system text of the web, seeds that of seeds; at inference both are given.

Limits: texts are cut by length only; junk that looks like prose is left to the rating, whose first round finds little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact import files
from didact.errors import UsageError
from didact.generate.context import Asker, Context, dialogue, name_of
from didact.generate.faults import fault
from didact.generate.marks import mark_all
from didact.generate.prompts import prompt
from didact.generate.seeds import SeedTask, load_seeds, with_examples
from didact.generate.settings import Licence, MaxTokens, Seeds, Teacher, Temperature, TopP
from didact.instance import Instance, Message, Part
from didact.llm import Bill, Request
from didact.llm.budget import tokens_of

NAME = "backtranslate"


class BacktranslateConfig(BaseModel):
    """Instructions written for texts that exist; the numbers are those of the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["backtranslate"] = Field("backtranslate", description="instructions written for existing texts")
    texts: str = Field(description="file of texts: bare lines, or rows with a column text")
    teacher: Teacher = ""
    seeds: Seeds = ""
    models: Literal["teacher", "tuned"] = Field("teacher", description="tuned: the run's base tuned on the seeds")
    limit: int | None = Field(None, ge=1, description="use at most so many texts")
    shortest: int = Field(600, ge=1, description="characters below which a text is left out")
    longest: int = Field(3000, ge=1, description="characters above which a text is left out")
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    max_tokens: MaxTokens = 256
    rounds: int = Field(2, ge=1, description="rounds of rating; each rater is tuned on what the one before kept")
    keep: float = Field(5, ge=1, le=5, description="lowest mark that is kept, of 5")
    seed_system: str = Field(
        "Answer in the style of an AI assistant.", description="system text of seed pairs; may be empty"
    )
    text_system: str = Field(
        "Answer with knowledge from web search.", description="system text of kept pairs; may be empty"
    )
    with_seeds: bool = Field(True, description="give the seed pairs too")
    licence: Licence = ""


def backtranslate(config: BacktranslateConfig, context: Context) -> Iterator[Instance]:
    """The seed pairs, if they are wanted, then the pairs that the last round's rater kept."""
    seeds = load_seeds(config.seeds, context.home, context.built)
    if config.models == "tuned":
        with_examples(seeds, config.seeds, context.home)
    texts = list(_texts(config, context))
    if not texts:
        raise UsageError("no text is of the wanted length", "lower shortest or raise longest", file=config.texts)
    own = [_pair(config, seed, given, answer, i) for i, seed in enumerate(seeds, 1) for given, answer in seed.examples]
    if config.models == "tuned":
        backward = context.tuned_on([_backwards(made) for made in own], "generate.models")
    else:
        backward = context.llm(config.teacher)
    pairs = _augmented(config, context, backward, texts)
    kept: list[Instance] = []
    for round_ in range(1, config.rounds + 1):
        context.progress(round_ - 1, config.rounds)
        last = round_ == config.rounds or config.models == "teacher"  # one teacher would rate the same again
        if config.models == "tuned":
            rater = context.tuned_on([*own, *kept], "generate.models")
        else:
            rater = context.llm(config.teacher)
        kept = _curated(config, context, rater, pairs, backward.name, last)
        if last:
            break
    yield from own if config.with_seeds else []
    yield from kept


def _texts(config: BacktranslateConfig, context: Context) -> Iterator[tuple[int, str]]:
    """(line, text) of the texts that can be an answer."""
    path = context.home / config.texts
    if not path.exists():
        raise UsageError("there is no such file of texts", "check texts", file=path)

    def stop(reason: str, error: UsageError) -> None:
        raise UsageError(error.problem, "mend the file of texts", file=path, line=error.line, field=error.field)

    count, seen = 0, set[str]()
    for line, row in files.records(path, stop):
        text = row.get("text")
        if not isinstance(text, str):
            raise UsageError("the row has no text", "give a column text", file=path, line=line, field="text")
        text = text.strip()
        why = "too short" if len(text) < config.shortest else "too long" if len(text) > config.longest else ""
        why = why or fault(text) or ("exact duplicate" if text in seen else "repetitive" if _repetitive(text) else "")
        if why:
            context.left_out(NAME, f"text: {why}", text, line, str(path))
            continue
        seen.add(text)
        count += 1
        yield line, text
        if count == config.limit:
            return


def _repetitive(text: str) -> bool:
    """More than a third of its lines, or of its runs of ten words, are repetitions."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = text.split()
    runs = [tuple(words[i : i + 10]) for i in range(len(words) - 9)]
    return any(len(parts) > 3 and len(set(parts)) < 2 * len(parts) / 3 for parts in (lines, runs))


def _augmented(
    config: BacktranslateConfig, context: Context, backward: Asker, texts: Sequence[tuple[int, str]]
) -> list[tuple[int, str, str, str]]:
    """(line, instruction, text, key) of each text that got an instruction."""
    requests = (
        Request(
            (("user", prompt("backward", text=text)),), temperature=config.temperature, top_p=config.top_p,
            max_tokens=config.max_tokens,
        )
        for _, text in texts
    )  # fmt: skip
    found = []
    for (line, text), reply in zip(texts, backward.ask(requests), strict=True):
        instruction = re.sub(r"^\W*request\W*:\s*", "", reply.text.strip(), flags=re.IGNORECASE)
        why = "" if not reply.ok else "cut" if reply.finish == "length" else fault(instruction, text)
        if not reply.ok:
            context.rejected(NAME, reply, line)
        elif why:
            context.left_out(NAME, f"instruction: {why}", instruction, line, config.texts)
        else:
            found.append((line, instruction, text, reply.key))
    return found


def _curated(
    config: BacktranslateConfig,
    context: Context,
    rater: Asker,
    pairs: Sequence[tuple[int, str, str, str]],
    teacher: str,
    last: bool,
) -> list[Instance]:
    marks = mark_all(rater, "mark_pair", [{"instruction": i, "answer": text} for _, i, text, _ in pairs], 1, 5)
    kept = []
    for (line, instruction, text, key), mark in zip(pairs, marks, strict=True):
        if mark is None or mark < config.keep:
            if last:
                reason = "pair: not marked" if mark is None else "pair: marked too low"
                context.left_out(NAME, reason, f"{mark}: {instruction}", line, config.texts)
            continue
        turns = _turns(config.text_system, instruction, "", text)
        tags = {"call": key, "mark": f"{mark:g}"}
        kept.append(
            dialogue(
                NAME, turns, number=line, teacher=teacher, parents=(name_of(text),), licence=config.licence, tags=tags
            )
        )
    return kept


def _pair(config: BacktranslateConfig, seed: SeedTask, given: str, answer: str, number: int) -> Instance:
    turns = _turns(config.seed_system, seed.instruction, given, answer)
    return dialogue(NAME, turns, number=number, parents=(seed.name,), licence=config.licence, tags={"seed": "yes"})


def _turns(system: str, instruction: str, given: str, answer: str) -> tuple[Message, ...]:
    asked = (
        (Part(instruction + "\n", "instruction"), Part(given, "input"))
        if given
        else (Part(instruction, "instruction"),)
    )
    turns = (Message("user", asked), Message("assistant", (Part(answer, "answer"),)))
    return (Message("system", (Part(system, "instruction"),)), *turns) if system else turns


def _backwards(made: Instance) -> Instance:
    """The pair the other way round, in the words in which it will be asked."""
    question = next(message.text for message in made.messages if message.role == "user")
    asked = Message("user", (Part(prompt("backward", text=made.answer), "instruction"),))
    turns = (asked, Message("assistant", (Part(question, "answer"),)))
    return Instance.of(turns, made.origin)


def bill(config: BacktranslateConfig, context: Context) -> Bill:
    """An instruction per text, and a mark in each round."""
    found = [tokens_of(text) for _, text in _texts(config, context)]
    n, read, rounds = len(found), sum(found), config.rounds if config.models == "tuned" else 1
    return Bill(n, read + n * 40, n * 30) + Bill(n * rounds, (read + n * 260) * rounds, n * 40 * rounds)

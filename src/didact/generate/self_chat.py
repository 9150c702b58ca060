"""Dialogues of a model with itself: it plays the human and the assistant on a topic that a seed gives.

Baize (Xu et al. 2023, arXiv 2304.01196). `transcript` is its first version: one call writes the whole chat, which is
then parsed; `turns` its second: human turns are continued from the transcript and end at the assistant's tag, assistant
turns come from an ordinary chat. A chat that breaks its form is kept up to there, or dropped if nothing is left. With
`feedback` several replies are sampled for each assistant turn and the judge's best, marked 1 to 100, is kept: self-
distillation with feedback; with `distil` they come from the run's base tuned on the dialogues so far.

Limits: the original had neither deduplication nor a quality filter; a model asks itself what it can answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.generate.context import SPARE, Asker, Context, dialogue, name_of
from didact.generate.faults import fault
from didact.generate.marks import mark_all
from didact.generate.prompts import prompt
from didact.generate.seeds import load_seeds
from didact.generate.settings import Licence, MaxTokens, Seeds, Teacher, Temperature, TopP
from didact.instance import Instance, Message, Part
from didact.llm import Bill, Reply, Request
from didact.llm.budget import tokens_of

NAME = "self_chat"
HUMAN, AI = "[Human]", "[AI]"
Turns = list[tuple[str, str]]
Chat = tuple[Turns, str]  # its sound turns, and why there are no more; "" if it ended by itself
CUT, MALFORMED = "cut at the longest answer", "malformed"


class SelfChatConfig(BaseModel):
    """Dialogues of a model with itself about the topics of seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["self_chat"] = Field("self_chat", description="dialogues of a model with itself, from seed questions")
    teacher: Teacher = ""
    seeds: Seeds = ""
    limit: int | None = Field(None, ge=1, description="use at most so many seeds")
    way: Literal["transcript", "turns"] = Field(
        "transcript", description="transcript: one call writes the whole chat; turns: one call for each turn"
    )
    max_rounds: int = Field(5, ge=1, description="most questions of a dialogue; later ones are left out")
    min_rounds: int = Field(1, ge=1, description="a dialogue with fewer answered questions is dropped")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    max_tokens: MaxTokens = 2048
    turn_tokens: MaxTokens = 512
    feedback: int = Field(0, ge=0, description="replies sampled for each assistant turn, of which the best is kept")
    distil: bool = Field(
        False, description="feedback: sample from the run's base tuned on the dialogues, not the teacher"
    )
    judge: Teacher = ""
    licence: Licence = ""

    @model_validator(mode="after")
    def _distil_needs_feedback(self) -> SelfChatConfig:
        if self.distil and not self.feedback:
            raise ValueError("distil says where the replies of feedback come from: set feedback, 4 in the original")
        return self


def self_chat(config: SelfChatConfig, context: Context) -> Iterator[Instance]:
    """One dialogue per seed, in their order, less those that are dropped."""
    llm = context.llm(config.teacher)
    seeds = list(islice(load_seeds(config.seeds, context.home, context.built), config.limit))
    topics = [f"{s.instruction} {s.examples[0][0]}".strip() if s.examples else s.instruction for s in seeds]
    chats: Iterable[Chat | None] = (
        _transcripts(config, context, llm, topics)
        if config.way == "transcript"
        else _by_turns(config, context, llm, topics)
    )
    kept: list[tuple[int, Turns]] = []
    for number, chat in enumerate(chats, 1):
        if chat is None:  # counted where it was refused
            continue
        (written, why), topic = chat, topics[number - 1]
        turns, fault_ = _sound(written)
        why = fault_ or why
        if len(turns) < 2 * config.min_rounds:
            context.left_out(NAME, f"the chat is {why or 'too short'}", topic, number)
            continue
        if why:
            told = f"{len(turns) // 2} rounds are sound: {topic}"
            context.left_out(NAME, f"a part of the chat is {why}", told, number)
        for _, question in turns[2 * config.max_rounds :: 2]:
            context.left_out(NAME, f"{SPARE}more than max_rounds", question, number)
        kept.append((number, turns[: 2 * config.max_rounds]))
    if config.feedback:
        kept = _with_feedback(config, context, llm, kept)
    for number, turns in kept:
        yield _instance(config, turns, number, llm.name, topics[number - 1])


def _transcripts(config: SelfChatConfig, context: Context, llm: Asker, topics: Sequence[str]) -> Iterator[Chat | None]:
    def request(topic: str) -> Request:
        return Request(
            (("user", prompt("self_chat", topic=topic)),), temperature=config.temperature, top_p=config.top_p,
            max_tokens=config.max_tokens,
        )  # fmt: skip

    for number, reply in enumerate(llm.ask(map(request, topics)), 1):
        context.progress(number, len(topics))
        if not reply.ok:
            context.rejected(NAME, reply, number)
        yield parse_chat(reply.text, reply.finish == "length") if reply.ok else None


def parse_chat(text: str, cut: bool = False) -> Chat:
    """The turns of a written chat from its first question on: whole pairs up to the first malformed place.

    The greeting of the prompt is left out if it is repeated; of a cut chat the last pair is.
    """
    before, *pieces = re.split(r"\[\s*human\s*\]\W?", text, flags=re.IGNORECASE)
    found: Turns = []
    fault = MALFORMED if not pieces or re.search(r"(?i)\[\s*ai\s*\]", before) else ""
    if pieces and not pieces[-1].strip() and not cut:  # the human has nothing left to ask
        pieces.pop()
    for i, piece in enumerate(pieces):
        halves = re.split(r"\[\s*ai\s*\]\W?", piece, flags=re.IGNORECASE)
        question = halves[0].strip()
        if cut and i == len(pieces) - 1:
            return found, CUT
        if len(halves) != 2 or not question or not halves[1].strip():
            return found, MALFORMED
        if not (i == 0 and re.fullmatch(r"(?i)(?:hello|hi|hey)\W*", question)):
            found += [("user", question), ("assistant", halves[1].strip())]
    return found, fault


def _by_turns(config: SelfChatConfig, context: Context, llm: Asker, topics: Sequence[str]) -> list[Chat | None]:
    """All chats side by side: a question for each that goes on, then an answer; None for one refused at its start."""
    chats: list[Turns] = [[] for _ in topics]
    refused: set[int] = set()
    cut: set[int] = set()
    going = list(range(len(topics)))
    for round_ in range(config.max_rounds):
        context.progress(round_, config.max_rounds)
        asked = [_human_request(config, topics[i], chats[i]) for i in going]
        questions: list[tuple[int, str]] = []
        for i, reply in zip(going, llm.ask(asked), strict=True):
            text = re.split(r"\[\s*(?:ai|human)\s*\]", reply.text, flags=re.IGNORECASE)[0].strip() if reply.ok else ""
            if not reply.ok:
                context.rejected(NAME, reply, i + 1)
                refused.add(i)
            elif reply.finish == "length":
                cut.add(i)
            elif text:  # without a question the human has nothing left to ask
                questions.append((i, text))
        replies = llm.ask(_reply_request(config, (*chats[i], ("user", text)), 0) for i, text in questions)
        going = []
        for (i, text), reply in zip(questions, replies, strict=True):
            if not reply.ok:
                context.rejected(NAME, reply, i + 1)
                refused.add(i)
            elif reply.finish == "length":
                cut.add(i)
            else:
                chats[i] += [("user", text), ("assistant", reply.text.strip())]
                going.append(i)
    return [None if i in refused and not turns else (turns, CUT if i in cut else "") for i, turns in enumerate(chats)]


def _human_request(config: SelfChatConfig, topic: str, turns: Turns) -> Request:
    told = "\n".join(f"{HUMAN if role == 'user' else AI} {text}" for role, text in turns)
    text = f"{prompt('self_chat', topic=topic)}\n{told}".rstrip() + f"\n{HUMAN}"
    return Request(
        prompt=text, temperature=config.temperature, top_p=config.top_p, max_tokens=config.turn_tokens, stop=(AI,)
    )


def _reply_request(config: SelfChatConfig, turns: Sequence[tuple[str, str]], sample: int) -> Request:
    return Request(
        tuple(turns), sample=sample, temperature=config.temperature, top_p=config.top_p, max_tokens=config.turn_tokens
    )


def _sound(turns: Turns) -> Chat:
    """The pairs before the first one that is of no use."""
    asked: set[str] = set()
    for i in range(0, len(turns), 2):
        question, answer = turns[i][1], turns[i + 1][1]
        why = fault(question) or fault(answer, question) or ("a repetition" if question in asked else "")
        if why:
            return turns[:i], why
        asked.add(question)
    return turns, ""


def _with_feedback(
    config: SelfChatConfig, context: Context, llm: Asker, kept: list[tuple[int, Turns]]
) -> list[tuple[int, Turns]]:
    """Each reply is exchanged for the best of several by the judge's marks, where any is marked better than 0."""
    judge = context.llm(config.judge or config.teacher)
    if config.distil:
        made = [_instance(config, turns, number, llm.name, "") for number, turns in kept]
        llm = context.tuned_on(made, "generate.distil")
    places = [(k, i) for k, (_, turns) in enumerate(kept) for i in range(1, len(turns), 2)]
    requests = (
        _reply_request(config, kept[k][1][:i], sample) for k, i in places for sample in range(1, config.feedback + 1)
    )
    replies = llm.ask(requests)
    options: list[list[str]] = []
    for n, (k, i) in enumerate(places):
        sampled = replies[n * config.feedback : (n + 1) * config.feedback]
        options.append(_options(context, sampled, kept[k][1][i - 1][1], kept[k][0]))
    items = [
        {"turns": kept[k][1][:i], "answer": option}
        for (k, i), some in zip(places, options, strict=True)
        for option in some
    ]
    marks = iter(mark_all(judge, "mark_reply", items, 1, 100))
    best = [(number, list(turns)) for number, turns in kept]
    for (k, i), some in zip(places, options, strict=True):
        marked = [(mark, -n) for n, mark in ((n, next(marks)) for n in range(len(some))) if mark is not None]
        number, turns = best[k]
        if not marked:
            context.left_out(NAME, "no sampled reply was marked: the first one stays", turns[i - 1][1], number)
        pick = -max(marked)[1] if marked else len(some)
        every = [*some, turns[i][1]]
        turns[i] = ("assistant", every.pop(pick))
        for text in every:
            context.left_out(NAME, f"{SPARE}not picked", text, number)
    return best


def _options(context: Context, sampled: Sequence[Reply], asked: str, number: int) -> list[str]:
    """The replies of which one may be picked; the others are counted."""
    found = []
    for reply in sampled:
        why = CUT if reply.finish == "length" else fault(reply.text, asked)
        if not reply.ok:
            context.rejected(NAME, reply, number)
        elif why:
            context.left_out(NAME, f"the sampled reply is {why}", reply.text, number)
        else:
            found.append(reply.text.strip())
    return found


def _instance(config: SelfChatConfig, turns: Turns, number: int, teacher: str, topic: str) -> Instance:
    messages = tuple(
        Message("user", (Part(text, "instruction"),))
        if role == "user"
        else Message("assistant", (Part(text, "answer"),))
        for role, text in turns
    )
    return dialogue(
        NAME, messages, number=number, teacher=teacher, parents=(name_of(topic),), licence=config.licence,
        tags={"rounds": str(len(turns) // 2)},
    )  # fmt: skip


def bill(config: SelfChatConfig, context: Context) -> Bill:
    """A call per seed, or two per turn; with feedback as many replies and marks per turn."""
    n = len(list(islice(load_seeds(config.seeds, context.home, context.built), config.limit)))
    read, rounds = tokens_of(prompt("self_chat", topic="x" * 100)), config.max_rounds
    if config.way == "transcript":
        total = Bill(n, n * read, n * min(config.max_tokens, 120 * rounds))
    else:
        total = Bill(2 * n * rounds, n * rounds * (2 * read + 120 * rounds), n * rounds * 120)
    replies = n * rounds * config.feedback
    return total + Bill(2 * replies, replies * (2 * 60 * rounds + 200), replies * 150)

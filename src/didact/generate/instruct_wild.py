"""Requests as people put them: collect, clean, tag, expand by few-shot prompts, and answer apart.

InstructWild (Xue et al. 2023): 429 requests collected where people share them, five of which in a prompt lead to more
requests only; answers are asked for separately, and there is no input field. The tags are those of its list: kind, and
whether a request is immoral, political, biased, racist or illegal.

Limits: what the collection lacks, the data lack; the original helped generation and open questions, not summaries or
chat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.novelty import NoveltyIndex
from didact.generate.context import SPARE, Asker, Context, instance, name_of, number_off
from didact.generate.faults import fault
from didact.generate.instructions import cleaned, instruction_fault, split_list
from didact.generate.prompts import prompt
from didact.generate.rounds import in_rounds
from didact.generate.seeds import load_seeds
from didact.generate.settings import (
    Exemplars,
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

NAME = "instruct_wild"
KINDS = ["generation", "open question", "closed question", "chat", "brainstorming", "rewriting", "summary"]
KINDS += ["classification", "other"]
SPECIAL = ["immoral", "politically sensitive", "gender bias", "racial", "illegal"]


class InstructWildConfig(BaseModel):
    """Requests grown from collected ones, answered apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["instruct_wild"] = Field("instruct_wild", description="collected requests: cleaned, grown, answered")
    teacher: Teacher = ""
    seeds: Seeds = ""
    target: int = Field(1000, ge=0, description="new requests to make; 0 only answers the collected ones")
    exemplars: Exemplars = 5
    wanted: int = Field(10, ge=1, description="new requests asked for in a prompt")
    prompts_per_round: PromptsPerRound = 5
    rounds_in_vain: RoundsInVain = 20
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    max_tokens: MaxTokens = 1024
    min_words: MinWords = 2
    max_words: MaxWords = 150
    novelty: Novelty = 0.7
    tag: bool = Field(True, description="ask for the kind of each request, and whether it is sensitive")
    kinds: list[str] = Field(KINDS, min_length=1, description="kinds of requests, as tags")
    special: list[str] = Field(SPECIAL, description="what makes a request sensitive, as tags")
    keep_special: bool = Field(False, description="keep requests that are sensitive")
    with_collected: bool = Field(True, description="answer the collected requests too")
    answer_tokens: MaxTokens = 1024
    licence: Licence = ""


def instruct_wild(config: InstructWildConfig, context: Context) -> Iterator[Instance]:
    """Requests with their answers: the collected ones first, if they are wanted, then the new ones."""
    llm, index = context.llm(config.teacher), NoveltyIndex(config.novelty)
    collected, parents = list[str](), dict[str, tuple[str, ...]]()
    for number, seed in enumerate(load_seeds(config.seeds, context.home, context.built), 1):
        given = seed.examples[0][0] if seed.examples else ""
        text = cleaned(f"{seed.instruction} {given}" if given else seed.instruction)  # there is no input field
        if _keep(config, context, index, text, number, collected):
            parents[text] = (seed.name,)
    requests: list[tuple[str, tuple[str, ...]]] = (
        [(text, parents[text]) for text in collected] if config.with_collected else []
    )
    requests += _expanded(config, context, llm, index, collected)
    tags = _tags(config, llm, [text for text, _ in requests]) if config.tag else [{} for _ in requests]
    wanted = []
    for (text, own), found in zip(requests, tags, strict=True):
        if not found and config.tag:
            context.left_out(NAME, "the request got no tags", text, 0)
        elif found.get("sensitive", "none") not in ("none", "unknown") and not config.keep_special:
            context.left_out(NAME, "the request is sensitive", f"{found['sensitive']}: {text}", 0)
        else:
            wanted.append((text, own, found))
    asked = (Request((("user", text),), max_tokens=config.answer_tokens) for text, _, _ in wanted)
    for number, ((text, own, found), reply) in enumerate(zip(wanted, llm.ask(asked), strict=True), 1):
        why = "cut at the longest answer" if reply.finish == "length" else fault(reply.text, text) if reply.ok else ""
        if not reply.ok:
            context.rejected(NAME, reply, number)
        elif why:
            context.left_out(NAME, f"the answer is {why}", text, number)
        else:
            yield instance(
                NAME, text, "", reply.text.strip(), number=number, teacher=llm.name, parents=own,
                licence=config.licence, tags={"call": reply.key, **found},
            )  # fmt: skip


def _expanded(
    config: InstructWildConfig, context: Context, llm: Asker, index: NoveltyIndex, collected: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    rng, made = Random(f"{NAME} {context.seed}"), list[tuple[str, tuple[str, ...]]]()

    def drawn() -> list[str]:
        return rng.sample(collected, min(config.exemplars, len(collected)))

    def request(shown: list[str], number: int) -> Request:
        return Request(
            (("user", prompt("wild_expand", shown=list(number_off(shown)), wanted=config.wanted)),),
            sample=number, temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens,
        )  # fmt: skip

    for number, some, reply in in_rounds(config, context, llm, drawn, request, lambda: len(made)) if collected else ():
        items = [*map(cleaned, split_list(reply.text))]
        if not items:
            context.left_out(NAME, "the list of requests is empty", reply.text, number)
        elif reply.finish == "length":
            context.left_out(NAME, "request: cut at the longest answer", items.pop(), number)
        for text in items:
            if len(made) >= config.target:
                context.left_out(NAME, f"{SPARE}more than target", text, number)
            elif _keep(config, context, index, text, number, []):
                made.append((text, tuple(map(name_of, some))))
    return made


def _keep(
    config: InstructWildConfig, context: Context, index: NoveltyIndex, text: str, number: int, kept: list[str]
) -> bool:
    why = instruction_fault(text, config.min_words, config.max_words, ())
    score, near = (0.0, -1) if why else index.nearest(text)
    if why or near >= 0:
        reason = f"request: {why or 'too like an earlier one'}"
        context.left_out(NAME, reason, text[:200] + (f", score {score:.3f}" if near >= 0 else ""), number)
        return False
    index.add(text)
    kept.append(text)
    return True


def _tags(config: InstructWildConfig, llm: Asker, texts: Sequence[str]) -> list[dict[str, str]]:
    def request(text: str) -> Request:
        asked = prompt("wild_tag", kinds=config.kinds, special=config.special, instruction=text)
        return Request((("user", asked),), max_tokens=30)

    replies = llm.ask(map(request, texts))  # a teacher that refuses even to tag has not said that nothing is amiss
    return [read_tags(reply.text, config.kinds, config.special) if reply.ok else {} for reply in replies]


def read_tags(text: str, kinds: Sequence[str], special: Sequence[str]) -> dict[str, str]:
    """Kind and sensitivity as a teacher tells them; no kind of the list is "other"; untold is "unknown"."""
    found = dict(re.findall(r"(?im)^\W*(kind|sensitive)\W*:\W*(.+?)\W*$", text))
    named = {key.lower(): value.lower() for key, value in found.items()}
    kind = next((kind for kind in kinds if named.get("kind", "") == kind.lower()), "other")
    told = named.get("sensitive", "")
    mark = next((mark for mark in special if mark.lower() in told), "none" if told.startswith("no") else "unknown")
    return {"kind": kind, "sensitive": mark}


def bill(config: InstructWildConfig, context: Context) -> Bill:
    """Lists of which half is kept; then a tag and an answer for each request."""
    seeds = [seed.instruction for seed in load_seeds(config.seeds, context.home, context.built)]
    lists = -(-config.target * 2 // config.wanted)
    read = tokens_of(prompt("wild_expand", shown=list(number_off(seeds[: config.exemplars])), wanted=config.wanted))
    total = Bill(lists, lists * read, lists * 25 * config.wanted)
    n = config.target + (len(seeds) if config.with_collected else 0)
    total += Bill(n, n * 30, n * min(config.answer_tokens, 250))
    asked = tokens_of(prompt("wild_tag", kinds=config.kinds, special=config.special, instruction="x" * 100))
    return total + (Bill(n, n * asked, n * 12) if config.tag else Bill(0, 0, 0))

"""Drop what nothing can be learnt from: empty and placeholder answers, empty questions, exact duplicates, and answers
that a writer, human or machine, got wrong by their form.

Of equal conversations the first is kept. Equal questions with different answers are not duplicates. The rules for
written answers are those that instruction sets were cleaned with (Self-Instruct, arXiv 2212.10560; Evol-Instruct, arXiv
2304.12244; Baize, arXiv 2304.01196); they do not look at answers that a template took from an annotated row, nor at
those of a closed set. Limits: they see form only, and know the phrases of `phrases.yaml`.
"""

from __future__ import annotations

import os.path
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.curate.words import all_words, shares_instruction
from didact.instance import Instance, Verdict, beside, digest

Rule = Literal["refusal", "persona", "echo", "unfinished", "wordless", "control", "language"]
RULES: tuple[Rule, ...] = ("refusal", "persona", "echo", "unfinished", "wordless", "control", "language")
APOLOGY = 80  # words; a longer answer that begins with an apology helps all the same (Evol-Instruct's eliminator)
ECHO = 4  # words; shorter answers may well be in the question
LETTERS = 20  # fewer do not tell a script
MIXED = 0.1  # share of letters up to which a script may be a quotation
STRAIGHT = str.maketrans("’‘“”", "''\"\"")


class HeuristicsConfig(BaseModel):
    """Rules that need no model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["heuristics"] = Field("heuristics", description="empty, faulty and doubled instances")
    duplicates: bool = Field(True, description="drop exact duplicates of an earlier instance")
    placeholders: list[str] = Field(
        ["<nooutput>", "nooutput", "<no output>"], description="answers that stand for no answer, in any case"
    )
    rules: list[Rule] = Field(
        list(RULES),
        description="faults of written answers: refusal, persona (as an AI ...), echo of the question, unfinished "
        "(ends in a colon), wordless (punctuation only), control (marks of a chat template), language (another script)",
    )
    words: tuple[int, int] | None = Field(
        None, description="fewest and most words of an instruction (Self-Instruct: [4, 150])"
    )


def heuristics(config: HeuristicsConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` of a duplicate is the id of the one that is kept."""
    placeholders = {text.casefold() for text in config.placeholders}
    first: dict[str, str] = {}
    verdicts = []
    for instance in instances:
        told = [[message.role, message.text] for message in instance.messages]
        key = digest([told, beside(instance.tags), *map(os.path.basename, instance.images)], 64)
        reason = _empty(instance, placeholders) or _faulty(instance, config)
        if reason:
            verdicts.append(Verdict(False, reason))
        elif config.duplicates and key in first:
            verdicts.append(Verdict(False, "exact duplicate", near=first[key]))
        else:
            first[key] = instance.id
            verdicts.append(Verdict(True))
    return verdicts


def _empty(instance: Instance, placeholders: set[str]) -> str:
    answer = instance.answer.strip()
    if not answer and not _calls(instance):
        return "the answer is empty"
    if answer.casefold() in placeholders:
        return "the answer is a placeholder"
    asked = any(part.value.strip() for message in instance.context for part in message.parts)  # an image asks too
    return "" if asked else "the question is empty"


def _calls(instance: Instance) -> bool:
    """Whether the last turn answers by calling a tool."""
    told = beside(instance.tags)
    return bool(told and told[1].get(str(len(instance.messages) - 1), {}).get("tool_calls"))


def _faulty(instance: Instance, config: HeuristicsConfig) -> str:
    if shares_instruction(instance) or instance.choices:
        return ""
    if config.words is not None:
        fewest, most = config.words
        if not fewest <= len(_instruction(instance).split()) <= most:
            return f"the instruction has not {fewest} to {most} words"
    if _calls(instance):
        return ""  # "I look it up:" is a good beginning of a call
    return next((reason for rule in config.rules if (reason := CHECKS[rule](instance))), "")


def _instruction(instance: Instance) -> str:
    parts = [p.value for message in instance.context for p in message.parts if p.slot == "instruction"]
    return " ".join(parts) or instance.prompt


def _refusal(instance: Instance) -> str:
    said = _plain(instance.answer)
    declines = said.startswith(tuple(_phrases()["refusal"])) and len(all_words(said)) < APOLOGY
    return "the answer is a refusal" if declines else ""


def _persona(instance: Instance) -> str:
    said, asked = _plain(instance.answer), _plain(instance.prompt)
    speaks = any(phrase in said and phrase not in asked for phrase in _phrases()["persona"])
    return "the answer speaks as a language model" if speaks else ""


def _echo(instance: Instance) -> str:
    """The answer is one of the question's parts as it stands, or begins with all of its words."""
    answer, words = instance.answer.strip(), all_words(instance.answer)
    if len(words) < ECHO:
        return ""
    same = any(part.value.strip() == answer for message in instance.context for part in message.parts)
    last = all_words(instance.context[-1].text)
    begins = len(last) >= ECHO and words[: len(last)] == last
    return "the answer repeats the question" if begins or same else ""


def _unfinished(instance: Instance) -> str:
    return "the answer ends in a colon" if instance.answer.rstrip().endswith((":", "：")) else ""


def _wordless(instance: Instance) -> str:
    if any(c.isalnum() or unicodedata.category(c) in ("So", "Sm") for c in instance.answer):
        return ""
    return "the answer is punctuation only"


def _control(instance: Instance) -> str:
    """A mark of a chat template that the question does not have: a row about such marks may speak of them."""
    said, asked = _plain(instance.answer), _plain(instance.prompt)
    found = any(mark in said and mark not in asked for mark in _phrases()["control"])
    return "the answer has marks of a chat template" if found else ""


def _language(instance: Instance) -> str:
    """The answer is in a script that the question has not, and the question does not ask for another."""
    if instance.prompt.isascii() and instance.answer.isascii():
        return ""
    asked, said = _scripts(instance.prompt), _scripts(instance.answer)
    if not asked or not said or any(phrase in _plain(instance.prompt) for phrase in _phrases()["translation"]):
        return ""
    script, count = said.most_common(1)[0]
    foreign = asked[script] <= MIXED * asked.total() and count > (1 - 2 * MIXED) * said.total()
    return "the answer is in another script than the question" if foreign else ""


CHECKS: dict[Rule, Callable[[Instance], str]] = {
    "refusal": _refusal,
    "persona": _persona,
    "echo": _echo,
    "unfinished": _unfinished,
    "wordless": _wordless,
    "control": _control,
    "language": _language,
}


def _scripts(text: str) -> Counter[str]:
    """Letters by script; nothing if there are too few to tell. Chinese, Japanese and Korean count as one."""
    found = Counter(_script(c) for c in text if c.isalpha())
    return found if found.total() >= (LETTERS if found["LATIN"] > found["CJK"] else LETTERS // 4) else Counter()


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ", 1)[0]
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL") else name


def _plain(text: str) -> str:
    return text.strip().translate(STRAIGHT).lower()


@lru_cache(maxsize=1)
def _phrases() -> dict[str, list[str]]:
    import yaml

    found: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text("utf-8"))
    return found

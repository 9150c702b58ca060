"""Instructions that a program can check: how each is worded and how obedience to it is told from a text."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from didact.audit.requests import data
from didact.audit.score import words

CLASHES: Mapping[str, frozenset[str]] = {  # what cannot be obeyed together
    "at_most": frozenset({"at_least", "sentences", "bullets", "json"}),
    "at_least": frozenset({"at_most"}),
    "small": frozenset({"capitals", "json"}),
    "capitals": frozenset({"small", "json", "begins", "ends", "contains"}),
    "contains": frozenset({"capitals"}),
    "begins": frozenset({"capitals", "bullets", "quoted", "json"}),
    "ends": frozenset({"capitals", "bullets", "quoted", "json"}),
    "sentences": frozenset({"at_most", "bullets", "json"}),
    "bullets": frozenset({"at_most", "sentences", "begins", "ends", "quoted", "json"}),
    "quoted": frozenset({"begins", "ends", "bullets", "json"}),
    "json": frozenset({"at_most", "small", "capitals", "begins", "ends", "sentences", "bullets", "quoted", "no_comma"}),
    "no_comma": frozenset({"json"}),
    "avoids": frozenset(),
    "number": frozenset(),
}


@dataclass(frozen=True)
class Constraint:
    """One instruction with its numbers and words filled in."""

    kind: str
    values: Mapping[str, Any]

    def wording(self, number: int) -> str:
        told: str = data("adherence")["constraints"][self.kind][number]
        for name, value in self.values.items():
            told = told.replace(f"{{{name}}}", str(value))
        return told

    def obeyed(self, text: str) -> bool:
        """Is the instruction obeyed by a text? An empty one obeys nothing."""
        return bool(words(text)) and CHECKS[self.kind](text.strip(), self.values)


def draw(rng: random.Random, number: int) -> list[Constraint]:
    """So many constraints that can be obeyed together, with words of their own."""
    kinds = list(data("adherence")["constraints"])
    chosen: list[str] = []
    for kind in rng.sample(kinds, len(kinds)):
        if len(chosen) < number and not any(kind in CLASHES[other] or other in CLASHES[kind] for other in chosen):
            chosen.append(kind)
    vocabulary = rng.sample(data("adherence")["words"], len(chosen))
    return [
        Constraint(kind, {"n": rng.choice((5, 10, 20)), "k": rng.choice((2, 3)), "word": word})
        for kind, word in zip(chosen, vocabulary, strict=True)
    ]


def _sentences(text: str) -> int:
    return len([piece for piece in re.split(r"[.!?]+(?:\s|$)", text) if words(piece)])


def _bullets(text: str, values: Mapping[str, Any]) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) == values["k"] and all(line.startswith("- ") for line in lines)


def _json(text: str, values: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and values["word"] in found


def _is(words_: Sequence[str], place: int, word: str) -> bool:
    return bool(words_) and words_[place] == word


CHECKS: Mapping[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "at_most": lambda text, v: len(words(text)) <= v["n"],
    "at_least": lambda text, v: len(words(text)) >= v["n"],
    "small": lambda text, v: text == text.lower() and text != text.upper(),
    "capitals": lambda text, v: text == text.upper() and text != text.lower(),
    "contains": lambda text, v: v["word"] in words(text),
    "avoids": lambda text, v: v["word"] not in words(text),
    "begins": lambda text, v: _is(words(text), 0, v["word"]),
    "ends": lambda text, v: _is(words(text), -1, v["word"]),
    "no_comma": lambda text, v: "," not in text,
    "sentences": lambda text, v: _sentences(text) == v["k"],
    "bullets": _bullets,
    "quoted": lambda text, v: len(text) > 2 and text[0] in '"“' and text[-1] in '"”',
    "json": _json,
    "number": lambda text, v: bool(re.search(r"\d", text)),
}

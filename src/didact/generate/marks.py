"""A judge's marks: prompts that end in a number, and the number read from what came back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from didact.generate.context import Asker
from didact.generate.prompts import prompt
from didact.llm import Request

SCORE = re.compile(r"(?i)\b(?:score|rating|mark|points?)\b\W{0,8}?(-?\d+(?:\.\d+)?)")


def mark_all(
    judge: Asker, name: str, items: Sequence[Mapping[str, Any]], low: float = 1, high: float = 10
) -> list[float | None]:
    """The judge's mark of each item by a prompt file; None where no mark within the bounds can be read."""
    requests = (Request((("user", prompt(name, low=low, high=high, **item)),), max_tokens=200) for item in items)
    return [read_mark(reply.text, low, high) if reply.ok else None for reply in judge.ask(requests)]


def read_mark(text: str, low: float, high: float) -> float | None:
    """The last announced mark, or else a number that stands alone at the beginning or the end."""
    found = (
        SCORE.findall(text)
        or re.findall(r"^\W*(-?\d+(?:\.\d+)?)\b(?!\.\s*[A-Za-z])", text)
        or re.findall(r"(-?\d+(?:\.\d+)?)\W*$", text)
    )
    value = float(found[-1]) if found else None
    return value if value is not None and low <= value <= high else None

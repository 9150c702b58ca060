"""What makes a generated text no use, whoever wrote it: one short reason, or none.

Rules only, no model: a text in another language is known by its script or by the function words it uses.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from didact.llm import repeats

CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<\|?(?:eot|bos|eos|pad)\|?>"
)
PAGE = re.compile(r"^\s*(?:<!doctype\b|<html\b|<\?xml\b)", re.IGNORECASE)


@cache
def _words() -> Any:
    return yaml.safe_load((files(__package__) / "words.yaml").read_text("utf-8"))


@cache
def _refusal() -> re.Pattern[str]:
    return re.compile("|".join(_words()["refusals"]), re.IGNORECASE | re.DOTALL)


def fault(text: str, asked: str = "", longest: int = 20_000) -> str:
    """Why a generated text cannot be kept, in a short phrase; "" if nothing is wrong with it.

    asked: what the teacher was shown; a text that only repeats it is no answer. longest: in characters.
    """
    stripped = text.strip()
    if not stripped:
        return "blank"
    if len(stripped) > longest:
        return "too long"
    if CONTROL.search(stripped):
        return "holds control tokens"
    if PAGE.match(stripped):
        return "a web page"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co") and c not in "\n\t\r" for c in stripped):
        return "holds control characters"
    if _refusal().search(stripped[:300]):
        return "a refusal"
    if asked and repeats(stripped, asked):
        return "repeats the prompt"
    return "in another language" if asked and _foreign(stripped, asked) else ""


def _foreign(text: str, asked: str) -> bool:
    """Written in another script than what was asked, or with the function words of another language."""
    if _latin(asked) < 0.7:
        return False
    if _latin(text) < 0.5:
        return not re.search(
            r"translat|chinese|japanese|korean|russian|greek|arabic|hebrew|hindi|cyrillic", asked, re.I
        )
    foreign_words, english_words = (set(_words()[name].split()) for name in ("foreign", "english"))
    words = re.findall(r"[^\W\d_]+", text.casefold())
    foreign, english = sum(word in foreign_words for word in words), sum(word in english_words for word in words)
    own = re.findall(r"[^\W\d_]+", asked.casefold())
    return (
        foreign >= 3
        and foreign > 2 * english
        and sum(word in foreign_words for word in own) <= sum(word in english_words for word in own)
        and not re.search(r"translat|german|french|spanish|italian|dutch|portuguese|language", asked, re.I)
    )


def _latin(text: str) -> float:
    """Share of the letters that are Latin; 1 for a text without letters."""
    letters = [c for c in text[:5000] if c.isalpha()]
    return sum(c < "\u0250" for c in letters) / len(letters) if letters else 1.0

"""Words of a text, for filters that compare texts."""

from __future__ import annotations

import re

# Scripts without blanks between words count by character.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\u0e00-\u0e7f"
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
LATIN = re.compile("[a-z0-9]+")


def all_words(text: str) -> list[str]:
    """Words of any script, lower case; where a script has no blanks, its characters."""
    return WORD.findall(text.lower())


def rouge_words(text: str) -> list[str]:
    """The tokens of the package `rouge_score`; a text without Latin letters or digits has none."""
    return LATIN.findall(text.lower())

"""The verb that an instruction turns on, and what it is done to, by rules: no parser, no model.

The picture of Self-Instruct (Wang et al. 2022, arXiv 2212.10560, figure 3) with a heuristic in place of its parser: of
a text, the first word that is a verb of `english.yaml` where an imperative begins (at the start, after a mark, after
courtesies or an address), then the last noun-like word before a preposition, a clause or a mark. A question gives its
question word instead. Limits: English only; what it does not find is counted and told, not guessed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+|[.!?:;,\n\"(){}\[\]]")
FAR = 14  # words between a verb and its object


def root(text: str) -> tuple[str, str]:
    """(verb, object) of the first instruction in a text; ("", "") if none is found, an object of "" if it has none."""
    known, words = _english(), WORD.findall(text.lower()[:600])
    before, starts = ".", True
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else "."
        if starts and word in known["verbs"] and not (word in known["courtesy"] and after in known["verbs"]):
            return word, _object(words[place + 1 :])
        asks = not before.isalpha() and word in known["asking"] and after.isalpha() and after not in known["person"]
        if asks:
            return f"{word}?", ""
        before, starts = word, word in known["courtesy"] or not word.isalpha()
    return "", ""


def _object(words: list[str]) -> str:
    """The last word of the first run of words that can be a noun phrase."""
    known, last = _english(), ""
    for word in words[:FAR]:
        if not word.isalpha() or (word in known["end"] and last):
            break
        if word not in known["between"] and word not in known["end"]:
            last = word
    return _singular(last)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


@lru_cache(maxsize=1)
def _english() -> dict[str, frozenset[str]]:
    import yaml

    text = (Path(__file__).parent / "english.yaml").read_text("utf-8")
    return {name: frozenset(words.split()) for name, words in yaml.safe_load(text).items()}

"""Words of a text, for filters that compare texts."""

from __future__ import annotations

import re

from didact.instance import Instance

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


def shares_instruction(instance: Instance) -> bool:
    """Whether the words that state the task are those of a template, the same in many rows on purpose."""
    return instance.origin.via.startswith(("template:", "super-ni:"))


def own_texts(instance: Instance) -> list[str]:
    """The texts of an instance that are not a template's: what is asked (of a template's rows the inputs, if it tells
    them apart), then its answers. Of a picture many rows ask the same: its question is left out, and a template's
    short answers are too."""
    parts = [part for message in instance.context for part in message.parts if part.kind == "text"]
    inputs = [part.value for part in parts if part.slot == "input"]
    if instance.images:
        return inputs if shares_instruction(instance) else [instance.answer, *instance.references]
    asked = inputs if inputs and shares_instruction(instance) else [message.text for message in instance.context]
    return [*asked, instance.answer, *instance.references]

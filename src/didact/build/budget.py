"""The token budget of a question with examples before it: who counts, and which examples fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from didact.build.config import BuildConfig
from didact.errors import UsageError
from didact.token_count import Count, counter

SEAM = 8  # tokens by which joining two pieces may change their number; examples end with a line, where words end


def counting(config: BuildConfig, tokenizer: str) -> Count | None:
    """What counts tokens for the budget of examples, where there are any. tokenizer: as `tokenizer_json` gives it."""
    if not config.few_shot.share:
        return None
    if not tokenizer:
        problem = "examples are pruned to a number of tokens, and no tokenizer is there to count them"
        raise UsageError(problem, 'name one: "starter", a folder, a hub id', field="build.few_shot.tokenizer")
    return counter(tokenizer)


def fitting(
    examples: Sequence[tuple[str, int]], head: str, question: tuple[str, int], limit: int, count: Count
) -> list[int]:
    """The places of the examples that fit into the budget with the kept ones before them, head and question counted.

    Each is a text and the tokens of its pictures. Tokens of pieces add up to those of the whole but for the seams, so
    the whole is counted only near the limit.
    """
    text, shown = question
    kept, used, whole, limit = list[int](), _tokens(count, head) + count(text), head, limit - shown
    for place, (example, pictures) in enumerate(examples):
        size, slack = used + _tokens(count, example), SEAM * (len(kept) + 2)
        room = limit - pictures
        if size + slack <= room or (size - slack <= room and count(whole + example + text) <= room):
            kept.append(place)
            used, whole, limit = size, whole + example, room
    return kept


@lru_cache(maxsize=8192)
def _tokens(count: Count, text: str) -> int:
    """Tokens of an example, which many questions share."""
    return count(text)

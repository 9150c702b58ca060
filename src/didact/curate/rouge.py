"""ROUGE-L as the package `rouge_score` has it, bit for bit, from tokens kept as characters: the one door to rapidfuzz.

`F = 2PR / (P + R)` is formed in that package's own order of operations, since 0.7 can be a tie: with 7 common words of
10 and 10 the exact value is the threshold, and what decides is how it was rounded (Lin 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

LAST = 0x110000  # characters end here

Encoded = str | list[int]  # one character per word; numbers where there are more words than characters


def encode(numbers: Sequence[int]) -> Encoded:
    """Word numbers as a sequence that rapidfuzz compares fast."""
    return "".join(map(chr, numbers)) if not numbers or max(numbers) < LAST else list(numbers)


def rouge_l_each(text: Encoded, others: Sequence[Encoded], sizes_N: Any, at_least: float = 0.0) -> Any:
    """ROUGE-L F of one text with each of the others, in [0, 1]; sizes_N: their numbers of words, none of them 0.

    Values below `at_least` may come out as 0: that is what makes it fast.
    """
    size = len(text)
    if not size or not others:
        return np.zeros(len(others))
    # Two roundings cannot lift a value by more than this, so nothing at the threshold is lost.
    fewest = int(max(0.0, (at_least - 1e-9) / 2 * (size + int(sizes_N.min()))))
    common_N = process.cdist([text], others, scorer=LCSseq.similarity, score_cutoff=fewest, dtype=np.int32)[0]
    with np.errstate(invalid="ignore"):
        precision_N, recall_N = common_N / sizes_N, common_N / size
        return np.where(common_N > 0, 2 * precision_N * recall_N / (precision_N + recall_N), 0.0)

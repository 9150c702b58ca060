"""Keep an instruction only if it is unlike all kept before it: the largest ROUGE-L F with any of them is at most 0.7.

The rule of Self-Instruct (Wang et al. 2022, arXiv 2212.10560), whose code rejects above the threshold and not at it.
The decisions are those of the package `rouge_score` on every pair; `NoveltyIndex` only leaves out pairs that cannot
reach the threshold, by three bounds on the common words of texts of m and n words:

1. F = 2L / (m + n) and L is at most the smaller of m and n, so the sizes must be near one another;
2. texts that share enough words share one of the rarest of each (prefix filter; Chaudhuri et al. 2006);
3. two hashed word sets differ in at most as many bits as the texts differ in words.

Limits: `rouge_score` sees only a-z and 0-9, so texts in other scripts are new to it, however often they are repeated
(`words: all` compares those too); and order matters, as in the original: of two that are alike the first stays.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from didact.curate.context import Context
from didact.curate.rouge import Encoded, encode, rouge_l_each
from didact.curate.words import all_words, rouge_words
from didact.instance import Instance, Verdict

BITS = 256  # of a hashed word set
SCAN = 2048  # up to so many entries looking at all of them is faster than an index
SLACK = 1e-9  # more than the rounding of any bound
REASON = "too like an earlier instruction"


class NoveltyConfig(BaseModel):
    """How alike two instructions may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["novelty"] = Field("novelty", description="instructions too like an earlier one (ROUGE-L)")
    threshold: float = Field(0.7, ge=0, lt=1, description="largest ROUGE-L F with any kept one; more is dropped")
    text: Literal["instruction", "prompt"] = Field(
        "instruction",
        description="the instruction, or all that is asked; of rows of a template always the latter",
    )
    words: Literal["rouge", "all"] = Field(
        "rouge", description="rouge: a-z and 0-9 only, as in rouge_score; all: words of every script"
    )


def novelty(config: NoveltyConfig, instances: Sequence[Instance], context: Context) -> list[Verdict]:
    """One verdict per instance; `near` is the kept one that is most alike, the score their ROUGE-L F."""
    # One index for each picture: of another the same may be asked.
    indexes: dict[tuple[str, ...], tuple[NoveltyIndex, list[str]]] = {}
    verdicts = []
    for instance in instances:
        text = compared(instance, config.text)
        if instance.pictured not in indexes:
            words = rouge_words if config.words == "rouge" else all_words
            indexes[instance.pictured] = NoveltyIndex(config.threshold, words), []
        index, kept = indexes[instance.pictured]
        score, near = index.nearest(text)
        if near >= 0:
            verdicts.append(Verdict(False, REASON, score, kept[near]))
        else:
            index.add(text)
            kept.append(instance.id)
            verdicts.append(Verdict(True))
    return verdicts


def compared(instance: Instance, text: Literal["instruction", "prompt"] = "instruction") -> str:
    """The text of an instance that is compared: the parts that state its task, or all that is asked.

    A template gives the same instruction to all its rows on purpose, so such instances are compared by their prompt,
    as are those whose parts are not told apart.
    """
    if text == "instruction" and not instance.origin.via.startswith("template:"):
        parts = [p.value for message in instance.context for p in message.parts if p.slot == "instruction"]
        if parts:
            return " ".join(parts)
    return instance.prompt


class NoveltyIndex:
    """Texts that were kept, and which of them is nearest to a new one, exactly, if it is nearer than the threshold.

    With a threshold of 0 the nearest of all that share a word is found, which takes a look at every entry.
    """

    def __init__(self, threshold: float = 0.7, words: Callable[[str], list[str]] = rouge_words) -> None:
        self.threshold, self._words = threshold, words
        self._ids: dict[str, int] = {}
        self._bits: list[int] = []  # of each word: the one bit that stands for it
        self._random = random.Random(0)
        self._texts: list[Encoded] = []
        self._sizes_N: Any = np.zeros(64, np.int32)
        self._sets_NW: Any = np.zeros((64, BITS // 64), np.uint64)
        self._rank: list[int] = []  # of each word: rare ones first
        self._postings: dict[int, array[int]] = {}
        self._next_build = SCAN
        self._last: tuple[str, list[int]] = ("", [])

    def __len__(self) -> int:
        return len(self._texts)

    def nearest(self, text: str) -> tuple[float, int]:
        """The largest ROUGE-L F above the threshold and the first entry that has it; (0.0, -1) if none is above."""
        numbers = self._numbers(text)
        near_M = self._candidates(numbers) if numbers else np.zeros(0, np.int64)
        if not near_M.size:
            return 0.0, -1
        texts = [self._texts[i] for i in near_M.tolist()]
        scores_M = rouge_l_each(encode(numbers), texts, self._sizes_N[near_M], self.threshold)
        best = int(scores_M.argmax())
        return (float(scores_M[best]), int(near_M[best])) if scores_M[best] > self.threshold else (0.0, -1)

    def most_alike(self, text: str, count: int) -> tuple[list[tuple[float, int]], float]:
        """(ROUGE-L F, entry) of the most similar entries, best first, and the mean over all: a look at every entry."""
        numbers, total = self._numbers(text), len(self._texts)
        if not total:
            return [], 0.0
        scores_N = rouge_l_each(encode(numbers), self._texts, self._sizes_N[:total]) if numbers else np.zeros(total)
        best = np.argsort(-scores_N, kind="stable")[:count]
        return [(float(scores_N[i]), int(i)) for i in best], float(scores_N.mean())

    def add(self, text: str) -> int:
        """Take a text in; returns its index, counted from 0."""
        numbers, index = self._numbers(text), len(self._texts)
        if index == len(self._sizes_N):
            self._sizes_N = np.concatenate([self._sizes_N, np.zeros_like(self._sizes_N)])
            self._sets_NW = np.concatenate([self._sets_NW, np.zeros_like(self._sets_NW)])
        self._texts.append(encode(numbers))
        self._sizes_N[index], self._sets_NW[index] = len(numbers), self._set(numbers)
        if index >= self._next_build:
            self._build()
        elif self._postings:
            self._post(index, numbers)
        return index

    def _numbers(self, text: str) -> list[int]:
        """The text's words as numbers; what was asked is often added next, so the last answer is kept."""
        if self._last[0] != text or not self._last[1]:
            ids = self._ids
            self._last = (text, [ids.setdefault(word, len(ids)) for word in self._words(text)])
            self._bits += [1 << self._random.randrange(BITS) for _ in range(len(ids) - len(self._bits))]
        return self._last[1]

    def _set(self, numbers: Sequence[int]) -> Any:
        """Each word flips its bit, so two sets differ in at most as many bits as words."""
        bits = 0
        for number in numbers:
            bits ^= self._bits[number]
        return np.frombuffer(bits.to_bytes(BITS // 8, "little"), np.uint64)

    def _candidates(self, numbers: Sequence[int]) -> Any:
        """Indices, ascending, of the entries that the bounds do not exclude."""
        size, total, share = len(numbers), len(self._texts), self.threshold / (2 - self.threshold)
        if self._postings:
            found = [p for key in self._prefix(numbers) if (p := self._postings.get(key)) is not None]
            if not found:
                return np.zeros(0, np.int64)
            near_M = np.frombuffer(b"".join(found), np.int32)
            sizes_M = self._sizes_N[near_M]
        else:
            near_M, sizes_M = np.arange(total, dtype=np.int32), self._sizes_N[:total]
        fits_M = (sizes_M >= max(1.0, share * size - SLACK)) & (sizes_M * share <= size + SLACK)
        near_M, sizes_M = near_M[fits_M], sizes_M[fits_M]
        differ_M = np.bitwise_count(self._sets_NW[near_M] ^ self._set(numbers)).sum(axis=1)
        near_M = near_M[differ_M <= (1 - self.threshold) * (sizes_M + size) + SLACK]
        return np.unique(near_M).astype(np.int64)

    def _prefix(self, numbers: Sequence[int]) -> list[int]:
        """The rarest words, so many that a text above the threshold must have one of them among its own rarest."""
        rank = self._rank
        known = len(rank)
        # Words that came after the last build are the rarest, and stay in the order in which they came.
        keys = sorted([rank[number] if number < known else -1 - number for number in numbers])
        # At least share * size words are common to both, so the first of them stands before the last so many.
        common = math.ceil(self.threshold / (2 - self.threshold) * len(keys) - SLACK)
        return list(dict.fromkeys(keys[: len(keys) - max(common, 1) + 1]))

    def _post(self, index: int, numbers: Sequence[int]) -> None:
        for key in self._prefix(numbers):
            self._postings.setdefault(key, array("i")).append(index)

    def _build(self) -> None:
        """Order the words by how frequent they are by now, and the entries by their rarest words."""
        numbers = [[ord(c) for c in text] if isinstance(text, str) else text for text in self._texts]
        counts = Counter(number for text in numbers for number in text)
        order = sorted(range(len(self._ids)), key=lambda number: (counts[number], number))
        self._rank = [0] * len(order)
        for place, number in enumerate(order):
            self._rank[number] = place
        self._postings = {}
        for index, text in enumerate(numbers):
            self._post(index, text)
        self._next_build = 2 * len(numbers)

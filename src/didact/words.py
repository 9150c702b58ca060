"""Encoding by words that were met before: the tokens of a text as its tokenizer gives them, in less than half the time.

A byte-level BPE tokenizer cuts a text into words by a pattern and each word into tokens by itself, so that a word has
the same tokens wherever it stands. Only ASCII is cut here, in which every engine of patterns means the same, and the
first texts are encoded both ways: where one token or span differs, all is left to the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import add, sub
from typing import Any

Range = tuple[int, int]  # from the first character to the one behind the last
Found = tuple[list[int], list[Range]]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ASCII = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9", "Lt": "", "Lm": "", "Lo": "", "M": ""}
# what a byte below 128 is called in the names of tokens (Radford 2019, GPT-2)
LETTERS = {byte: chr(256 + byte) for byte in range(33)} | {127: chr(289)}
PROOFS, BATCH, MOST = 64, 2048, 1 << 17


class Words:
    """One tokenizer's words. told: what it writes of itself.

    `encode` gives the ids and character spans of texts, without special tokens of its own.
    """

    def __init__(self, backend: Any, told: str) -> None:
        self._backend, self._proved = backend, 0
        steps = json.loads(told)
        self._model, ends = backend.model, steps["post_processor"] or {}
        trims = [
            step.get("trim_offsets") for step in (ends, *ends.get("processors", ())) if step.get("type") == "ByteLevel"
        ]
        self._blank = " " if any(trims) else ""
        self._pattern = _pattern(steps)
        self._added, self._marks = _added(steps)
        if self._added is None:
            self._pattern = None
        self._ids: dict[str, list[int]]
        self._lengths: dict[str, list[int]]
        self._left: dict[str, list[int]]  # blanks trimmed off the spans, where there are such
        self._right: dict[str, list[int]]
        self._odd: set[str]  # whose tokens do not add up to the word: the tokenizer must do it
        self._forget()

    def encode(self, texts: Sequence[str]) -> list[Found]:
        """Ids and spans of each text."""
        return [one for start in range(0, len(texts), BATCH) for one in self._some(texts[start : start + BATCH])]

    def _some(self, texts: Sequence[str]) -> list[Found]:
        cut = [self._cut(text) for text in texts]
        self._learn(set[str]().union(*(words for words in cut if words)))
        found = [None if words is None else self._join(text, words) for text, words in zip(texts, cut, strict=True)]
        left = [i for i, one in enumerate(found) if one is None or self._proved + i < PROOFS]
        for i, encoding in zip(left, self._whole([texts[i] for i in left]), strict=True):
            right = encoding.ids, encoding.offsets
            if found[i] is not None and found[i] != right:
                self._pattern = None  # from now on, and in the texts of this call
                return [(e.ids, e.offsets) for e in self._whole(texts)]
            found[i] = right
        self._proved += len(texts)
        return [one for one in found if one is not None]

    def _whole(self, texts: Sequence[str]) -> Any:
        return self._backend.encode_batch(list(texts), add_special_tokens=False) if texts else ()

    def _cut(self, text: str) -> list[str] | None:
        """Words and added tokens; None where the tokenizer must do it."""
        # a blank at the very beginning has rules of its own where blanks are trimmed off spans
        if self._pattern is None or not text.isascii() or (self._blank and text[:1] == self._blank):
            return None
        assert self._added is not None
        words, find = list[str](), self._pattern.findall
        for i, part in enumerate(self._added.split(text)):
            if i % 2:
                words.append(part)
            elif part:
                words += find(part)
        return words

    def _join(self, text: str, words: Sequence[str]) -> Found | None:
        if not self._odd.isdisjoint(words):
            return None
        ends = list(accumulate(_each(self._lengths, words)))
        if (ends[-1] if ends else 0) != len(text):
            return None
        ids, starts = list(_each(self._ids, words)), chain((0,), ends)
        if not self._blank:
            return ids, list(zip(starts, ends, strict=False))
        left, right = _each(self._left, words), _each(self._right, words)
        return ids, list(zip(map(add, starts, left), map(sub, ends, right), strict=False))

    def _learn(self, words: set[str]) -> None:
        if len(self._ids) >= MOST:
            self._forget()
        for word in words - self._ids.keys():
            printed = word.isprintable()  # of what has another name among the letters only the blank is printed
            tokens = self._model.tokenize(word.replace(" ", LETTERS[32]) if printed else word.translate(LETTERS))
            # a byte is a letter of the token's name, and in ASCII a character of the text
            lengths = [len(token.value) for token in tokens]
            if sum(lengths) != len(word):
                self._odd.add(word)
            self._ids[word], self._lengths[word] = [token.id for token in tokens], lengths
            if self._blank:
                pieces = [word[end - n : end] for n, end in zip(lengths, accumulate(lengths), strict=True)]
                left = [len(piece) - len(piece.lstrip(self._blank)) for piece in pieces]
                rest = [piece[n:] for piece, n in zip(pieces, left, strict=True)]
                right = [len(piece) - len(piece.rstrip(self._blank)) for piece in rest]
                self._left[word], self._right[word] = left, right

    def _forget(self) -> None:
        """Only the added tokens are known."""
        self._ids = {mark: [i] for mark, i in self._marks.items()}
        self._lengths = {mark: [len(mark)] for mark in self._marks}
        self._left, self._right = {mark: [0] for mark in self._marks}, {mark: [0] for mark in self._marks}
        self._odd = set[str]()


def _each(known: Mapping[str, Sequence[int]], words: Iterable[str]) -> Iterator[int]:
    return chain.from_iterable(map(known.__getitem__, words))


def _pattern(told: dict[str, Any]) -> re.Pattern[str] | None:
    """What cuts a text into words, for ASCII; None if it is not known how."""
    steps, normal, model = told["pre_tokenizer"] or {}, told["normalizer"] or {}, told["model"]
    if model.get("type") != "BPE" or model.get("dropout") or normal.get("type", "NFC") not in ("NFC", "NFKC"):
        return None
    cuts = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    kinds = [cut.get("type") for cut in cuts]
    if not cuts[-1:] or kinds[-1] != "ByteLevel" or cuts[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and cuts[0].get("use_regex", True):
        return _ascii(GPT2)
    plain = kinds == ["Split", "ByteLevel"] and not cuts[1].get("use_regex", True)
    if not plain or cuts[0].get("behavior") != "Isolated" or cuts[0].get("invert"):
        return None
    return _ascii(cuts[0]["pattern"].get("Regex", r"\p{?}"))


def _ascii(pattern: str) -> re.Pattern[str] | None:
    """A pattern over Unicode's classes as one over ASCII."""
    made, inside, at = "", False, 0
    while at < len(pattern):
        named = re.compile(r"\\p\{(\w+)\}").match(pattern, at)
        step = named.group() if named else pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        if named and named[1] not in ASCII:
            return None
        letters = ASCII[named[1]] if named else step
        made += f"[{letters}]" if named and not inside else letters
        inside = (inside or step == "[") and step != "]"
        at += len(step)
    try:
        found = re.compile(made, re.ASCII)
    except re.error:
        return None
    return None if found.groups or "\\p" in made else found


def _added(told: dict[str, Any]) -> tuple[re.Pattern[str] | None, dict[str, int]]:
    """What finds added tokens in a text, and their ids; None if they take blanks with them or lie in each other."""
    tokens = told["added_tokens"]
    names = sorted((token["content"] for token in tokens), key=len, reverse=True)
    odd = any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in tokens)
    mixed = len({token["normalized"] for token in tokens}) > 1
    if odd or (mixed and any(a != b and a in b for a in names for b in names)):
        return None, {}
    found = "|".join(re.escape(name) for name in names) or r"(?!)"
    return re.compile(f"({found})"), {token["content"]: token["id"] for token in tokens}

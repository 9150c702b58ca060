"""How many training instances share a text with held-out ones: the very same, or 13 words in a row.

Counted while the data are built; dropping them is the filter `decontaminate`'s. Compared is what comes from the row
(parts of slot `input`), or the whole question where there are none, and the answer; runs of words by their hash.
"""

from __future__ import annotations

import os.path
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.instance import Instance

N = 13  # words in a row, as OPT-IML compares (Iyer et al. 2022, arXiv 2212.12017)
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\u0e00-\u0e7f"  # scripts without blanks count by character
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
FACTOR = np.uint64(0x100000001B3)
Hashes = NDArray[np.uint64]


def prints_of(instances: Sequence[Instance]) -> tuple[Hashes, Hashes, NDArray[np.int64]]:
    """A hash of each whole instance; the hashes of all runs of N words, and which instance each is of."""
    whole = np.array([_hash("\0".join(_whole(i))) for i in instances], np.uint64)
    words: list[int] = []
    owners: list[int] = []
    for number, instance in enumerate(instances):
        for text in _texts(instance):
            found = WORD.findall(text.lower())
            if len(found) >= N:
                words += [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in found]
                owners += [number] * (len(found) - N + 1) + [-1] * (N - 1)
    if not words:
        return whole, np.zeros(0, np.uint64), np.zeros(0, np.int64)
    marks, n = np.array(words, np.uint64), len(words) - N + 1
    runs = np.zeros(n, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(N):
            runs = runs * FACTOR + marks[place : place + n]
    owner = np.array(owners[:n], np.int64)
    return whole, runs[owner >= 0], owner[owner >= 0]


def leaks(instances: Sequence[Instance], whole: Hashes, runs: Hashes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which instances are the same as a held-out one, and which share a run of words; both sorted hashes of those."""
    mine, own, owners = prints_of(instances)
    shares = np.zeros(len(instances), bool)
    shares[owners[_among(own, runs)]] = True
    return _among(mine, whole), shares


def _among(values: Hashes, ranked: Hashes) -> NDArray[np.bool_]:
    if not len(ranked) or not len(values):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)
    found: NDArray[Any] = ranked[place] == values
    return found


def _texts(instance: Instance) -> Iterator[str]:
    parts = [[part for part in message.parts if part.kind == "text"] for message in instance.context]
    inputs = [part.value for some in parts for part in some if part.slot == "input"]
    if not inputs and not instance.images:  # of a row that is a picture, the question is its task's
        inputs = ["".join(part.value for part in some if part.slot != "demo") for some in parts]
    yield from inputs
    yield instance.answer


def _whole(instance: Instance) -> list[str]:
    pictures = [os.path.basename(path) for path in instance.images]
    return [_plain(instance.prompt), _plain(instance.answer), *pictures]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.adler32(data)

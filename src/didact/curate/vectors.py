"""Texts as vectors, from their words alone: TF-IDF, hashed into a fixed number of columns."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from didact.curate.words import all_words

COLUMNS = 512


def tf_idf(texts: Sequence[str], columns: int = COLUMNS) -> Any:
    """Vectors of length 1, one row per text, float32; products of rows approximate the cosine of their TF-IDF.

    Each word adds to one column with a sign of its own, so that words that share a column cancel on average (Weinberger
    et al. 2009). Texts without words are zero.
    """
    counts = [Counter(all_words(text)) for text in texts]
    seen = Counter(word for count in counts for word in count)
    places: dict[str, int] = {}
    weights: dict[str, float] = {}
    for word, texts_with in seen.items():
        hashed = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        places[word] = (hashed >> 1) % columns
        weights[word] = (1.0 if hashed & 1 else -1.0) * (1 + math.log((1 + len(texts)) / (1 + texts_with)))
    vectors_TC = np.zeros((len(texts), columns), np.float32)
    for row, count in enumerate(counts):
        at = [places[word] for word in count]
        np.add.at(vectors_TC[row], at, [weights[word] * (1 + math.log(n)) for word, n in count.items()])
    return unit(vectors_TC)


def unit(vectors_TC: Any) -> Any:
    """Rows brought to length 1; zero rows stay zero."""
    vectors_TC = np.asarray(vectors_TC, np.float32)
    sizes_T = np.linalg.norm(vectors_TC, axis=1, keepdims=True)
    return vectors_TC / np.where(sizes_T > 0, sizes_T, 1)

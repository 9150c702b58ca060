"""Texts that share most of their word n-grams: exact Jaccard by prefix filter, MinHash beyond what memory holds.

Exact: texts with a Jaccard similarity of t or more share one of their rarest n-grams, so only such texts are compared
(Chaudhuri et al. 2006; Bayardo et al. 2007). MinHash: texts that agree in one of 25 bands of 5 hashes are compared; a
pair at 0.7 is looked at with probability 0.99, at 0.8 with 0.9999 (Broder 1997). Either way a pair counts only if its
true similarity reaches the threshold, so MinHash may miss a pair but never invents one.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from didact.curate.words import all_words

EXACT_CHARACTERS = 120_000_000  # about 1.5 GB; beyond that MinHash
BANDS, ROWS = 25, 5
CHUNK = 2000  # texts hashed at once
BITS, FEW = 256, 4  # of a hashed set; candidates that are not worth looking at their sets
CACHED = 100_000  # sets of n-grams kept at hand
SLACK = 1e-9

Nearest = tuple[float, int]
Grams = frozenset[Any]
Likely = Callable[[int, list[int]], list[int]]
# The keys of each text; of its candidates those that no cheap bound excludes; the n-grams of a text.
Plan = tuple[Iterator[tuple[int, list[int]]], Likely, Callable[[int], Grams]]


def nearest_alike(
    texts: Sequence[str],
    threshold: float,
    n: int = 3,
    references: int = 0,
    exact: bool | None = None,
    apart: Callable[[int, int], bool] | None = None,
) -> list[Nearest]:
    """For each text its Jaccard similarity with the nearest text before it, if that reaches the threshold, and which.

    (0.0, -1) where none does. A text that has a neighbour is not compared with later ones, so of a group the first
    stands for all. references: only the first so many are compared with, and they have no neighbours themselves.
    exact: None decides by size. apart: says of two texts, the later first, that they are never taken for alike.
    Texts shorter than n words are one n-gram; texts without words are like no other.
    """
    if exact is None:
        exact = sum(map(len, texts)) <= EXACT_CHARACTERS
    keys, likely, grams = _prefixes(texts, threshold, n) if exact else _bands(texts, n)
    found: list[Nearest] = [(0.0, -1)] * len(texts)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for i, own in keys:
        if i >= references:
            near = likely(i, list({j for key in own for j in holders.get(key, ())}))
            if apart is not None:
                near = [j for j in near if not apart(i, j)]
            if near:
                found[i] = _nearest(grams(i), near, grams, threshold)
        if i < references or (not references and found[i][1] < 0):
            for key in own:
                holders[key].append(i)
    return found


def _nearest(own: Grams, near: Iterable[int], grams: Callable[[int], Grams], least: float) -> Nearest:
    """The largest similarity and the first that has it, if it reaches the least."""
    best, first = 0.0, -1
    for j in near:
        other = grams(j)
        common = len(own & other)
        score = common / (len(own) + len(other) - common)
        if score >= least and (score, -j) > (best, -first):
            best, first = score, j
    return best, first


def _prefixes(texts: Sequence[str], threshold: float, n: int) -> Plan:
    """Keys of a text: its rarest n-grams, but for those that no other text has among its rarest."""
    numbers: dict[str, int] = {}
    windows, owner_G = _windows(*_numbered(texts, n, numbers), n)
    _, grams_G, counts_S = np.unique(_packed(windows, len(numbers) + 1), return_inverse=True, return_counts=True)
    rank_S = np.empty(len(counts_S), np.int64)
    rank_S[np.argsort(counts_S, kind="stable")] = np.arange(len(counts_S))
    # Once each, text by text, the rarest first.
    both_G = owner_G * len(counts_S) + rank_S[grams_G]
    both_G.sort()
    owner_G, grams_G = np.divmod(both_G[np.diff(both_G, prepend=-1) > 0], max(len(counts_S), 1))
    sizes_T = np.bincount(owner_G, minlength=len(texts))
    ends_T = np.cumsum(sizes_T)
    starts_T = ends_T - sizes_T
    # At least threshold * size n-grams are common to both, so the first of them stands before the last so many.
    early_T = sizes_T - np.ceil(threshold * sizes_T - SLACK).astype(np.int64) + 1
    early_G = np.arange(len(grams_G)) - starts_T[owner_G] < early_T[owner_G]
    shared_S = np.bincount(grams_G[early_G], minlength=len(counts_S)) > 1
    keys_G = early_G & shared_S[grams_G]
    sets_TW = _sets(grams_G, sizes_T, starts_T)
    differ = (1 - threshold) / (1 + threshold)

    def likely(i: int, near: list[int]) -> list[int]:
        """Texts alike by the threshold differ in so few n-grams, and their hashed sets in no more bits."""
        if len(near) < FEW:
            return near
        near_M = np.array(near)
        bits_M = np.bitwise_count(sets_TW[near_M] ^ sets_TW[i]).sum(axis=1)
        return list(near_M[bits_M <= differ * (sizes_T[near_M] + sizes_T[i]) + SLACK].tolist())

    @lru_cache(maxsize=CACHED)
    def grams(i: int) -> Grams:
        return frozenset(grams_G[starts_T[i] : ends_T[i]].tolist())

    return _by_owner(owner_G[keys_G], grams_G[keys_G]), likely, grams


def _sets(grams_G: Any, sizes_T: Any, starts_T: Any) -> Any:
    """A hashed set of bits per text, in which each of its n-grams flips one."""
    sets_TW = np.zeros((len(sizes_T), BITS // 64), np.uint64)
    bits_G = _mixed(grams_G.astype(np.uint64)) % np.uint64(BITS)
    full_T = np.flatnonzero(sizes_T)
    for word in range(BITS // 64 if len(full_T) else 0):
        mine_G = np.where(bits_G >> np.uint64(6) == word, np.uint64(1) << (bits_G & np.uint64(63)), np.uint64(0))
        sets_TW[full_T, word] = np.bitwise_xor.reduceat(mine_G, starts_T[full_T])
    return sets_TW


def _bands(texts: Sequence[str], n: int) -> Plan:
    """Keys of a text: hashes of its bands, but for those that no other text has."""
    rng = np.random.default_rng(0)
    odd_K, add_K, mix_K = (rng.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + 1 for _ in range(3))
    numbers: dict[str, int] = {}
    bands_TB = np.zeros((len(texts), BANDS), np.uint32)  # 0: none
    for begin in range(0, len(texts), CHUNK):
        windows, owner_G = _windows(*_numbered(texts[begin : begin + CHUNK], n, numbers), n)
        grams_G = np.zeros(len(owner_G), np.uint64)
        for words_G in windows:
            grams_G = _mixed(grams_G * odd_K[0] + words_G.astype(np.uint64))
        own_T, first_T = np.unique(owner_G, return_index=True)
        least_TK = np.empty((len(own_T), BANDS * ROWS), np.uint64)
        for k in range(BANDS * ROWS if len(own_T) else 0):
            least_TK[:, k] = np.minimum.reduceat((grams_G * odd_K[k] + add_K[k]) >> np.uint64(32), first_T)
        mixed_TB = _mixed((least_TK * mix_K).reshape(len(own_T), BANDS, ROWS).sum(axis=2))
        bands_TB[begin + own_T] = np.maximum(mixed_TB >> np.uint64(32), 1)
    owners, keys = [], []
    for band in range(BANDS):
        _, group_T, counts = np.unique(bands_TB[:, band], return_inverse=True, return_counts=True)
        shared_T = np.flatnonzero((counts[group_T] > 1) & (bands_TB[:, band] > 0))
        owners.append(shared_T)
        keys.append(bands_TB[shared_T, band].astype(np.int64) * BANDS + band)
    owner_G = np.concatenate(owners)
    order_G = np.argsort(owner_G, kind="stable")

    @lru_cache(maxsize=CACHED)
    def grams(i: int) -> Grams:
        words = all_words(texts[i])
        return frozenset(tuple(words[k : k + n]) for k in range(max(1, len(words) - n + 1)))

    return _by_owner(owner_G[order_G], np.concatenate(keys)[order_G]), lambda i, near: near, grams


def _numbered(texts: Sequence[str], n: int, numbers: dict[str, int]) -> tuple[Any, Any]:
    """Words of all texts as numbers from 1, short texts filled up to n with 0; and how many each has."""
    words, sizes = array("i"), []
    for text in texts:
        own = [numbers.setdefault(word, len(numbers) + 1) for word in all_words(text)]
        if 0 < len(own) < n:
            own += [0] * (n - len(own))
        words.extend(own)
        sizes.append(len(own))
    return np.frombuffer(words, np.int32) if words else np.zeros(0, np.int32), np.array(sizes, np.int64)


def _windows(words_W: Any, sizes_T: Any, n: int) -> tuple[list[Any], Any]:
    """First, second ... n-th word of every n-gram, and the text it is in."""
    owner_W = np.repeat(np.arange(len(sizes_T)), sizes_T)
    total = max(0, len(words_W) - n + 1)
    inside_G = np.flatnonzero(owner_W[:total] == owner_W[n - 1 : n - 1 + total])
    return [words_W[k + inside_G].astype(np.int64) for k in range(n)], owner_W[inside_G]


def _packed(windows: Sequence[Any], vocabulary: int) -> Any:
    """One number per n-gram, the same for the same words and for no others."""
    packed_G, size = windows[0], vocabulary
    for words_G in windows[1:]:
        if size * vocabulary >= 2**62:
            distinct, packed_G = np.unique(packed_G, return_inverse=True)
            size = len(distinct)
        packed_G, size = packed_G * vocabulary + words_G, size * vocabulary
    return packed_G


def _mixed(values: Any) -> Any:
    """Every bit of a 64-bit number spread over all of them (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _by_owner(owner_G: Any, keys_G: Any) -> Iterator[tuple[int, list[int]]]:
    """(owner, its keys), owners ascending."""
    owners, starts = np.unique(owner_G, return_index=True)
    for owner, start, end in zip(owners.tolist(), starts.tolist(), [*starts[1:].tolist(), len(keys_G)], strict=False):
        yield owner, keys_G[start:end].tolist()

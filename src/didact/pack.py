"""Tokens -> Batch: which rows make a step, how a step is cut into micro-batches, and the tensors.

The order is a pure function of (seed, epoch, lengths), so a run resumes at any step without a stored sampler. A packed
batch is one flat axis without padding; a beginning that several rows share stands on it once. Where a model cannot
keep sequences apart, each row is a row of the tensor and padding stands on the right, where it cannot be seen.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from didact.render import Tokens

TRUNK_COST = 24  # a shared beginning must save more tokens than this: it makes more groups of attention


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start..end of the flat axis; they continue those of span number `trunk`, or nothing if it is -1."""

    start: int
    end: int
    trunk: int = -1

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors: a loss is read at place reads_N of the flattened (B, T), of token labels_N times weights_N.

    spans: what lies on the flat axis of a packed batch (B = 1); empty if each row is a row of the tensor. pieces: of
    each span the row and which of its tokens. inputs: what else the model is given, for models that are not causal and
    those that see. images: in the order of their places.
    """

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    reads_N: torch.Tensor
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    instance_ids: tuple[str, ...]
    rows: tuple[int, ...]
    spans: tuple[Span, ...] = ()
    pieces: tuple[tuple[int, int, int], ...] = ()
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        names = ("ids_BT", "positions_BT", "reads_N", "labels_N", "weights_N")
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, **{name: getattr(self, name).to(device) for name in names})


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; the last, smaller step counts."""
    return -(-n // batch_size)


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The shuffled row numbers of one epoch."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # text seeding is stable over Python versions
    return tuple(order)


def step_rows(n: int, batch_size: int, seed: int, step: int, first: int = 0) -> list[int]:
    """The rows of optimiser step `step` (0-based, counted over all epochs).

    In the first epoch step `first` and step 0 change places: `heaviest` names it, so that memory that is not enough
    shows at once.
    """
    per_epoch = steps_per_epoch(n, batch_size)
    epoch, within = divmod(step, per_epoch)
    if epoch == 0 and first and within in (0, first):
        within = first - within
    return list(epoch_order(n, seed, epoch)[within * batch_size : (within + 1) * batch_size])


def heaviest(lengths: Sequence[int], batch_size: int, seed: int) -> int:
    """The whole step of the first epoch with most tokens."""
    n = len(lengths)
    whole = range(n // batch_size or 1)
    weights = [sum(lengths[row] for row in step_rows(n, batch_size, seed, step)) for step in whole]
    return max(whole, key=lambda step: (weights[step], -step))


def best_fit(rows: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows into as few micro-batches of `max_tokens` as best-fit decreasing finds; a longer row stands alone."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, number of the bin), sorted
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        at = bisect.bisect_left(spaces, (lengths[row], -1))
        free, number = spaces.pop(at) if at < len(spaces) else (max_tokens, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        if free > lengths[row]:
            bisect.insort(spaces, (free - lengths[row], number))
    return bins


def by_length(rows: Sequence[int], lengths: Sequence[int], max_tokens: int, call_cost: int = 128) -> list[list[int]]:
    """Cut the rows of a step into groups of like length, so that padding and calls together cost least.

    Exact by dynamic programming over the sorted lengths. No group has more than `max_tokens` tokens with its padding
    (a single longer row makes its own group). One more forward and backward costs about as much as `call_cost` tokens
    of padding.
    """
    order = sorted(rows, key=lambda row: (lengths[row], row))
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        options = [
            (best[start][0] + (end - start) * longest + call_cost, start)
            for start in range(end)
            if end - start == 1 or (end - start) * longest <= max_tokens
        ]
        best.append(min(options))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def batch(data: Sequence[Tokens], rows: Sequence[int], pad: int) -> Batch:
    """Each row a row of the tensor, padded on the right to the longest."""
    import torch

    length = max(len(data[row].ids) for row in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    reads = []
    for i, row in enumerate(rows):
        ids[i, : len(data[row].ids)] = torch.as_tensor(data[row].ids)
        reads.append(_read(data[row].weights) + i * length)
    images = tuple(image for row in rows for image in data[row].images)
    return _batch(ids, torch.arange(length).expand(len(rows), -1), reads, (), data, rows, images)


def flat(data: Sequence[Tokens], rows: Sequence[int], share: bool = True) -> Batch:
    """All rows on one axis without padding; what several begin with stands there once."""
    import numpy as np
    import torch

    spans, whence, pieces, reads = list[Span](), list[tuple[int, int, int]](), list[Any](), {}
    images = list[str]()
    families = shared_beginnings(told_apart(data, rows)) if share else [([i], 0) for i in range(len(rows))]
    end = 0
    for members, shared in families:
        trunk, start = (len(spans), end) if shared else (-1, end)
        if shared:
            pieces.append(data[rows[members[0]]].ids[:shared])
            whence.append((rows[members[0]], 0, shared))
            images += _images(data[rows[members[0]]], 0, shared)
            spans.append(Span(end, end + shared))
            end += shared
        for i in members:
            own = data[rows[i]].ids[shared:]
            pieces.append(own)
            whence.append((rows[i], shared, shared + len(own)))
            images += _images(data[rows[i]], shared, len(data[rows[i]].ids))
            spans.append(Span(end, end + len(own), trunk))
            read_N = _read(data[rows[i]].weights)
            reads[i] = np.where(read_N < shared, read_N + start, read_N - shared + end)
            end += len(own)
    ids = torch.from_numpy(np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces]))
    ahead = [len(spans[span.trunk]) if span.trunk >= 0 else 0 for span in spans]
    positions = torch.cat([torch.arange(a, a + len(span)) for a, span in zip(ahead, spans, strict=True)])
    in_order = [reads[i] for i in range(len(rows))]
    one = _batch(ids[None], positions[None], in_order, tuple(spans), data, rows, tuple(images))
    return replace(one, pieces=tuple(whence))


def told_apart(data: Sequence[Tokens], rows: Sequence[int]) -> list[list[int]]:
    """The ids of rows, those of pictures replaced by a number of their picture: only the same ones are alike."""
    numbers: dict[str, int] = {}
    found = []
    for row in rows:
        ids = data[row].ids
        if data[row].media:
            ids = list(ids)
            for image, (start, end) in zip(data[row].images, data[row].media, strict=True):
                ids[start:end] = [-1 - numbers.setdefault(image, len(numbers))] * (end - start)
        found.append(ids)
    return found


def _images(tokens: Tokens, start: int, end: int) -> list[str]:
    """The pictures of a row that stand between two places."""
    return [image for image, (a, _) in zip(tokens.images, tokens.media, strict=False) if start <= a < end]


def shared_beginnings(ids: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Families of rows and how many tokens each family begins with in common, such that most tokens are saved.

    Exact by dynamic programming over the rows in alphabetical order. A row keeps at least one token of its own.
    """
    lists = [row if isinstance(row, list) else list(row) for row in ids]
    order = sorted(range(len(lists)), key=lambda i: lists[i])
    common = [0, *(_common(lists[a], lists[b]) for a, b in itertools.pairwise(order))]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        found, shared = (best[end - 1][0], end - 1, 0), 1 << 30
        for start in range(end - 2, -1, -1):
            shared = min(shared, common[start + 1])
            if not shared:
                break
            saved = best[start][0] + (end - start - 1) * shared - TRUNK_COST
            if saved > found[0]:
                found = (saved, start, shared)
        best.append(found)
    families, end = list[tuple[list[int], int]](), len(order)
    while end:
        _, start, shared = best[end]
        families.append((order[start:end], shared))
        end = start
    return families[::-1]


def _common(a: list[int], b: list[int]) -> int:
    """How many tokens two rows begin with in common, at most all but one of each."""
    low, high = 0, min(len(a), len(b)) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _read(weights: Sequence[float]) -> Any:
    """The places whose next token is supervised."""
    import numpy as np

    return np.flatnonzero(np.asarray(weights[1:]))


def _batch(
    ids: Any, positions: Any, reads: Any, spans: tuple[Span, ...], data: Any, rows: Sequence[int], images: Any
) -> Batch:
    import numpy as np
    import torch

    labels, weights = [], []
    for row in rows:
        weight_L = np.asarray(data[row].weights[1:], dtype=np.float32)
        chosen = np.flatnonzero(weight_L)
        labels.append(np.asarray(data[row].ids[1:], dtype=np.int64)[chosen])
        weights.append(weight_L[chosen])
    return Batch(
        ids,
        positions,
        torch.from_numpy(np.concatenate(reads)),
        torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(np.concatenate(weights)),
        tuple(data[row].instance_id for row in rows),
        tuple(rows),
        spans,
        images=images,
    )

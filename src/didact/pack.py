"""Tokens -> Batch: which rows make a step, how a step is cut into micro-batches, and the tensors.

The order is a pure function of (seed, epoch), so a run resumes at any step without a stored sampler. Rows are never
joined: each is its own segment and padding stands on the right, where a causal model cannot see it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from didact.render import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors. segments_BT: 0 is padding, n the n-th instance; weights_BT: loss weight of each token."""

    ids_BT: torch.Tensor
    weights_BT: torch.Tensor
    positions_BT: torch.Tensor
    segments_BT: torch.Tensor
    instance_ids: tuple[str, ...]
    rows: tuple[int, ...]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; the last, smaller step counts."""
    return -(-n // batch_size)


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The shuffled row numbers of one epoch."""
    order = list(range(n))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # text seeding is stable over Python versions
    return tuple(order)


def step_rows(n: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The rows of optimiser step `step` (0-based, counted over all epochs)."""
    epoch, within = divmod(step, steps_per_epoch(n, batch_size))
    return list(epoch_order(n, seed, epoch)[within * batch_size : (within + 1) * batch_size])


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], max_tokens: int, call_cost: int = 128
) -> list[list[int]]:
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


def batch(data: Sequence[Tokens], rows: Sequence[int], pad: int, multiple: int = 1) -> Batch:
    """The tensors of some rows, padded on the right to the longest (rounded up to `multiple`)."""
    import torch

    length = -(-max(len(data[row].ids) for row in rows) // multiple) * multiple
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(data[row].ids)
        ids[i, :n] = torch.tensor(data[row].ids)
        weights[i, :n] = torch.tensor(data[row].weights)
        positions[i, :n] = torch.arange(n)
        segments[i, :n] = i + 1
    return Batch(ids, weights, positions, segments, tuple(data[row].instance_id for row in rows), tuple(rows))

"""Which rows make a step, and how they are cut."""

from __future__ import annotations

import itertools

from didact.pack import batch, epoch_order, micro_batches, step_rows, steps_per_epoch
from didact.render import Tokens


def test_every_row_once_per_epoch_in_an_order_of_its_own() -> None:
    steps = steps_per_epoch(23, 5)
    epochs = [[row for s in range(steps) for row in step_rows(23, 5, 1, e * steps + s)] for e in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(23))] * 2
    assert epochs[0] != epochs[1]
    assert epoch_order(23, 1, 0) != epoch_order(23, 2, 0)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert epoch_order(6, 0, 0) == (0, 5, 1, 4, 3, 2)


def cost(groups: list[list[int]], lengths: list[int], call: int) -> int:
    return sum(len(group) * max(lengths[row] for row in group) + call for group in groups)


def test_the_cut_costs_least_and_obeys_the_limit() -> None:
    lengths = [3, 90, 4, 88, 50, 3, 7]
    rows = list(range(len(lengths)))
    groups = micro_batches(rows, lengths, max_tokens=200, call_cost=20)
    assert sorted(row for group in groups for row in group) == rows
    assert all(len(group) * max(lengths[row] for row in group) <= 200 for group in groups)
    ordered = sorted(rows, key=lambda row: (lengths[row], row))
    every = []
    for k in range(len(rows)):
        for cuts in itertools.combinations(range(1, len(rows)), k):
            edges = [0, *cuts, len(rows)]
            cut = [ordered[a:b] for a, b in itertools.pairwise(edges)]
            if all(len(group) * max(lengths[row] for row in group) <= 200 for group in cut):
                every.append(cost(cut, lengths, 20))
    assert cost(groups, lengths, 20) == min(every)


def test_a_row_longer_than_the_limit_stands_alone() -> None:
    assert [2] in micro_batches([0, 1, 2], [5, 5, 500], max_tokens=100)


def test_batch_tensors() -> None:
    data = [Tokens([5, 6, 7], [0.0, 1.0, 1.0], [None] * 3, "a"), Tokens([8], [1.0], [None], "b")]
    one = batch(data, [1, 0], pad=9)
    assert one.ids_BT.tolist() == [[8, 9, 9], [5, 6, 7]]
    assert one.weights_BT.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert one.positions_BT.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert one.segments_BT.tolist() == [[1, 0, 0], [2, 2, 2]]
    assert one.instance_ids == ("b", "a")

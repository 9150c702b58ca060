"""Which rows make a step, and how they are cut."""

from __future__ import annotations

import itertools

from didact.pack import (
    TRUNK_COST,
    Batch,
    batch,
    best_fit,
    by_length,
    epoch_order,
    flat,
    heaviest,
    shared_beginnings,
    step_rows,
    steps_per_epoch,
)
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
    groups = by_length(rows, lengths, max_tokens=200, call_cost=20)
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
    assert [2] in by_length([0, 1, 2], [5, 5, 500], max_tokens=100)


def read(one: Batch) -> list[tuple[int, int, float]]:
    """(place, label, weight) of each target."""
    return list(zip(one.reads_N.tolist(), one.labels_N.tolist(), one.weights_N.tolist(), strict=True))


def test_batch_tensors() -> None:
    data = [Tokens([5, 6, 7], [0.0, 1.0, 1.0], [None] * 3, "a"), Tokens([8, 4], [1.0, 0.5], [None] * 2, "b")]
    one = batch(data, [1, 0], pad=9)
    assert one.ids_BT.tolist() == [[8, 4, 9], [5, 6, 7]]
    assert read(one) == [(0, 4, 0.5), (3, 6, 1.0), (4, 7, 1.0)]
    assert (one.instance_ids, one.rows, one.spans) == (("b", "a"), (1, 0), ())
    assert read(batch(data, [1, 0], pad=4)) == read(one)  # padding has no loss, and what looks like it keeps its own


def row(ids: list[int], supervised: int, name: str = "") -> Tokens:
    return Tokens(ids, [0.0] * (len(ids) - supervised) + [1.0] * supervised, [None] * len(ids), name)


def test_a_flat_batch_holds_each_shared_beginning_once_and_every_target() -> None:
    head = list(range(100, 150))
    data = [row([*head, 1, 2, 3], 2), row([7, 8, 9], 1), row([*head, 4, 5], 1), row([*head, 1, 6], 2)]
    one = flat(data, [0, 1, 2, 3])
    assert one.ids_BT.shape == (1, 3 + 50 + 3 + 2 + 2)
    ids, positions = one.ids_BT[0].tolist(), one.positions_BT[0].tolist()
    found = {}
    for span in one.spans:
        before = one.spans[span.trunk] if span.trunk >= 0 else None
        assert positions[span.start : span.end] == list(range(*(n + len(before or ()) for n in (0, len(span)))))
        if (
            not any(other.trunk == number for number, other in enumerate(one.spans) if other is not span)
            or span.trunk >= 0
        ):
            whole = (ids[before.start : before.end] if before else []) + ids[span.start : span.end]
            found[tuple(whole)] = span
    rows = [tuple(tokens.ids) for tokens in data]
    assert set(rows) <= set(found)
    expected = [
        (i, label) for i, tokens in enumerate(data) for label in tokens.ids[len(tokens.ids) - tokens.supervised :]
    ]
    assert one.labels_N.tolist() == [label for _, label in expected]
    for (i, label), (place, _, weight) in zip(expected, read(one), strict=True):
        assert weight == 1.0
        at = data[i].ids.index(label) - 1
        assert ids[place] == data[i].ids[at]
        assert positions[place] == at
    assert flat(data, [0, 1, 2, 3], share=False).ids_BT.shape == (1, 53 + 3 + 52 + 52)


def test_what_is_shared_saves_most() -> None:
    """Against every way to cut the alphabetical order."""
    a, b = list(range(40)), list(range(60))
    rows = [[*a, 100], [*a, 101], [*b, 102], [*b, 103], [*b, 102, 1], [200, 201]]
    families = shared_beginnings(rows)
    assert sorted(i for members, _ in families for i in members) == list(range(6))
    for members, shared in families:
        assert all(rows[i][:shared] == rows[members[0]][:shared] and len(rows[i]) > shared for i in members)

    def saved(some: list[tuple[list[int], int]]) -> int:
        return sum((len(members) - 1) * shared - TRUNK_COST for members, shared in some if shared)

    order, best = sorted(range(6), key=lambda i: rows[i]), 0
    for k in range(6):
        for cuts in itertools.combinations(range(1, 6), k):
            parts = [order[x:y] for x, y in itertools.pairwise([0, *cuts, 6])]
            common = [
                next(
                    (n for n, column in enumerate(zip(*(rows[i] for i in part), strict=False)) if len({*column}) > 1), 0
                )
                for part in parts
            ]
            best = max(best, saved([(p, c if len(p) > 1 else 0) for p, c in zip(parts, common, strict=True)]))
    assert saved(families) == best > 0


def test_rows_that_are_equal_keep_a_token_of_their_own() -> None:
    (members, shared), *_ = shared_beginnings([list(range(90))] * 3)
    assert (sorted(members), shared) == ([0, 1, 2], 89)


def test_best_fit_fills_micro_batches_and_loses_nothing() -> None:
    lengths = [50, 50, 30, 70, 20, 80, 500]
    bins = best_fit(range(7), lengths, 100)
    assert sorted(row for some in bins for row in some) == list(range(7))
    assert [6] in bins
    assert sorted(sum(lengths[row] for row in some) for some in bins) == [100, 100, 100, 500]


def test_the_heaviest_step_comes_first_in_the_first_epoch_only() -> None:
    lengths = [10] * 20
    lengths[epoch_order(20, 3, 0)[13]] = 90
    first = heaviest(lengths, 5, 3)
    assert first == 2
    plain = [step_rows(20, 5, 3, step) for step in range(8)]
    moved = [step_rows(20, 5, 3, step, first) for step in range(8)]
    assert moved == [plain[2], plain[1], plain[0], *plain[3:]]

"""The optimiser: torch's own numbers, and rows without a gradient left alone without changing a bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered, weights

from didact import adamw
from didact.adamw import AdamW, add, by_rows
from didact.methods.full import FullConfig
from didact.model import load
from didact.tune import tune


def trained(kind: str, decay: float, rows: bool) -> list[torch.Tensor]:
    """An embedding, a matrix and a vector after five steps, in each of which other rows are read."""
    torch.manual_seed(0)
    embed, linear = torch.nn.Embedding(40, 16), torch.nn.Linear(16, 3)
    all_ = [embed.weight, linear.weight, linear.bias]
    if kind == "torch":
        groups = [{"params": all_[:2], "weight_decay": decay}, {"params": all_[2:], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=adamw.BETAS, fused=True)
    else:
        optimizer = AdamW(all_, 1e-2, decay)
    with by_rows(embed, least=1 if rows else 1 << 40):
        for ids in ([1, 2, 3], [3, 3, 9], [30], [1, 39], [5, 6, 7]):
            linear(embed(torch.tensor(ids))).square().sum().backward()
            assert embed.weight.grad.is_sparse == rows
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return [weight.detach() for weight in all_]


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("rows", [False, True])
def test_the_numbers_are_torchs(decay: float, rows: bool) -> None:
    for own, expected in zip(trained("own", decay, rows), trained("torch", decay, False), strict=True):
        assert torch.equal(own, expected)


def test_only_rows_that_had_a_gradient_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    embed, updated = torch.nn.Embedding(100_000, 16), list[int]()
    real = adamw._fused
    monkeypatch.setattr(
        adamw, "_fused", lambda all_, how: (updated.extend(len(w[0]) for w in all_), real(all_, how))[1]
    )
    optimizer = AdamW([embed.weight], 1e-2, 0.0)
    with by_rows(embed, least=1):
        for ids in ([5, 6], [6, 7, 8]):
            embed(torch.tensor(ids)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert updated == [2, 4]  # rows 5 and 6 go on by their momentum
    assert optimizer.state[embed.weight]["seen"].nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained("own", 0.0, True)
    monkeypatch.setattr(adamw, "BLOCK", 32)
    for own, expected in zip(trained("own", 0.0, True), whole, strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize("first", ["rows", "whole"])
@pytest.mark.parametrize("second", ["rows", "whole"])
def test_gradients_by_rows_and_whole_ones_add_up(first: str, second: str) -> None:
    """A tied head gives a whole gradient, the embedding one by rows, and micro-batches more of both."""
    torch.manual_seed(0)
    weight, expected = torch.nn.Parameter(torch.zeros(6, 4)), torch.zeros(6, 4)
    for kind in (first, second):
        rows = torch.tensor([[4, 1, 4]])
        part = torch.sparse_coo_tensor(rows, torch.randn(3, 4), (6, 4), check_invariants=False)
        part = part if kind == "rows" else torch.randn(6, 4)
        expected += part.to_dense()
        add(weight, part.clone())
    assert torch.equal(weight.grad.to_dense(), expected)


# fp32 with an own head: bit for bit. Tied, the head's part is added first; in bf16 by rows is summed in fp32.
@pytest.mark.parametrize(
    ("kind", "precision", "near"), [("qwen3", "fp32", 0.0), ("llama", "fp32", 1e-4), ("qwen3", "bf16", 0.02)]
)
def test_a_run_by_rows_ends_in_the_same_weights(
    kind: str, precision: str, near: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found, calls = make_model(tmp_path / kind, kind), [], list[int]()
    real = adamw._by_rows
    monkeypatch.setattr(adamw, "_by_rows", lambda *a: (calls.append(1), real(*a))[1])
    start = weights(load(str(folder)))
    for least in (1, 1 << 40):
        monkeypatch.setattr(by_rows.__wrapped__, "__defaults__", (least,))
        loaded = load(str(folder))
        changes = {"precision": precision, "max_tokens": 10_000, "clip": 0.0}  # a norm is rounded
        tune(loaded, FullConfig(), rendered(loaded), EXACT.model_copy(update=changes))
        assert bool(calls) == (least == 1 and kind == "qwen3")
        calls.clear()
        found.append(weights(loaded))
    for name, own in found[0].items():
        assert (own - found[1][name]).norm() <= near * (own - start[name]).norm()

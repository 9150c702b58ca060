"""LOMO takes the steps of plain SGD and never holds more of the gradient than one tensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered, weights

from didact.errors import UsageError
from didact.methods import METHODS
from didact.methods.full import FullConfig
from didact.methods.lomo import LomoConfig
from didact.model import load
from didact.tune import tune

CONFIG = EXACT.model_copy(update={"learning_rate": 0.1, "epochs": 1.0})


def plain_sgd(trained: Any, peak: float, config: Any, device: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(trained.values()), lr=peak)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("precision", "clip"), [("fp32", 0.0), ("fp32", 0.05), ("bf16", 0.05)])
def test_it_is_sgd(kind: str, precision: str, clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / kind, kind)  # gpt2 drops at random: both backwards must drop the same
    config = CONFIG.model_copy(update={"clip": clip, "precision": precision})
    found, norms = [], list[list[float]]()
    monkeypatch.setitem(METHODS, "full", dataclasses.replace(METHODS["full"], optimizer=plain_sgd))
    for method in (LomoConfig(), FullConfig()):
        loaded, seen = load(str(folder)), list[float]()
        base = weights(loaded)
        tune(loaded, method, rendered(loaded), config, report=lambda step, seen=seen: seen.append(step.gradient_norm))
        found.append(weights(loaded))
        norms.append(seen)
    ours, theirs = found
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert clip == 0 or min(norms[1]) > clip, "nothing was clipped"
    for name, weight in theirs.items():
        moved = float((weight - base[name]).abs().max())
        assert moved > 0
        assert float((ours[name] - weight).abs().max()) <= 1e-5 * max(moved, 0.01), name


def test_no_more_than_one_tensor_of_the_gradient_is_held(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, held = load(str(tiny_llama)), list[int]()
    real = METHODS["lomo"].optimizer
    assert real is not None

    def watched(trained: Any, *others: Any) -> torch.optim.Optimizer:
        def count(weight: torch.Tensor) -> None:
            held.append(sum(w.grad.numel() for w in trained.values() if w.grad is not None))

        for weight in trained.values():
            weight.register_post_accumulate_grad_hook(count)
        return real(trained, *others)

    monkeypatch.setitem(METHODS, "lomo", dataclasses.replace(METHODS["lomo"], optimizer=watched))
    tune(loaded, LomoConfig(), rendered(loaded), CONFIG)
    assert max(held) == max(weight.numel() for weight in loaded.model.parameters())
    assert all(weight.grad is None for weight in loaded.model.parameters())


def test_a_step_that_does_not_fit_in_one_piece_is_refused(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    base = weights(loaded)
    with pytest.raises(UsageError, match=r"in one piece, and step 1 has (\d+) tokens - tune.max_tokens: \1"):
        tune(loaded, LomoConfig(), rendered(loaded), CONFIG.model_copy(update={"max_tokens": 100}))
    assert all(torch.equal(base[name], weight) for name, weight in weights(loaded).items())


def test_decay_is_refused(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    with pytest.raises(UsageError, match="no weight decay"):
        tune(loaded, LomoConfig(), rendered(loaded), CONFIG.model_copy(update={"weight_decay": 0.1}))

"""BitFit: the biases move, all else stays, and a base without biases is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered, weights

from didact.errors import UsageError
from didact.methods.bitfit import BitfitConfig
from didact.model import load
from didact.tune import save, tune


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_only_biases_move_and_the_saved_model_has_them(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    loaded, losses = load(str(folder)), list[float]()
    base = weights(loaded)
    config = EXACT.model_copy(update={"epochs": 10.0, "learning_rate": 1e-2})
    result = tune(loaded, BitfitConfig(), rendered(loaded), config, report=lambda step: losses.append(step.loss))
    after = weights(loaded)
    moved = {name for name in base if not torch.equal(base[name], after[name])}
    assert moved
    assert all(name.endswith(".bias") for name in moved)
    assert result.trainable == sum(weight.numel() for name, weight in base.items() if name.endswith(".bias"))
    assert losses[-1] < losses[0]
    save(loaded, BitfitConfig(), tmp_path / "tuned")
    again = weights(load(str(tmp_path / "tuned")))
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_a_base_without_biases_is_refused(tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path / "qwen3", "qwen3")))
    for name, weight in loaded.model.named_parameters():
        assert not name.endswith(".bias"), weight.shape
    with pytest.raises(UsageError, match="no biases"):
        tune(loaded, BitfitConfig(), rendered(loaded), EXACT)

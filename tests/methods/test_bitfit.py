"""BitFit: the biases move, all else stays, and a base without biases is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered, weights

from didact.errors import UsageError
from didact.forward import Forward
from didact.methods import attached, prefix
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
    for refused in (
        lambda: tune(loaded, BitfitConfig(), rendered(loaded), EXACT),
        lambda: attached.try_on(loaded.folder, BitfitConfig()),
    ):
        with pytest.raises(UsageError, match=r"no biases for bitfit to train - .*method.add: true"):
            refused()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox"])
def test_biases_are_added_on_request_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / kind, kind)
    loaded = load(str(folder))
    base, before = weights(loaded), loaded.model.state_dict().keys()
    method = BitfitConfig(add=True)
    assert attached.try_on(folder, method)[0] >= sum(w.numel() for n, w in base.items() if n.endswith(".bias"))
    config = EXACT.model_copy(update={"learning_rate": 1e-2})
    tune(loaded, method, rendered(loaded), config)
    after = weights(loaded)
    added = after.keys() - base.keys()
    assert len(added) == (14 if kind == "qwen3" else 0)
    assert all(name.endswith(".bias") for name in added)
    assert not any("lm_head" in name or "embed_out" in name for name in added)
    assert {n for n in base if not torch.equal(base[n], after[n])} == {n for n in base if n.endswith(".bias")}
    save(loaded, method, tmp_path / "tuned")
    again = weights(load(str(tmp_path / "tuned")))
    assert again.keys() == after.keys()
    assert all(torch.equal(again[name], after[name]) for name in after)
    assert loaded.model.state_dict().keys() - before == added


@pytest.mark.parametrize(("kind", "moves"), [("gpt2", False), ("opt", False), ("llama", True), ("gpt_neox", True)])
def test_a_key_bias_has_a_gradient_only_with_rotary_positions(kind: str, moves: bool, tmp_path: Path) -> None:
    """Without rotation it shifts all scores of a query alike, which the softmax does not see."""
    loaded = load(str(make_model(tmp_path / kind, kind)))
    attached.attach(loaded, BitfitConfig())
    data = rendered(loaded)
    for weight in loaded.model.parameters():  # larger scores than at first, so that attention is not flat
        weight.data.mul_(3.0 if weight.ndim > 1 else 1.0)
    loaded.model.eval()
    way = Forward()
    way.loss(loaded, way.batch(loaded, data, range(8))).backward()
    found = {"key": list[float](), "query": list[float]()}
    for number, made in enumerate(prefix.places_of(loaded.model)):
        bias = made.module.bias.grad
        if number % 2 == 0:
            found["key"].append(float(bias[made.columns].norm()))
    queries = [w.grad for n, w in loaded.model.named_parameters() if n.endswith((".q_proj.bias", ".c_attn.bias"))]
    queries += [w.grad for n, w in loaded.model.named_parameters() if n.endswith("query_key_value.bias")]
    found["query"] = [float(g.norm()) for g in queries]
    share = max(found["key"]) / max(found["query"])
    assert share > 1e-3 if moves else share < 1e-5, share

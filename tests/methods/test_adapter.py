"""Adapters: how many, where, how large, and nearly nothing at first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_zoo import logits

from didact.errors import UsageError
from didact.methods import attached, places
from didact.methods.adapter import AdapterConfig
from didact.model import load

IDS = list(range(3, 40))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "opt", "gpt_neox"])
@pytest.mark.parametrize("which", ["houlsby", "pfeiffer"])
def test_each_layer_has_its_bottlenecks_and_hardly_changes(kind: str, which: str, tmp_path: Path) -> None:
    loaded = load(str(make_model(tmp_path / kind, kind)))
    before = logits(loaded, IDS)
    attached.attach(loaded, AdapterConfig(size=4, places=which))
    assert 0 < float((logits(loaded, IDS) - before).abs().max()) < 1e-3
    planted = [name for name, _ in places.planted(loaded.model)]
    per_layer = 2 if which == "houlsby" else 1
    assert len(planted) == 2 * per_layer
    hidden, size = 32, 4
    trained = {n: w.numel() for n, w in loaded.model.named_parameters() if w.requires_grad}
    own = sum(n for name, n in trained.items() if ".adapter." in name)
    assert own == len(planted) * (2 * hidden * size + size + hidden)
    rest = {name for name in trained if ".adapter." not in name}
    assert rest
    assert all("norm" in name or "ln_" in name for name in rest), rest


def test_they_stand_behind_the_projections_back_to_the_hidden_size(tmp_path: Path) -> None:
    expected = {
        "llama": {"self_attn.o_proj", "mlp.down_proj"},
        "gpt2": {"attn.c_proj", "mlp.c_proj"},
        "opt": {"self_attn.out_proj", "fc2"},
        "gpt_neox": {"attention.dense", "mlp.dense_4h_to_h"},
    }
    for kind, names in expected.items():
        model = load(str(make_model(tmp_path / kind, kind))).model
        found = {name.split(".0.")[-1] for name, _, _ in places.writers(model) if ".0." in name}
        assert found == names


def test_norms_stay_if_asked(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    attached.attach(loaded, AdapterConfig(norms=False))
    assert all(".adapter." in n for n, w in loaded.model.named_parameters() if w.requires_grad)


def test_wider_than_the_layer_is_refused_before_weights_are_read(tiny_llama: Path) -> None:
    with pytest.raises(UsageError, match=r"method.size: a bottleneck of 33 is wider than the layer \(32\)"):
        attached.try_on(tiny_llama, AdapterConfig(size=33))


def test_the_bottleneck_is_what_the_paper_says(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    layer = loaded.model.model.layers[0].mlp.down_proj
    x = torch.randn(1, 2, 64)
    plain = layer(x)
    attached.attach(loaded, AdapterConfig(size=4))
    child = layer.adapter
    torch.nn.init.normal_(child.up.weight)
    torch.nn.init.normal_(child.down.weight)
    hidden = torch.nn.functional.gelu(plain @ child.down.weight.T + child.down.bias)
    assert torch.allclose(layer(x), plain + hidden @ child.up.weight.T + child.up.bias, atol=1e-5)

"""Exactly d_I numbers move, the decoder stays, and a space goes with its base and its size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered

from didact.errors import UsageError
from didact.methods import attached
from didact.methods.intrinsic import IntrinsicConfig, open_space, write_space
from didact.methods.projection import ProjectionConfig
from didact.model import Loaded, load, load_tuned
from didact.tune import save, tune


def space(folder: Path, loaded: Loaded, dimension: int = 3, length: int = 4) -> Path:
    """A decoder with a hidden layer, as `subspace` writes it."""
    torch.manual_seed(0)
    size = length * loaded.model.config.hidden_size
    tensors = {
        "origin": torch.randn(size), "outer": torch.randn(size, 8), "inner": torch.randn(8, dimension),
        "bias": torch.randn(8),
    }  # fmt: skip
    write_space(folder, tensors, loaded.model, length)
    return folder


def test_in_a_space_only_its_numbers_are_trained_and_the_decoder_is_frozen(tiny_llama: Path, tmp_path: Path) -> None:
    loaded, losses = load(str(tiny_llama)), list[float]()
    place = space(tmp_path / "space", loaded)
    base = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    method = IntrinsicConfig(dimension=3, length=4, space=str(place))
    config = EXACT.model_copy(update={"learning_rate": 0.1, "epochs": 6.0})
    result = tune(loaded, method, rendered(loaded), config, report=lambda step: losses.append(step.loss))
    assert result.trainable == 3
    assert losses[-1] < losses[0]
    module = loaded.model.get_input_embeddings().prompt
    assert [name for name, weight in module.named_parameters() if weight.requires_grad] == ["numbers"]
    tensors, _ = open_space(place, loaded.model)
    assert all(torch.equal(dict(module.named_buffers())[name], tensor) for name, tensor in tensors.items())
    after = loaded.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in base.items())
    by_hand = tensors["origin"] + torch.tanh(tensors["inner"] @ module.numbers + tensors["bias"]) @ tensors["outer"].T
    assert torch.allclose(module().flatten(), by_hand, atol=1e-5)
    save(loaded, method, tmp_path / "tuned")
    again = load_tuned(tmp_path / "tuned")
    assert again.attached is not None
    assert again.attached.method.type == "prompt"
    assert torch.allclose(again.model.get_input_embeddings().prompt(), module().detach())
    other, _ = open_space(tmp_path / "tuned" / "adapter", loaded.model)  # the next task is tuned in it
    assert all(torch.equal(other[name], tensor) for name, tensor in tensors.items())


def test_a_space_of_another_base_or_size_or_none_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_llama))
    place = str(space(tmp_path / "space", loaded))
    with pytest.raises(UsageError, match=r"3 numbers for 4 tokens - set method.dimension: 3 and method.length: 4"):
        attached.attach(loaded, IntrinsicConfig(dimension=5, length=4, space=place))
    other = load(str(make_model(tmp_path / "other", seed=1)))
    with pytest.raises(UsageError, match="found on another base"):
        attached.attach(other, IntrinsicConfig(dimension=3, length=4, space=place))
    with pytest.raises(UsageError, match="no space can be read here"):
        attached.attach(other, IntrinsicConfig(dimension=3, length=4, space=str(tmp_path / "nothing")))
    about = Path(place) / "space.json"
    about.write_text(json.dumps({"dimension": "many"}))
    with pytest.raises(UsageError, match="no space can be read here"):
        attached.attach(other, IntrinsicConfig(dimension=3, length=4, space=place))
    with pytest.raises(UsageError, match="a prompt of 600 tokens fills the context"):
        attached.try_on(tiny_llama, IntrinsicConfig(length=600))


def test_a_projection_moves_every_matrix_along_its_numbers_and_merges(tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load(str(tiny_llama))
    torch.manual_seed(3)
    attached.attach(loaded, ProjectionConfig(dimension=7))
    trained = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    assert [weight.numel() for weight in trained.values()] == [7]
    layer = loaded.model.model.layers[0].mlp.up_proj
    (numbers,) = trained.values()
    with torch.no_grad():
        numbers.copy_(torch.arange(1.0, 8.0))
        moved = layer.sketch()
    assert set(moved.abs().unique().tolist()) == set(range(1, 8))
    shares = [(moved.abs() == n).float().mean().item() for n in range(1, 8)]
    assert max(shares) < 2 * min(shares)
    x = torch.randn(1, 2, 32)
    assert torch.allclose(layer(x), x @ (layer.weight + moved).T + layer.bias, atol=1e-4)
    attached.detach(loaded)
    assert not hasattr(layer, "sketch")
    config = EXACT.model_copy(update={"max_steps": 2})
    result = tune(loaded, ProjectionConfig(dimension=7), rendered(loaded), config)
    assert result.trainable == 7
    ids = torch.arange(5, 40)[None]
    live = loaded.model(ids).logits
    save(loaded, ProjectionConfig(dimension=7), tmp_path / "tuned")
    assert torch.allclose(load_tuned(tmp_path / "tuned").model(ids).logits, live, atol=1e-4)

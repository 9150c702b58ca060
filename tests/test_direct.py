"""Weights mapped straight from the files: the same model as `from_pretrained` gives, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from didact.direct import direct


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])  # tied and own heads
@pytest.mark.parametrize("half", [False, True])
def test_it_is_the_model_of_from_pretrained(kind: str, half: bool, tmp_path: Path) -> None:
    folder = make_model(tmp_path, kind)
    if half:
        held = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    before = torch.get_rng_state()
    own, other = direct(folder, AutoModelForCausalLM), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert own is not None
    assert type(own) is type(other)
    assert torch.equal(torch.get_rng_state(), before)
    a, b = tensors(own), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
    assert len(list(own.parameters())) == len(list(other.parameters()))
    assert all(weight.requires_grad for weight in own.parameters())
    assert own.config.to_dict() == other.config.to_dict()
    assert own.generation_config.to_dict() == other.generation_config.to_dict()
    assert not own.training
    ids = torch.arange(20)[None]
    assert torch.equal(own(ids).logits, other(ids).logits)


@pytest.mark.parametrize("fault", ["lacks", "more", "shape", "cut", "quantised"])
def test_what_is_not_as_the_model_says_is_left_to_from_pretrained(fault: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama")
    path = folder / "model.safetensors"
    held = load_file(path)
    name = next(name for name in held if "up_proj.weight" in name)
    if fault == "lacks":
        del held[name]
    elif fault == "more":
        held["extra"] = torch.zeros(2)
    elif fault == "shape":
        held[name] = held[name][:-1].clone()
    elif fault == "quantised":
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8"}
        (folder / "config.json").write_text(json.dumps(config))
    save_file(held, path, metadata={"format": "pt"})
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    assert direct(folder, AutoModelForCausalLM) is None


def test_no_first_values_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path, "llama")
    for name in ("_no_grad_normal_", "_no_grad_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda *a, **k: pytest.fail("drawn"))
    assert direct(folder, AutoModelForCausalLM) is not None

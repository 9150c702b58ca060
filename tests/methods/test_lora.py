"""LoRA: what is trained, what peft reads, and merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_model
from test_tune import EXACT, rendered, weights

from didact.errors import UsageError
from didact.methods import METHODS, attached
from didact.methods.lora import LoraConfig, attach, merge
from didact.model import load
from didact.tune import save, tune


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


def test_base_stays_and_loss_falls(folder: Path) -> None:
    base, loaded, losses = weights(load(str(folder))), load(str(folder)), list[float]()
    config = EXACT.model_copy(update={"epochs": 10.0, "learning_rate": 1e-2})
    result = tune(loaded, LoraConfig(rank=4), rendered(loaded), config, report=lambda step: losses.append(step.loss))
    after = {name.replace(".base_layer", ""): weight for name, weight in weights(loaded).items() if "lora_" not in name}
    assert base.keys() == after.keys()
    assert all(torch.equal(base[name], after[name]) for name in base)
    assert losses[-1] < losses[0] - 0.2  # little can be learnt on a random base
    assert result.trainable == sum(w.numel() for name, w in weights(loaded).items() if "lora_" in name)


def test_peft_loads_the_adapter_and_the_merged_model_agrees(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = load(str(folder))
    config = EXACT.model_copy(update={"epochs": 5.0, "learning_rate": 1e-2})
    tune(loaded, LoraConfig(rank=4, alpha=3.0), rendered(loaded), config)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        live = loaded.model(ids).logits
        save(loaded, LoraConfig(rank=4, alpha=3.0), tmp_path / "tuned")
        base = AutoModelForCausalLM.from_pretrained(folder)
        untuned = base(ids).logits
        theirs = PeftModel.from_pretrained(base, tmp_path / "tuned" / "adapter")(ids).logits
        merged = load(str(tmp_path / "tuned")).model(ids).logits
    assert float((live - untuned).abs().max()) > 0.01
    assert torch.allclose(theirs, live, atol=1e-5)
    assert torch.allclose(merged, live, atol=1e-4)


def test_a_merge_that_changes_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    loaded = load(str(folder))
    attached.attach(loaded, LoraConfig(rank=2))
    with pytest.raises(UsageError, match="merging would change nothing"):
        save(loaded, LoraConfig(rank=2), tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_gives_other_logits_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    loaded = load(str(folder))
    tune(loaded, LoraConfig(rank=2), rendered(loaded), EXACT)

    def wrong(model: torch.nn.Module) -> None:
        merge(model)
        next(iter(model.parameters())).data += 1.0

    monkeypatch.setitem(METHODS, "lora", dataclasses.replace(METHODS["lora"], merge=wrong))
    with pytest.raises(UsageError, match="merging the adapter changed the model's answers"):
        save(loaded, LoraConfig(rank=2), tmp_path / "tuned")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (LoraConfig(targets=["q_porj"]), 'method.targets: no linear layer of the model is called "q_porj"'),
        (LoraConfig(rank=99), r"method.rank: rank 99 is larger than the smallest side of the layers \(\d+\)"),
    ],
)
def test_impossible_settings(folder: Path, config: LoraConfig, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        attach(load(str(folder)).model, config)


def test_named_targets_only(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    attach(loaded.model, LoraConfig(rank=2, targets=["q_proj", "down_proj"]))
    touched = {name.split(".lora_")[0].rpartition(".")[2] for name in weights(loaded) if "lora_" in name}
    assert touched == {"q_proj", "down_proj"}


def test_dora_on_weights_of_no_length_is_refused(tiny_llama: Path) -> None:
    loaded = load(str(tiny_llama))
    loaded.model.model.layers[1].mlp.up_proj.weight.data[3] = 0.0
    with pytest.raises(UsageError, match=r"method.dora: 1 outputs of model.layers.1.mlp.up_proj have no weights"):
        attach(loaded.model, LoraConfig(rank=2, dora=True))

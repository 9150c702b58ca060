"""Adapters that peft injects: its folders written and read, its layers merged and taken out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didact.errors import UsageError
from didact.methods import places

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def merge(model: PreTrainedModel) -> None:
    """Fold what peft injected into the base weights and take its layers out; UsageError if that changes nothing."""
    import torch

    changed = list[bool]()

    def fold(name: str, layer: Any) -> None:
        base = layer.base_layer
        before = [None if weight is None else weight.detach().clone() for weight in (base.weight, base.bias)]
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise UsageError(f"merging {name} gives numbers that are not finite", "lower tune.learning_rate") from error
        pairs = zip(before, (base.weight, base.bias), strict=True)
        changed.append(any(old is not None and not torch.equal(old, new) for old, new in pairs))

    places.unwrap(model, fold)
    if not any(changed):
        raise UsageError("merging would change nothing: the adapter is as it began", "train it for at least a step")


def write(folder: Path, settings: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft.PeftModel.from_pretrained reads them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in settings.to_dict().items()}
    text = json.dumps(values, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def injected(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that peft injected, as its files name them."""
    from peft import get_peft_model_state_dict

    return {f"base_model.model.{name}": weight for name, weight in get_peft_model_state_dict(model).items()}


def inject(model: PreTrainedModel, folder: Path) -> Any:
    """Attach what peft has written for a method that it injects; gives peft's configuration."""
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    settings = PeftConfig.from_pretrained(str(folder))
    if getattr(settings, "modules_to_save", None):
        problem = "the adapter replaces whole modules (modules_to_save)"
        raise UsageError(problem, "merge it with peft and load the result", file=folder / "adapter_config.json")
    settings.inference_mode = False
    tensors = load_file(folder / "adapter_model.safetensors")
    inject_adapter_in_model(settings, model)
    told = set_peft_model_state_dict(
        model, {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    )
    if told.unexpected_keys:
        raise KeyError(f"nothing is called {told.unexpected_keys[0]}")
    return settings

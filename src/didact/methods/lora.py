"""LoRA: a low-rank difference B A beside each linear layer, the base frozen (Hu 2021, arXiv 2106.09685).

peft does the injection and reads the files; nothing of the model class changes. It merges without a trace.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError, nearest
from didact.methods import full

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraConfig(BaseModel):
    """Low-rank differences on linear layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["lora"] = Field("lora", description="A low-rank difference beside each linear layer is trained.")
    rank: int = Field(16, ge=1, description="Rank of the difference.")
    alpha: float | None = Field(
        None, gt=0, description="Scale: the difference is times alpha / rank; default 2 x rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the difference.")
    targets: Literal["all"] | list[str] = Field("all", description="Layer names such as q_proj, or all linear layers.")


def attach(model: PreTrainedModel, config: LoraConfig) -> list[int]:
    """Inject the difference (zero at first) and freeze the rest; a target that matches nothing is a UsageError."""
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(_peft_config(model, config), model)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
    return []


def merge(model: PreTrainedModel) -> None:
    """Fold the differences into the base weights and take the layers out; one that is zero everywhere is refused."""
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "get_delta_weight")}
    if not any(bool(layer.get_delta_weight("default").any()) for layer in layers.values()):
        raise UsageError("merging would change nothing: the adapter is zero everywhere", "train it for at least a step")
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.base_layer)
    if hasattr(model, "peft_config"):
        del model.peft_config


def save(model: PreTrainedModel, config: LoraConfig, base: str, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft.PeftModel.from_pretrained reads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    peft_config = _peft_config(model, config)
    peft_config.base_model_name_or_path, peft_config.inference_mode = base, True
    weights = get_peft_model_state_dict(model)
    tensors = {f"base_model.model.{name}": weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in peft_config.to_dict().items()}
    text = json.dumps(values, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def rate(parameters: int) -> float:
    """Ten times the rate of full fine-tuning, at most 5e-3."""
    return min(5e-3, 10 * full.rate(parameters))


def _peft_config(model: PreTrainedModel, config: LoraConfig) -> Any:
    from peft import LoraConfig as PeftConfig
    from transformers.pytorch_utils import Conv1D

    linear = _linear(model)
    leaves = {name.rpartition(".")[2] for name in linear}
    targets = sorted(leaves) if config.targets == "all" else config.targets
    for target in targets:
        if target not in leaves and target not in linear:
            problem = f'no linear layer of the model is called "{target}"'
            raise UsageError(problem, nearest(target, leaves), field="method.targets")
    chosen = {n: m for n, m in linear.items() if n in targets or n.rpartition(".")[2] in targets}
    smallest = min(min(module.weight.shape) for module in chosen.values())
    if config.rank > smallest:
        problem = f"rank {config.rank} is larger than the smallest side of the layers ({smallest})"
        raise UsageError(problem, f"use at most {smallest}", field="method.rank")
    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha if config.alpha is not None else 2 * config.rank,
        lora_dropout=config.dropout,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in chosen.values()),
        task_type="CAUSAL_LM",
    )


def _linear(model: PreTrainedModel) -> dict[str, Any]:
    """The linear layers of the body by their names in the plain model; not the head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if "lora_" in name or module is head:
            continue
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            found[name.removesuffix(".base_layer")] = module
    return found

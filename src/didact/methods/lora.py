"""LoRA: a low-rank difference B A beside each linear layer, the base frozen (Hu 2021, arXiv 2106.09685).

peft does the injection and reads the files; nothing of the model class changes. It merges without a trace. rsLoRA
scales by alpha / sqrt(rank), so that high ranks learn (Kalajdzievski 2023, arXiv 2312.03732); DoRA trains the length of
each column by itself (Liu 2024, arXiv 2402.09353); PiSSA begins as the largest singular values of the weights, which
the base gives up (Meng 2024, arXiv 2404.02948), and is saved as a difference of twice the rank for the base as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.errors import UsageError, nearest
from didact.methods import full, fused, interchange, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

merge = interchange.merge


class LoraConfig(BaseModel):
    """Low-rank differences on linear layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["lora"] = Field("lora", description="A low-rank difference beside each linear layer is trained.")
    rank: int = Field(16, ge=1, description="Rank of the difference.")
    alpha: float | None = Field(
        None, gt=0, description="Scale: the difference is times alpha / rank; default 2 x rank (PiSSA: rank)."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the difference.")
    targets: Literal["all"] | list[str] = Field("all", description="Layer names such as q_proj, or all linear layers.")
    layers: int | None = Field(
        None, ge=1, description="Only in so many last layers; what the others give is computed once."
    )
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank).")
    dora: bool = Field(False, description="Train the length of each column of a weight by itself.")
    start: Literal["zero", "pissa"] = Field(
        "zero", description="zero: no difference at first; pissa: the weights' largest singular values."
    )
    parts: Parts = PARTS

    @model_validator(mode="after")
    def _one_of_both(self) -> LoraConfig:
        if self.start == "pissa" and (self.dora or self.dropout):
            raise ValueError("start: pissa goes with neither dora nor dropout")
        return self

    @property
    def rewrites_base(self) -> bool:
        """Whether attaching changes the base's weights."""
        return self.start == "pissa"


def attach(model: PreTrainedModel, config: LoraConfig) -> list[int]:
    """Inject the difference and freeze the rest; targets that match nothing, too high a rank: UsageError."""
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(_peft_config(model, config), model)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
    for name, layer in _injected(model).items() if config.dora else ():
        length = layer.lora_magnitude_vector["default"].weight
        empty = 0 if length.is_meta else int((length == 0).sum())  # an outline has no values yet
        if empty:
            problem = f"{empty} outputs of {name} have no weights at all, and dora divides by their length"
            raise UsageError(problem, "leave method.dora out", field="method.dora")
    for layer in _injected(model).values():
        fused.fuse(layer)
    if config.start == "pissa":
        for layer in _injected(model).values():
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            layer.started = (a.detach().clone(), b.detach().clone())
    return []


def save(model: PreTrainedModel, config: LoraConfig, base: str, folder: Path) -> None:
    """What peft.PeftModel.from_pretrained reads, for the base as it was before."""
    settings = _peft_config(model, config)
    settings.base_model_name_or_path, settings.inference_mode = base, True
    weights = interchange.injected(model)
    if config.start == "pissa":
        _minus_start(model, settings, weights)
    interchange.write(folder, settings, weights)


def _minus_start(model: PreTrainedModel, settings: Any, weights: dict[str, torch.Tensor]) -> None:
    """B A - B0 A0 as one difference of twice the rank: what was trained, for the base with all its singular values."""
    import torch

    for name, layer in _injected(model).items():
        (a, b), key = layer.started, f"base_model.model.{name}.lora_"
        weights[f"{key}A.weight"] = torch.cat([weights[f"{key}A.weight"], a.to(weights[f"{key}A.weight"].device)])
        weights[f"{key}B.weight"] = torch.cat([weights[f"{key}B.weight"], -b.to(weights[f"{key}B.weight"].device)], 1)
    # the same scale with twice the rank
    settings.lora_alpha *= 2**0.5 if settings.use_rslora else 2
    settings.r *= 2
    settings.init_lora_weights = True


def read(model: PreTrainedModel, folder: Path) -> tuple[LoraConfig, list[int]]:
    """Attach an adapter as peft writes it; its config and no virtual ids."""
    told = interchange.inject(model, folder)
    names = set(_injected(model))
    leaves = {name.rpartition(".")[2] for name in names}
    if len(chosen(model, sorted(leaves))) == len(names):
        names = leaves
    switches = {"rslora": told.use_rslora, "dora": told.use_dora}
    return LoraConfig(rank=told.r, alpha=told.lora_alpha, targets=sorted(names), **switches), []


def rate(parameters: int) -> float:
    """Ten times the rate of full fine-tuning, at most 2e-3."""
    return min(2e-3, 10 * full.rate(parameters))


def chosen(model: PreTrainedModel, targets: Literal["all"] | list[str], last: int | None = None) -> dict[str, Any]:
    """The linear layers that targets name, of so many last layers; UsageError if one names nothing."""
    linear = places.linear(model)
    if last is not None:
        inside = tuple(f"{name}." for name, _ in places.last(model, last))
        linear = {name: module for name, module in linear.items() if name.startswith(inside)}
    leaves = {name.rpartition(".")[2] for name in linear}
    for target in () if targets == "all" else targets:
        if target not in leaves and target not in linear:
            problem = f'no linear layer of the model is called "{target}"'
            raise UsageError(problem, nearest(target, leaves), field="method.targets")
    return {n: m for n, m in linear.items() if targets == "all" or n in targets or n.rpartition(".")[2] in targets}


def _peft_config(model: PreTrainedModel, config: LoraConfig) -> Any:
    from peft import LoraConfig as PeftConfig
    from transformers.pytorch_utils import Conv1D

    layers = chosen(model, config.targets, config.layers)
    smallest = min(min(places.width(module)) for module in layers.values())
    if config.rank > smallest:
        problem = f"rank {config.rank} is larger than the smallest side of the layers ({smallest})"
        raise UsageError(problem, f"use at most {smallest}", field="method.rank")
    targets = list(config.targets)
    if config.targets == "all":
        targets = sorted({name.rpartition(".")[2] for name in layers})
    if config.layers is not None or hasattr(model.config, "vision_config"):
        targets = sorted(layers)
    alpha = config.alpha if config.alpha is not None else config.rank * (1 if config.start == "pissa" else 2)
    return PeftConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in layers.values()),
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights="pissa" if config.start == "pissa" else True,
        task_type="CAUSAL_LM",
    )


def _injected(model: PreTrainedModel) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}

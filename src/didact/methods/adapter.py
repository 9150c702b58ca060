"""Adapters: small bottlenecks y = x + W_up gelu(W_down x) behind each block's last projection, the base frozen.

Houlsby 2019 (arXiv 1902.00751) puts one behind attention and one behind the feed-forward block, Pfeiffer 2020
(arXiv 2005.00247) the second alone; layer norms are trained too. They stand before the residual sum, and before
dropout where a model has it. They do not merge: the tuned model is a little deeper than its base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class AdapterConfig(BaseModel):
    """Bottlenecks in each layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["adapter"] = Field("adapter", description="Bottlenecks in each layer and the layer norms.")
    size: int = Field(16, ge=1, description="Width of a bottleneck.")
    places: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="houlsby: behind attention and feed-forward; pfeiffer: behind feed-forward only."
    )
    deviation: float = Field(1e-3, ge=0, le=1e-2, description="Initial values are drawn within two of these.")
    norms: bool = Field(True, description="Layer norms are trained too.")
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: AdapterConfig) -> list[int]:
    """Plant the bottlenecks, close to the identity; one as wide as the model is a UsageError."""
    model.requires_grad_(False)
    for _, module, which in places.writers(model):
        if which == "attention" and config.places == "pfeiffer":
            continue
        hidden = places.width(module)[1]
        if config.size > hidden:
            problem = f"a bottleneck of {config.size} is wider than the layer ({hidden})"
            raise UsageError(problem, f"use at most {hidden}", field="method.size")
        child = bottleneck(hidden, config.size, config.deviation)
        places.plant(module, "adapter", child, module.register_forward_hook(_through(child)))
    for weight in places.norms(model).values() if config.norms else ():
        weight.requires_grad_(True)
    return []


def bottleneck(hidden: int, size: int, deviation: float) -> torch.nn.Module:
    """W_down and W_up with 2 x hidden x size + hidden + size weights, drawn from a normal cut at two deviations."""
    import torch

    child = torch.nn.Module()
    child.down, child.up = torch.nn.Linear(hidden, size), torch.nn.Linear(size, hidden)
    for layer in (child.down, child.up):
        torch.nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        torch.nn.init.zeros_(layer.bias)
    return child


def _through(child: Any) -> Any:
    import torch

    def hook(module: torch.nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = child.up(torch.nn.functional.gelu(child.down(out)))
        return out + added

    return hook


def rate(parameters: int) -> float:
    """Ten times the rate of full fine-tuning, at most 5e-3."""
    return min(5e-3, 10 * full.rate(parameters))

"""Full fine-tuning: every weight moves. The reference that all cheaper methods are measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.methods import places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullConfig(BaseModel):
    """All weights, or those of the last layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["full"] = Field("full", description="All weights are trained.")
    layers: int | None = Field(
        None, ge=1, description="Only the weights of so many last layers; what the others give is computed once."
    )
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: FullConfig) -> list[int]:
    """Make every weight trainable, or those of the last layers; more layers than there are: UsageError."""
    model.requires_grad_(config.layers is None)
    for _, layer in places.last(model, config.layers) if config.layers is not None else ():
        layer.requires_grad_(True)
    return []


def rate(parameters: int) -> float:
    """1e-3 up to 3 M parameters, falling as a power of the size to 2e-5 at 1 B."""
    return float(min(1e-3, max(2e-5, 1e-3 * (max(parameters, 1) / 3e6) ** -0.67)))

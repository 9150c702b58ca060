"""Full fine-tuning: every weight moves. The reference that all cheaper methods are measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullConfig(BaseModel):
    """All weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["full"] = Field("full", description="All weights are trained.")


def attach(model: PreTrainedModel, config: FullConfig) -> list[int]:
    """Make every weight trainable."""
    model.requires_grad_(True)
    return []


def rate(parameters: int) -> float:
    """1e-3 up to 3 M parameters, falling as a power of the size to 2e-5 at 1 B."""
    return float(min(1e-3, max(2e-5, 1e-3 * (max(parameters, 1) / 3e6) ** -0.67)))

"""BitFit: only the biases move, the smallest change (Ben Zaken 2021, arXiv 2106.10199); a base must have biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BitfitConfig(BaseModel):
    """Biases only."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["bitfit"] = Field("bitfit", description="Only the biases are trained.")


def attach(model: PreTrainedModel, config: BitfitConfig) -> list[int]:
    """Make every bias trainable and freeze the rest; a base without biases is a UsageError."""
    biases = [weight for name, weight in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not biases:
        raise UsageError("the base has no biases for bitfit to train", "use method.type full or lora")
    model.requires_grad_(False)
    for weight in biases:
        weight.requires_grad_(True)
    return []


def rate(parameters: int) -> float:
    """Thirty times the rate of full fine-tuning."""
    return 30 * full.rate(parameters)

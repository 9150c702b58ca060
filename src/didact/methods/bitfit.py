"""BitFit: only the biases move, the smallest change (Ben Zaken 2021, arXiv 2106.10199).

Where linear layers of the base have none, `add` gives them biases of zero; the head is left out. Biases that were added
have no place in the base's own configuration and are kept beside it. A key's bias never moves without rotary
positions: it shifts all scores of a query alike, which the softmax does not see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BitfitConfig(BaseModel):
    """Biases only."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["bitfit"] = Field("bitfit", description="Only the biases are trained.")
    add: bool = Field(False, description="Linear layers without a bias are given one, zero at first.")
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: BitfitConfig) -> list[int]:
    """Make every bias trainable and freeze the rest; a base without biases is a UsageError unless they may be added."""
    import torch

    model.requires_grad_(False)
    for module in places.linear(model).values() if config.add else ():
        if module.bias is None:
            weight = module.weight
            bias = torch.nn.Parameter(torch.zeros(places.width(module)[1], device=weight.device, dtype=weight.dtype))
            bias.added = True
            module.bias = bias
    biases = [weight for name, weight in model.named_parameters() if name.rpartition(".")[2] == "bias"]
    if not biases:
        fix = "let didact add some, zero at first (method.add: true), or use method.type lora"
        raise UsageError("the base has no biases for bitfit to train", fix, field="method.type")
    for bias in biases:
        bias.requires_grad_(True)
    return []


def rate(parameters: int) -> float:
    """Thirty times the rate of full fine-tuning."""
    return 30 * full.rate(parameters)

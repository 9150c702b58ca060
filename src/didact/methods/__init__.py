"""The ways to tune: which weights move. A method is one file and one line of METHODS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from didact.methods import bitfit, full, lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Method:
    """attach changes the model in place, leaves `requires_grad` on what is trained, and gives virtual token ids.

    merge folds it into the base weights; save writes what other tools load; loss and optimizer replace the loop's own;
    rate is the default learning rate for a base with that many parameters. None where the method does not differ.
    """

    config: type[BaseModel]
    attach: Callable[[PreTrainedModel, Any], list[int]]
    rate: Callable[[int], float]
    merge: Callable[[PreTrainedModel], None] | None = None
    save: Callable[[PreTrainedModel, Any, str, Path], None] | None = None
    loss: Callable[..., Any] | None = None
    optimizer: Callable[..., Any] | None = None


METHODS: dict[str, Method] = {
    "full": Method(full.FullConfig, full.attach, full.rate),
    "bitfit": Method(bitfit.BitfitConfig, bitfit.attach, bitfit.rate),
    "lora": Method(lora.LoraConfig, lora.attach, lora.rate, merge=lora.merge, save=lora.save),
}
MethodConfig = Annotated[full.FullConfig | bitfit.BitfitConfig | lora.LoraConfig, Field(discriminator="type")]

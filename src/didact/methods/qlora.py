"""QLoRA: LoRA on a base whose linear layers are kept in 4 bits (Dettmers 2023, arXiv 2305.14314).

The layers are NF4 with double quantisation, 4.127 bits per weight, made into numbers of the computing precision in
every forward and backward; embeddings, norms and head stay as they are. It does not merge: what was trained belongs to
the rounded base. The base is read in full precision before it is rounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.methods import lora, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

rate = lora.rate


class QloraConfig(BaseModel):
    """Low-rank differences on linear layers in 4 bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["qlora"] = Field("qlora", description="LoRA beside linear layers that are kept in 4 bits.")
    rank: int = Field(16, ge=1, description="Rank of the difference.")
    alpha: float | None = Field(
        None, gt=0, description="Scale: the difference is times alpha / rank; default 2 x rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the difference.")
    targets: Literal["all"] | list[str] = Field("all", description="Layers that get a difference; all are rounded.")
    parts: Parts = PARTS

    @property
    def rewrites_base(self) -> bool:
        """Whether attaching changes the base's weights."""
        return True


def attach(model: PreTrainedModel, config: QloraConfig) -> list[int]:
    """Round the linear layers and inject the differences; refuses what lora refuses."""
    from didact.methods import nf4

    lora.chosen(model, config.targets)
    for name, layer in places.linear(model).items():
        across = not hasattr(layer, "in_features")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nf4.Nf4Linear(layer, across))
    return lora.attach(model, _lora(config))


def save(model: PreTrainedModel, config: QloraConfig, base: str, folder: Path) -> None:
    """The differences as peft reads them, for the base rounded in the same way."""
    lora.save(model, _lora(config), base, folder)


def _lora(config: QloraConfig) -> lora.LoraConfig:
    return lora.LoraConfig(rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=config.targets)

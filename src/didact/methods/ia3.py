"""IA3: trained vectors scale keys, values and the inside of feed-forward blocks (Liu 2022, arXiv 2205.05638).

peft does the injection. The vectors begin as ones and merge into the weights. Where query, key and value are one
projection, the queries are scaled with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, interchange, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

merge = interchange.merge
KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "k", "v", *places.FUSED)


class Ia3Config(BaseModel):
    """Vectors that scale keys, values and feed-forward blocks."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["ia3"] = Field("ia3", description="Vectors that scale keys, values and feed-forward blocks.")
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: Ia3Config) -> list[int]:
    """Inject the vectors and freeze the rest."""
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(_peft_config(model), model)
    for name, weight in model.named_parameters():
        weight.requires_grad_("ia3_" in name)
    return []


def save(model: PreTrainedModel, config: Ia3Config, base: str, folder: Path) -> None:
    """What peft.PeftModel.from_pretrained reads."""
    settings = _peft_config(model)
    settings.base_model_name_or_path, settings.inference_mode = base, True
    interchange.write(folder, settings, interchange.injected(model))


def read(model: PreTrainedModel, folder: Path) -> tuple[Ia3Config, list[int]]:
    """Attach vectors as peft writes them; the config and no virtual ids."""
    interchange.inject(model, folder)
    return Ia3Config(), []


def rate(parameters: int) -> float:
    """A hundred times the rate of full fine-tuning: the vectors begin as ones."""
    return 100 * full.rate(parameters)


def _peft_config(model: PreTrainedModel) -> Any:
    from peft import IA3Config as PeftConfig
    from transformers.pytorch_utils import Conv1D

    linear, inner = places.linear(model), [n for n, _, which in places.writers(model) if which == "feed-forward"]
    attention = [
        name
        for name in linear
        if name.rpartition(".")[2] in KEYS_AND_VALUES
        and any(places.is_attention(part) for part in name.split(".")[:-1])
    ]
    if not attention:
        raise UsageError("no keys and values were found to scale", "use method.type lora", field="method.type")
    return PeftConfig(
        target_modules=sorted([*attention, *inner]),
        feedforward_modules=sorted(inner),
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in (*attention, *inner)),
        task_type="CAUSAL_LM",
    )

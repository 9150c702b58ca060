"""Prompt tuning: some embeddings in front of every row are trained, nothing else (Lester 2021, arXiv 2104.08691).

They begin as embeddings of words, which with the high rate decides whether it works at all. Each takes a position.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.methods import full, interchange, virtual

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class PromptConfig(BaseModel):
    """Trained embeddings in front of every row."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["prompt"] = Field("prompt", description="Embeddings in front of every row are trained.")
    length: int = Field(16, ge=1, description="Virtual tokens.")
    start: Literal["vocabulary", "random"] | list[int] = Field(
        "vocabulary", description="What they begin as: words drawn from the vocabulary, random, or these token ids."
    )
    text: str | None = Field(None, description="A text to begin as, repeated or cut to length; instead of start.")


def attach(model: PreTrainedModel, config: PromptConfig) -> list[int]:
    """Plant the table at the embedding; a prompt that fills the context is a UsageError."""
    virtual.room(model, config.length)
    model.requires_grad_(False)
    return virtual.extend(model, virtual.table(first_rows(model, config.start, config.length)), config.length)


def first_rows(model: PreTrainedModel, start: str | list[int], length: int) -> torch.Tensor:
    """Embeddings (length, C) of the ids that a prompt begins as, or uniform ones of their size."""
    import torch

    embedding = model.get_input_embeddings()
    weight_VC = embedding.weight.detach()
    if start == "random":
        size = float(weight_VC.std()) if weight_VC.device.type != "meta" else 1.0
        return torch.empty(length, weight_VC.shape[1], device=weight_VC.device).uniform_(-size, size)
    ids_L = virtual.beginning(model, start, length).to(weight_VC.device)
    if weight_VC.device.type == "meta":
        return torch.empty(length, weight_VC.shape[1], device="meta")
    with torch.no_grad():
        rows_LC: torch.Tensor = embedding(ids_L[None])[0]  # what the layers get, where a model scales it
    return rows_LC.clone()


def save(model: PreTrainedModel, config: BaseModel, base: str, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft.PeftModel.from_pretrained reads them."""
    from peft import PromptTuningConfig

    rows_LC = model.get_input_embeddings().prompt().detach().cpu().contiguous()
    text = model.config.get_text_config()
    settings = PromptTuningConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        num_virtual_tokens=len(rows_LC),
        token_dim=rows_LC.shape[1],
        num_transformer_submodules=1,
        num_attention_heads=text.num_attention_heads,
        num_layers=text.num_hidden_layers,
    )
    interchange.write(folder, settings, {"prompt_embeddings": rows_LC})


def read(model: PreTrainedModel, folder: Path) -> tuple[PromptConfig, list[int]]:
    """Attach a prompt as peft has written it; its config and the virtual ids."""
    import torch
    from safetensors.torch import load_file

    rows_LC = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    config = PromptConfig(length=len(rows_LC), start="random")
    ids = attach(model, config)
    with torch.no_grad():
        model.get_input_embeddings().prompt.table.copy_(rows_LC)
    return config, ids


def rate(parameters: int) -> float:
    """Three hundred times the rate of full fine-tuning: far below it the table hardly leaves where it began."""
    return 300 * full.rate(parameters)

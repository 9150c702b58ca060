"""Intrinsic prompt tuning: a few numbers are trained that a frozen decoder turns into a prompt (Qin 2021, 2110.07867).

The decoder comes from a space that the program `subspace` found over many tasks, or is a random projection around a
prompt of words, which is the control. What is saved is a prompt like any other, and the space beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, prompt, virtual

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SPACE, ABOUT = "space.safetensors", "space.json"


class IntrinsicConfig(BaseModel):
    """A few numbers that a frozen decoder turns into a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["intrinsic"] = Field("intrinsic", description="A few numbers that stand for a prompt are trained.")
    dimension: int = Field(16, ge=1, description="How many numbers; a space that was found has its own.")
    length: int = Field(16, ge=1, description="Virtual tokens; a space that was found has its own.")
    space: str = Field("random", description="random, or a folder with a space that `subspace` found.")

    def folded(self) -> prompt.PromptConfig:
        """The prompt that is left."""
        return prompt.PromptConfig(length=self.length, start="random")


def attach(model: PreTrainedModel, config: IntrinsicConfig) -> list[int]:
    """Plant the decoder, frozen, and its numbers; a space of another base or size is a UsageError."""
    virtual.room(model, config.length)
    model.requires_grad_(False)
    if config.space == "random":
        rows_LC = prompt.first_rows(model, "vocabulary", config.length)
        return virtual.extend(model, decoder(random_basis(rows_LC, config.dimension), config.length), config.length)
    tensors, about = open_space(Path(config.space), model)
    if (about["dimension"], about["length"]) != (config.dimension, config.length):
        found = f"{about['dimension']} numbers for {about['length']} tokens"
        fix = f"set method.dimension: {about['dimension']} and method.length: {about['length']}"
        raise UsageError(f"the space has {found}", fix, file=config.space, field="method.dimension")
    return virtual.extend(model, decoder(tensors, config.length), config.length)


def decoder(tensors: Mapping[str, torch.Tensor], length: int) -> torch.nn.Module:
    """A module that gives the prompt (length, C) its numbers stand for; only they are parameters.

    tensors: origin (L*C), outer (L*C, H) and, where there is a hidden layer, inner (H, d) and bias (H).
    """
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)
            size = tensors["inner" if "inner" in tensors else "outer"].shape[1]
            self.numbers = torch.nn.Parameter(torch.randn(size, device=tensors["outer"].device) * 0.02)

        def forward(self) -> torch.Tensor:
            return decode(dict(self.named_buffers()), self.numbers[None]).view(length, -1)

        def fold(self) -> dict[str, torch.Tensor]:
            return {"table": self().detach()}

    return Decoder()


def decode(tensors: Mapping[str, torch.Tensor], numbers_Nd: torch.Tensor) -> torch.Tensor:
    """Prompts (N, L*C) of some numbers."""
    import torch

    hidden = numbers_Nd
    if "inner" in tensors:
        hidden = torch.tanh(numbers_Nd @ tensors["inner"].T + tensors["bias"])
    return tensors["origin"] + hidden @ tensors["outer"].T


def random_basis(rows_LC: torch.Tensor, dimension: int) -> dict[str, torch.Tensor]:
    """A random linear space around a prompt, in which a number of 1 moves it by the size of an embedding's entries."""
    import torch

    size = float(rows_LC.std()) if rows_LC.device.type != "meta" else 1.0
    outer = torch.randn(rows_LC.numel(), dimension, device=rows_LC.device) * size
    return {"origin": rows_LC.flatten(), "outer": outer}


def save(model: PreTrainedModel, config: BaseModel, base: str, folder: Path) -> None:
    """The prompt as peft reads it, and the space for other tasks."""
    prompt.save(model, config, base, folder)
    module = model.get_input_embeddings().prompt
    write_space(folder, dict(module.named_buffers()), model, len(module()))


def write_space(folder: Path, tensors: Mapping[str, torch.Tensor], model: PreTrainedModel, length: int) -> None:
    """space.safetensors and space.json: the frozen decoder and what it belongs to."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, folder / SPACE, metadata={"format": "pt"})
    dimension = kept["inner" if "inner" in kept else "outer"].shape[1]
    about = {"dimension": dimension, "length": length, "embedding": _print(model)}
    (folder / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def open_space(folder: Path, model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the description of a space; UsageError if it is not there or belongs to another base."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        about, tensors = json.loads((folder / ABOUT).read_text("utf-8")), load_file(folder / SPACE)
        there = {"dimension": int(about["dimension"]), "length": int(about["length"]), "embedding": about["embedding"]}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        fix = 'use "random", or RUN/tuned/adapter of a run with method.type subspace'
        raise UsageError(f"no space can be read here: {error}", fix, file=folder, field="method.space") from error
    weight = model.get_input_embeddings().weight
    if weight.device.type == "meta":
        return {name: tensor.to("meta") for name, tensor in tensors.items()}, there
    if there["embedding"] != _print(model):
        problem, fix = "the space was found on another base", "use the base it was found on, or find one on this base"
        raise UsageError(problem, fix, file=folder, field="method.space")
    return {name: tensor.to(weight.device) for name, tensor in tensors.items()}, there


def _print(model: PreTrainedModel) -> str:
    """What tells a base from others: the hash of its embedding."""
    import torch

    weight = model.get_input_embeddings().weight.detach().cpu().contiguous()
    return sha256(weight.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def rate(parameters: int) -> float:
    """Thirty times the rate of full fine-tuning, as of a prompt."""
    return 30 * full.rate(parameters)

"""The first phase of intrinsic prompt tuning: an auto-encoder over the prompts of many tasks (Qin 2021, 2110.07867).

Each task's rows begin with virtual tokens of their own; their embeddings are the task's prompt, encoded into a few
numbers and decoded again. Encoder and decoder are trained, the base and the prompts are not. A part of the program
`subspace`, and no method by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from didact.methods import full, intrinsic, virtual

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class SpaceConfig(BaseModel):
    """prompts: one row of length x C numbers for each task."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["space"] = "space"
    dimension: int
    length: int
    hidden: int
    prompts: list[list[float]]


def attach(model: PreTrainedModel, config: SpaceConfig) -> list[int]:
    """Plant the auto-encoder; the program itself puts each task's virtual tokens ahead of its rows."""
    import torch

    model.requires_grad_(False)
    prompts_ME = torch.tensor(config.prompts, device=model.get_input_embeddings().weight.device)
    virtual.extend(model, coder(prompts_ME, config), len(config.prompts) * config.length)
    return []


def coder(prompts_ME: torch.Tensor, config: SpaceConfig) -> torch.nn.Module:
    """A module that gives the decoded prompts (M * L, C)."""
    import torch

    class Coder(torch.nn.Module):
        prompts: torch.Tensor
        origin: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("prompts", prompts_ME)
            self.register_buffer("origin", prompts_ME.mean(0))
            size, width = prompts_ME.shape[1], config.hidden
            self.encoder = torch.nn.Linear(size, config.dimension, device=prompts_ME.device)
            self.inner = torch.nn.Linear(config.dimension, width, device=prompts_ME.device)
            self.outer = torch.nn.Linear(width, size, bias=False, device=prompts_ME.device)
            with torch.no_grad():
                self.outer.weight *= prompts_ME.std()  # prompts of the size of those it is to give back

        def tensors(self) -> dict[str, torch.Tensor]:
            """The decoder as `intrinsic` reads it."""
            return {"origin": self.origin, "outer": self.outer.weight,
                    "inner": self.inner.weight, "bias": self.inner.bias}  # fmt: skip

        def decoded(self) -> torch.Tensor:
            return intrinsic.decode(self.tensors(), self.encoder(self.prompts - self.origin))

        def forward(self) -> torch.Tensor:
            return self.decoded().view(len(self.prompts) * config.length, -1)

    return Coder()


def rate(parameters: int) -> float:
    """That of full fine-tuning."""
    return full.rate(parameters)


class Reconstruction:
    """The objective: the loss of the rows with the decoded prompts, and how far these are from the prompts."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    @property
    def key(self) -> str:
        return f"reconstruction {self.weight}"

    def batch(self, way: Any, loaded: Any, data: Any, rows: Any) -> Any:
        return way.batch(loaded, data, rows)

    def loss(self, way: Any, loaded: Any, one: Any) -> Any:
        module = loaded.model.get_input_embeddings().prompt
        error = ((module.decoded() - module.prompts) ** 2).mean()
        return way.loss(loaded, one) + self.weight * error * one.weights_N.sum()

"""Intrinsic dimension: all matrices of the layers move in a random space of a few numbers (Li 2018, arXiv 1804.08838).

Each entry of a matrix follows one of the numbers, drawn at random, with a random sign, so that a projection of any size
costs no memory beyond the difference it makes (a count sketch in the place of Aghajanyan's Fastfood, arXiv 2012.13255).
It merges. The question it answers: how few numbers does a task need?
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full, places
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ProjectionConfig(BaseModel):
    """All matrices in a random space of a few numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["projection"] = Field("projection", description="All matrices move along a few random directions.")
    dimension: int = Field(256, ge=1, description="How many numbers are trained.")
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: ProjectionConfig) -> list[int]:
    """Plant a difference beside every linear layer; all differences share the same numbers."""
    import torch

    model.requires_grad_(False)
    linear = places.linear(model)
    if not linear:
        raise UsageError("no linear layers were found to move", "use method.type full", field="method.type")
    first: Any = next(iter(linear.values()))
    numbers = torch.nn.Parameter(torch.zeros(config.dimension, device=first.weight.device))
    for place, module in enumerate(map(_any, linear.values())):
        sketch = _sketch(numbers, module.weight, keeps=place == 0)
        places.plant(module, "sketch", sketch, module.register_forward_hook(_moved(module, sketch)))
    return []


def _sketch(numbers: torch.nn.Parameter, weight: torch.Tensor, keeps: bool) -> torch.nn.Module:
    import torch

    class Sketch(torch.nn.Module):
        which: torch.Tensor
        sign: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.shared = [numbers]  # a list: only one of the modules has it for its own
            if keeps:
                self.numbers = numbers
            which = torch.randint(len(numbers), weight.shape, device=weight.device, dtype=torch.int32)
            sign = torch.randint(2, weight.shape, device=weight.device, dtype=torch.int8) * 2 - 1
            self.register_buffer("which", which, persistent=False)
            self.register_buffer("sign", sign, persistent=False)

        def forward(self) -> torch.Tensor:
            """The difference, in the shape of the weight."""
            difference: torch.Tensor = self.shared[0][self.which.long()] * self.sign
            return difference

    return Sketch()


def _moved(module: Any, sketch: Any) -> Callable[..., torch.Tensor]:
    def hook(_: Any, inputs: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        from transformers.pytorch_utils import Conv1D

        difference = sketch().to(out.dtype)
        moved: torch.Tensor = inputs[0] @ (difference if isinstance(module, Conv1D) else difference.T)
        return out + moved

    return hook


def _any(module: Any) -> Any:
    """A linear layer of either kind."""
    return module


def merge(model: PreTrainedModel) -> None:
    """Add the differences to the weights; UsageError if they change nothing."""
    import torch

    changed = False
    for name, sketch in list(places.planted(model)):
        if not name.endswith(".sketch"):
            continue
        module = _any(model.get_submodule(name.rpartition(".")[0]))
        before = module.weight.detach().clone()
        with torch.no_grad():
            module.weight += sketch()
        changed = changed or not torch.equal(before, module.weight)
    places.uproot(model)
    if not changed:
        raise UsageError("merging would change nothing: no number has moved", "train it for at least a step")


def rate(parameters: int) -> float:
    """Twice the rate of full fine-tuning."""
    return 2 * full.rate(parameters)

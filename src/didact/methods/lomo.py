"""LOMO: every weight moves as soon as its gradient is there, which is then thrown away (Lv 2023, arXiv 2306.09782).

What is held of the gradient is one tensor at a time, and nothing of an optimiser: the steps are those of plain SGD. A
norm that is clipped needs a first backward that only measures. A step is one micro-batch, since what has moved
cannot be added to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from didact.errors import UsageError
from didact.methods import full
from didact.methods.places import PARTS, Parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class LomoConfig(BaseModel):
    """All weights, without gradients or optimiser state in memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["lomo"] = Field("lomo", description="All weights are trained, each updated within the backward.")
    parts: Parts = PARTS


def attach(model: PreTrainedModel, config: LomoConfig) -> list[int]:
    """Make every weight trainable."""
    model.requires_grad_(True)
    return []


def optimizer(
    trained: dict[str, torch.nn.Parameter], peak: float, config: Any, device: torch.device
) -> torch.optim.Optimizer:
    """SGD by hooks. `sweep` runs the backward and gives loss and norm; UsageError for a decay of weights."""
    import torch

    if config.weight_decay:
        raise UsageError("lomo has no weight decay", "set it to 0", field="tune.weight_decay")

    class Lomo(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(list(trained.values()), {"lr": peak})
            self.factor: float | None = None  # None while it only measures
            self.norms: dict[torch.nn.Parameter, torch.Tensor] = {}
            for weight in trained.values():
                weight.register_post_accumulate_grad_hook(self.arrived)  # type: ignore[no-untyped-call]

        def arrived(self, weight: torch.nn.Parameter) -> None:
            gradient = weight.grad
            assert gradient is not None
            self.norms[weight] = torch.linalg.vector_norm(gradient)
            if self.factor is not None:
                with torch.no_grad():
                    weight.add_(gradient.mul_(self.factor), alpha=-self.param_groups[0]["lr"])
            weight.grad = None

        def sweep(self, backward: Callable[[], float], clip: float) -> tuple[float, float]:
            if clip:
                self.factor, random = None, _random(device)
                loss = backward()
                norm = self.norm()
                if not math.isfinite(norm):
                    return loss, norm
                _set_random(random, device)  # the second backward drops what the first has dropped
            self.factor = clip / (norm + 1e-6) if clip and norm > clip else 1.0
            loss = backward()
            return loss, norm if clip else self.norm()

        def norm(self) -> float:
            ordered = [self.norms[weight] for weight in trained.values() if weight in self.norms]
            self.norms.clear()
            return float(torch.linalg.vector_norm(torch.stack(ordered)))

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """The weights have moved already."""

    return Lomo()


def _random(device: torch.device) -> tuple[Any, Any]:
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state() if device.type == "cuda" else None


def _set_random(state: tuple[Any, Any], device: torch.device) -> None:
    import torch

    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1])


def rate(parameters: int) -> float:
    """A hundred times the rate of full fine-tuning: plain SGD takes large steps."""
    return 100 * full.rate(parameters)

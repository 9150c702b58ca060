"""bf16 compute over fp32 master weights.

The model computes with bf16 copies of its weights, so activations are bf16 too and nothing is cast in between; the
optimiser sees the fp32 weights and gradients summed in fp32 (Micikevicius 2017, arXiv 1710.03740, without loss
scaling, which bf16 does not need). A frozen weight is split in two halves of 16 bits instead, so it is not held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from didact.adamw import add

LARGE = 1 << 20  # values of a tensor that is worth memory in large pages


@contextmanager
def bf16(model: torch.nn.Module) -> Iterator[Callable[[], None]]:
    """The model in bf16; gives what must be called after each optimiser step. Exactly as before afterwards.

    Gradients of a backward arrive in `.grad` of the fp32 parameters that the model had.
    """
    copies: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    halves: dict[torch.nn.Parameter, torch.Tensor] = {}
    places: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.dtype == torch.float32:
                places.append((module, name, weight))
    try:
        for module, name, weight in places:
            if weight not in copies:
                copies[weight] = _copy(weight, halves)
            module._parameters[name] = copies[weight]

        def refresh() -> None:
            with torch.no_grad():
                for weight, copy in copies.items():
                    if weight.requires_grad:
                        copy.copy_(weight)
                        copy.exact.lent = False  # type: ignore[attr-defined]

        yield refresh
    finally:
        for module, name, weight in places:
            module._parameters[name] = weight
        for weight, low in halves.items():
            weight.data = join(copies[weight].data, low)


def _copy(weight: torch.nn.Parameter, halves: dict[torch.nn.Parameter, torch.Tensor]) -> torch.nn.Parameter:
    if not weight.requires_grad:
        high, halves[weight] = split(weight.data)
        weight.data = weight.data.new_empty(0)
        return torch.nn.Parameter(high, requires_grad=False)
    copy = torch.nn.Parameter(empty_like(weight, torch.bfloat16).copy_(weight.detach()))
    copy.exact = sums = Sums(weight)  # type: ignore[attr-defined]

    def move(done: Any) -> None:
        """Into fp32, where micro-batches are summed; of a head there is none: see `loss`."""
        if copy.grad is not None:
            sums.take(copy.grad)
        copy.grad = None
        for hook in list((weight._post_accumulate_grad_hooks or {}).values()):  # as if it had arrived there itself
            hook(weight)

    copy.register_post_accumulate_grad_hook(move)  # type: ignore[no-untyped-call]
    return copy


class Sums:
    """The gradient of an fp32 weight, summed in memory that is kept from step to step."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self.weight, self.lent = weight, False
        self._kept: torch.Tensor | None = None

    def take(self, part: torch.Tensor) -> None:
        """Add a gradient of any precision."""
        kept = None if part.is_sparse else self.lend()
        if kept is None:
            add(self.weight, part)
        else:
            kept.copy_(part)
            self.back()

    def lend(self) -> torch.Tensor | None:
        """The memory, to write all of the first gradient of a step there; None if there is one, or another writes."""
        if self.lent or self.weight.grad is not None:
            return None
        if self._kept is None:
            self._kept = empty_like(self.weight)
        self.lent = True
        return self._kept

    def back(self) -> None:
        """It is written: from now on it is the gradient, or a part of it."""
        assert self._kept is not None
        self.lent = False
        add(self.weight, self._kept)


def empty_like(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Unset memory of a shape; on a CPU in large pages where the system has them, which cost little to take."""
    kind = dtype or tensor.dtype
    if tensor.device.type != "cpu" or tensor.numel() < LARGE:
        return torch.empty_like(tensor, dtype=kind)
    import numpy as np

    return torch.from_numpy(np.empty(tensor.numel() * kind.itemsize, dtype=np.uint8)).view(kind).view(tensor.shape)


def split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 -> the nearest bf16 and what is lacking, as 16 bits; `join` gives the same bits back."""
    bits = weight.contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16  # a tie goes up, so that what is lacking always fits
    low = bits - (high << 16)
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)


def join(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The inverse of `split`."""
    return ((high.view(torch.int16).int() << 16) + low.int()).view(torch.float32)

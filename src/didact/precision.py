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
    copy = torch.nn.Parameter(weight.detach().to(torch.bfloat16))

    def move(done: Any) -> None:
        """Into fp32, where micro-batches are summed."""
        assert copy.grad is not None
        if weight.grad is None:
            weight.grad = copy.grad.float()
        else:
            weight.grad += copy.grad
        copy.grad = None
        for hook in list((weight._post_accumulate_grad_hooks or {}).values()):  # as if it had arrived there itself
            hook(weight)

    copy.register_post_accumulate_grad_hook(move)  # type: ignore[no-untyped-call]
    return copy


def split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 -> the nearest bf16 and what is lacking, as 16 bits; `join` gives the same bits back."""
    bits = weight.contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16  # a tie goes up, so that what is lacking always fits
    low = bits - (high << 16)
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)


def join(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The inverse of `split`."""
    return ((high.view(torch.int16).int() << 16) + low.int()).view(torch.float32)

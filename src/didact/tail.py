"""The last layer's feed-forward block and output projection only where a loss is read.

They work on each position alone and nothing after them looks elsewhere, so what they give at other positions is thrown
away. Their modules are wrapped by hooks, whatever the model; `forward` proves that the logits stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")


def language(model: Any) -> torch.nn.Module:
    """The part of a model that reads and writes text: all of it, unless it sees too."""
    seeing = hasattr(getattr(model, "config", None), "vision_config")
    found: torch.nn.Module = model.get_decoder() if seeing else model
    return found


def stack(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers in order, if the model keeps them in a list."""
    return max(
        (list(module) for module in language(model).modules() if isinstance(module, torch.nn.ModuleList)),
        key=len,
        default=[],
    )


def last(model: torch.nn.Module) -> torch.nn.Module | None:
    """The last layer."""
    return next(iter(stack(model)[-1:]), None)


def parts(model: torch.nn.Module) -> list[torch.nn.Module]:
    """What can be left out elsewhere: modules of the last layer that read and write one position at a time."""
    layer, found = last(model), list[torch.nn.Module]()
    for name, child in layer.named_children() if layer is not None else ():
        if "attn" in name or "attention" in name:
            found += [module for inner, module in child.named_children() if inner in PROJECTIONS]
        elif any(part in name for part in ("mlp", "feed_forward", "ffn")) and any(
            w.ndim > 1 for w in child.parameters()
        ):
            found.append(child)
    return found


@contextmanager
def only_at(model: torch.nn.Module, reads_N: torch.Tensor) -> Iterator[None]:
    """One forward pass that leaves them out everywhere but at these places of the flat axis."""
    places, lengths = torch.unique(reads_N), list[int]()

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        lengths.append(inputs[0].shape[1])
        return (inputs[0].index_select(1, places), *inputs[1:])

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        return out.new_zeros(out.shape[0], lengths.pop(), out.shape[2]).index_copy(1, places, out)

    if not parts(model):
        raise NotImplementedError("nothing of the last layer is known to read one position at a time")
    hooks = [part.register_forward_pre_hook(before) for part in parts(model)]
    hooks += [part.register_forward_hook(after) for part in parts(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

"""A linear layer with a LoRA difference as one operation: the difference is added within the matrix product.

peft's own forward makes the difference in full size, scales it and adds it, and its backward does so again; here only
what has the rank's width is scaled. The numbers are the same but for rounding, which is one step less.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fuse(layer: Any) -> None:
    """Have a layer of peft train this way wherever it is plain LoRA on a linear layer; else it does as before."""
    import torch

    if type(layer.base_layer) is torch.nn.Linear:
        layer.forward = partial(_forward, layer, layer.forward)


def _forward(layer: Any, plain: Callable[..., Any], x: torch.Tensor, *others: Any, **named: Any) -> Any:
    import torch

    if others or named or not torch.is_grad_enabled() or not _is_plain(layer):
        return plain(x, *others, **named)
    base, a, b = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    if not x.dtype == base.weight.dtype == a.dtype == b.dtype:
        return plain(x)
    return _operation()(x, base.weight, base.bias, a, b, float(layer.scaling["default"]))


def _is_plain(layer: Any) -> bool:
    """One difference without dropout or variants, not merged, on a frozen layer that nothing else listens to."""
    import torch

    parts = (layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]) if "default" in layer.lora_A else ()
    return (
        bool(parts)
        and layer.active_adapters == ["default"]
        and not (layer.disable_adapters or layer.merged or layer.lora_variant)
        and isinstance(layer.lora_dropout["default"], torch.nn.Identity)
        and layer.lora_B["default"].bias is None
        and not any(weight.requires_grad for weight in layer.base_layer.parameters())
        and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    )


@cache
def _operation() -> Callable[..., Any]:
    import torch
    from torch.autograd.function import once_differentiable

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, *of: Any) -> torch.Tensor:
            weight_OI, bias_O, a_RI, b_OR, scale = of
            x_NI = x.reshape(-1, x.shape[-1])
            out_NO = torch.nn.functional.linear(x_NI, weight_OI, bias_O)
            low_NR = (x_NI @ a_RI.T).mul_(scale)
            out_NO.addmm_(low_NR, b_OR.T)
            ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, low_NR)
            ctx.scale, ctx.shape = scale, x.shape
            return out_NO.reshape(*x.shape[:-1], -1)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            x_NI, weight_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
            grad_NO = grad.reshape(-1, grad.shape[-1])
            back_NR, dx = (grad_NO @ b_OR).mul_(ctx.scale), None
            if ctx.needs_input_grad[0]:
                dx = (grad_NO @ weight_OI).addmm_(back_NR, a_RI).reshape(ctx.shape)
            return dx, None, None, back_NR.T @ x_NI, grad_NO.T @ low_NR, None

    operation: Callable[..., Any] = Linear.apply
    return operation

"""Head and cross-entropy at supervised positions only, in pieces, with the gradient formed in the forward pass.

No logits outlive their piece: kept for the backward are the gradients of the hidden states and of the head
(Wijmans 2024, arXiv 2411.09009, keep less still, by kernels of their own). The head's is summed in fp32, and where its
fp32 weight is known (see `precision`) in that weight's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from didact.precision import empty_like

PIECE = 256 << 20  # bytes of logits at a time
BLOCK = 1 << 20  # logits whose softmax is taken at a time: they stay in the processor's cache
ROWS = 8192  # of the head, whose gradient is formed at a time


def cross_entropy(
    hidden_NC: torch.Tensor, head: torch.nn.Module, labels_N: torch.Tensor, weights_N: torch.Tensor
) -> torch.Tensor:
    """Sum of weights_N x nats of labels_N under a linear head."""
    if type(head) is torch.nn.Linear:
        return _linear()(hidden_NC, head.weight, head.bias, labels_N, weights_N, getattr(head.weight, "exact", None))
    return of_logits(head(hidden_NC), labels_N, weights_N)


def of_logits(logits_NV: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    """The same from finished logits."""
    exact = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    losses_N = torch.nn.functional.cross_entropy(exact, labels_N, reduction="none")
    return (losses_N * weights_N).sum()


@cache
def _linear() -> Callable[..., torch.Tensor]:
    from torch.autograd.function import once_differentiable

    class LinearCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            hidden_NC: torch.Tensor,
            head_VC: torch.Tensor,
            bias_V: torch.Tensor | None,
            labels_N: torch.Tensor,
            weights_N: torch.Tensor,
            sums: Any,
        ) -> torch.Tensor:
            to_hidden, to_head, to_bias, *_ = ctx.needs_input_grad
            training = to_hidden or to_head or to_bias
            into_hidden = torch.empty_like(hidden_NC) if to_hidden else None
            lent = sums.lend() if to_head and sums is not None and len(hidden_NC) else None
            into_head = lent if lent is not None or not to_head else empty_like(head_VC)
            into_bias = None if bias_V is None or not to_bias else torch.zeros_like(bias_V)
            total = torch.zeros((), dtype=_exact(head_VC), device=hidden_NC.device)
            rows = max(1, PIECE // (head_VC.element_size() * len(head_VC)))
            for start in range(0, len(hidden_NC), rows):
                piece = slice(start, start + rows)
                scores = torch.nn.functional.linear(hidden_NC[piece], head_VC, bias_V)
                total += _softmax_(scores, labels_N[piece], weights_N[piece], training)
                if into_hidden is not None:
                    torch.mm(scores, head_VC, out=into_hidden[piece])
                if into_head is not None:
                    _outer(scores, hidden_NC[piece], into_head, more=start > 0)
                if into_bias is not None:
                    into_bias += scores.sum(0)
            if into_head is not None and not len(hidden_NC):
                into_head.zero_()
            ctx.gradients, ctx.sums = (into_hidden, into_head, into_bias), None if lent is None else sums
            return total

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            gradients, ctx.gradients = ctx.gradients, None
            if grad.is_cuda or float(grad) != 1:
                gradients = tuple(None if g is None else g.mul_(grad.to(g.dtype)) for g in gradients)
            if ctx.sums is not None:
                ctx.sums.back()
                gradients = gradients[0], None, gradients[2]
            return *gradients, None, None, None

    return LinearCrossEntropy.apply


def _outer(scores_NV: torch.Tensor, hidden_NC: torch.Tensor, out_VC: torch.Tensor, more: bool) -> None:
    """scores^T hidden, written or added; into another precision in pieces that stay in the processor's cache."""
    if out_VC.dtype == scores_NV.dtype:
        out_VC.addmm_(scores_NV.t(), hidden_NC, beta=int(more))
        return
    for start in range(0, len(out_VC), ROWS):
        rows = slice(start, start + ROWS)
        part = torch.mm(scores_NV[:, rows].t(), hidden_NC)
        out_VC[rows] = out_VC[rows] + part if more else part


def _softmax_(scores_NV: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, training: bool) -> torch.Tensor:
    """The weighted loss of some logits, which become their own gradient in place."""
    total = torch.zeros((), dtype=_exact(scores_NV), device=scores_NV.device)
    rows = max(1, BLOCK // scores_NV.shape[1])
    for start in range(0, len(scores_NV), rows):
        block = scores_NV[start : start + rows]
        at_N1, weight_N1 = labels_N[start : start + rows, None], weights_N[start : start + rows, None].to(total.dtype)
        logs_NV = torch.log_softmax(block, -1, dtype=total.dtype)
        total -= (logs_NV.gather(1, at_N1) * weight_N1).sum()
        if training:
            shares_NV = logs_NV.exp_().mul_(weight_N1)
            block.copy_(shares_NV.scatter_add_(1, at_N1, -weight_N1))
    return total


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32

"""AdamW by torch's fused kernel, without the optimiser class around it, which loads the compiler before its first step.

A gradient may have some rows only, as that of a large embedding does: then only rows that ever had one are touched. The
others have moments of zero, so that the weights are those of the whole computation, bit for bit.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

BETAS, EPS = (0.9, 0.99), 1e-8
BLOCK = 1 << 18  # values updated at a time by rows: they stay in the processor's cache
LARGE = 1 << 22  # values of an embedding whose gradient is kept by rows


class AdamW:
    """AdamW (Loshchilov 2019, arXiv 1711.05101); vectors are not decayed. state: as torch.optim.AdamW names it.

    A weight whose gradient came by rows also has `seen`: which of its rows ever had one.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter], rate: float, decay: float) -> None:
        matrices, vectors = [w for w in weights if w.ndim >= 2], [w for w in weights if w.ndim < 2]
        groups = ({"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0})
        self.param_groups: list[dict[str, Any]] = [{**group, "lr": rate} for group in groups if group["params"]]
        self.state: dict[torch.nn.Parameter, dict[str, torch.Tensor]] = {
            weight: {} for group in self.param_groups for weight in group["params"]
        }

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            how = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            moved = [weight for weight in group["params"] if weight.grad is not None]
            states = [self._state(weight) for weight in moved]
            for state in states:
                state["step"] += 1
            pairs = list(zip(moved, states, strict=True))
            whole = [(w, w.grad, s["exp_avg"], s["exp_avg_sq"], s["step"]) for w, s in pairs if not w.grad.is_sparse]
            _fused(whole, how)
            for weight, state in pairs:
                if weight.grad.is_sparse:
                    _by_rows(weight, state, how)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for weight in self.state:
            weight.grad = None

    def _state(self, weight: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        state = self.state[weight]
        if not state:
            assert weight.grad is not None
            make = _untouched if weight.grad.is_sparse else _zeros
            state |= {"step": torch.zeros(()), "exp_avg": make(weight), "exp_avg_sq": make(weight)}
            if weight.grad.is_sparse:
                state["seen"] = torch.zeros(len(weight), dtype=torch.bool)
        return state


def _fused(all_: Sequence[tuple[Any, ...]], how: Mapping[str, float]) -> None:
    """One call of the kernel. all_: of each weight itself, its gradient, both moments, and its step."""
    if all_:
        weights, gradients, firsts, seconds, steps = map(list, zip(*all_, strict=True))
        more = {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "amsgrad": False, "maximize": False}
        torch._fused_adamw_(weights, gradients, firsts, seconds, [], steps, **how, **more)  # type: ignore[call-overload]


def _by_rows(weight: torch.nn.Parameter, state: dict[str, torch.Tensor], how: Mapping[str, float]) -> None:
    """The same for a weight whose gradient has some rows only."""
    assert weight.grad is not None
    gradient = summed(weight.grad)
    own, values = gradient.indices()[0], gradient.values()
    if "seen" not in state:  # after a checkpoint in which its gradient was whole
        state["seen"] = (state["exp_avg"] != 0).any(1) | (state["exp_avg_sq"] != 0).any(1)
    state["seen"][own] = True
    # decay moves every row
    rows = torch.arange(len(weight)) if how["weight_decay"] else state["seen"].nonzero().flatten()
    size = max(1, BLOCK // weight.shape[1])
    firsts = torch.searchsorted(own, rows[::size].contiguous()).tolist()
    for start, first, last in zip(range(0, len(rows), size), firsts, [*firsts[1:], len(own)], strict=True):
        some = rows[start : start + size]
        part = torch.zeros(len(some), weight.shape[1], dtype=weight.dtype)
        part[torch.searchsorted(some, own[first:last])] = values[first:last]
        held = [weight, state["exp_avg"], state["exp_avg_sq"]]
        w, m, v = (tensor.index_select(0, some) for tensor in held)
        _fused([(w, part, m, v, state["step"])], how)
        for tensor, moved in zip(held, (w, m, v), strict=True):
            tensor.index_copy_(0, some, moved)


def _zeros(weight: torch.Tensor) -> torch.Tensor:
    """Through numpy, which takes large pages where the system has them: else the first step is spent on that."""
    import numpy as np

    kind = np.float64 if weight.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.zeros(weight.numel(), kind)).view(weight.shape)


def _untouched(weight: torch.Tensor) -> torch.Tensor:
    """Zeros whose memory is taken when a row is written."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, weight.nbytes, **private), dtype=weight.dtype).view(weight.shape)


@contextmanager
def by_rows(model: torch.nn.Module, least: int = LARGE) -> Iterator[None]:
    """Gradients of large embeddings that are trained come by rows."""
    large = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight.numel() >= least]
    chosen = [m for m in large if m.weight.requires_grad and not m.sparse and not m.scale_grad_by_freq]
    for module in chosen:
        module.sparse = True
    try:
        yield
    finally:
        for module in chosen:
            module.sparse = False


def add(weight: torch.nn.Parameter, part: torch.Tensor) -> None:
    """Add to the gradient of a weight, by rows or whole."""
    part = summed(part) if part.is_sparse else part.to(weight.dtype)
    if weight.grad is None:
        weight.grad = part
    elif part.is_sparse and not weight.grad.is_sparse:
        weight.grad.index_add_(0, part.indices()[0], part.values())
    elif weight.grad.is_sparse and not part.is_sparse:
        weight.grad = part.index_add_(0, weight.grad.indices()[0], weight.grad.values())
    elif part.is_sparse:
        weight.grad = summed(weight.grad + part)
    else:
        weight.grad += part


def summed(gradient: torch.Tensor) -> torch.Tensor:
    """A gradient by rows with each row once, in fp32 or more: added in the order in which a whole one would be."""
    if gradient.is_coalesced():
        return gradient
    values = gradient._values()
    rows, places = torch.unique(gradient._indices()[0], return_inverse=True)
    exact = values if values.dtype == torch.float64 else values.float()
    sums = torch.zeros(len(rows), values.shape[1], dtype=exact.dtype).index_add_(0, places, exact)
    return torch.sparse_coo_tensor(rows[None], sums, gradient.shape, is_coalesced=True, check_invariants=False)

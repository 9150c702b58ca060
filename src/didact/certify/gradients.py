"""Proofs about the loss and its gradients: against transformers, against one row at a time, in fp64 where it is cheap.

In fp64 rounding is out of the way, so that only true faults are left. Dropout is off: it is drawn anew in each layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from didact.certify.subject import Proof, Subject, verdict
from didact.forward import Forward
from didact.methods.attached import attach
from didact.methods.virtual import begun
from didact.settle import beyond, settle
from didact.vision import of_row

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.render import Tokens

DOUBLE = 60_000_000  # parameters up to which gradients are compared in fp64
ROWS = 8
FP64, FP32, LOSS = 1e-10, 1e-5, 1e-4


def loss(subject: Subject) -> Proof:
    """The loss is the one that transformers computes itself on the same rows."""
    import torch

    loaded, data, forward = _trainable(subject)
    weight = sum(sum(tokens.weights) for tokens in data)
    with _exact(loaded), torch.no_grad(), forward.on(loaded):
        pieces = _pieces(forward, [range(len(data))])
        ours = sum(float(forward.loss(loaded, forward.batch(loaded, data, one))) for one in pieces) / weight
    theirs = 0.0
    with torch.no_grad():
        for tokens in data:
            ids = torch.tensor([tokens.ids], device=loaded.device)
            labels = torch.tensor([[i if w else -100 for i, w in zip(tokens.ids, tokens.weights, strict=True)]])
            seen = of_row(loaded, tokens, ids)
            out = loaded.model(input_ids=ids, labels=labels.to(loaded.device), use_cache=False, **seen)
            theirs += float(out.loss) * sum(w != 0 for w in tokens.weights[1:])
    theirs /= weight
    return verdict(abs(ours - theirs) / max(abs(theirs), 1e-9), LOSS, f"{ours:.6f} and {theirs:.6f} nats per token")


def packing(subject: Subject) -> Proof:
    """The gradient of rows computed together equals the sum of the gradients of each row alone."""
    loaded, data, forward = _trainable(subject)
    with _exact(loaded) as tolerance:
        rows, lengths = list(range(len(data))), [len(tokens.ids) for tokens in data]
        together = _gradient(loaded, forward, data, forward.cut(rows, lengths, sum(lengths)))
        alone = _gradient(loaded, Forward(), data, [[row] for row in rows])
    way = f"packed{', beginnings shared' if forward.share else ''}" if forward.packed else "one sequence per row"
    way = "each row computed alone" if forward.alone else way
    return verdict(
        _apart(together, alone), tolerance, f"{len(data)} rows, {way}, {_bits(tolerance)}, {len(alone)} tensors"
    )


def accumulation(subject: Subject) -> Proof:
    """The gradient does not depend on how a step is cut into micro-batches."""
    loaded, data, forward = _trainable(subject)
    n = len(data)
    cuts = [
        [[row] for row in range(n)],
        [list(range(0, n, 2)), list(range(1, n, 2))],
        [list(range(n // 2)), list(range(n // 2, n))],
    ]
    with _exact(loaded) as tolerance:
        whole = _gradient(loaded, forward, data, [list(range(n))])
        found = _largest([_apart(_gradient(loaded, forward, data, [g for g in cut if g]), whole) for cut in cuts])
    return verdict(found, tolerance, f"{n} rows cut in {len(cuts)} ways, {_bits(tolerance)}")


def isolation(subject: Subject) -> Proof:
    """No row sees another: the gradient of a row's loss at the inputs of every other row is exactly zero."""
    import torch

    loaded, data, forward = _trainable(subject)
    forward = replace(forward, share=False)
    leak, seen, targets = 0.0, list[torch.Tensor](), range(min(3, len(data)))

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen[:] = [output.detach().requires_grad_(True)]
        return seen[0]

    handle = loaded.model.get_input_embeddings().register_forward_hook(keep)
    with forward.on(loaded):
        for target in targets:
            heard = [row if i == target else replace(row, weights=[0.0] * len(row.ids)) for i, row in enumerate(data)]
            one = forward.batch(loaded, heard, list(range(len(data))))
            forward.loss(loaded, one).backward()  # type: ignore[no-untyped-call]
            assert seen[0].grad is not None
            size_BT = seen[0].grad.abs().amax(-1)
            own_BT = torch.zeros_like(size_BT, dtype=torch.bool)
            if forward.packed:
                own_BT[0, one.spans[target].start : one.spans[target].end] = True
            else:
                own_BT[target] = True
            if not bool(size_BT[own_BT].any()):
                return Proof(math.inf, 0.0, False, "the loss of a row does not reach its own input")
            leak = _largest([leak, *size_BT[~own_BT].tolist()])
    handle.remove()
    return verdict(leak, 0.0, f"{len(targets)} rows, each against {len(data) - 1} others")


def _trainable(subject: Subject) -> tuple[Loaded, list[Tokens], Forward]:
    """A model with the method attached, a few rows of all lengths, and the pass of the loop."""
    loaded = subject.load()
    data = begun(subject.fitted.tokens, attach(loaded, subject.method).virtual)
    _stir(loaded)
    loaded.model.eval()
    forward = settle(loaded, data, subject.config.packing, lambda text: None)
    order = sorted(range(len(data)), key=lambda row: len(data[row].ids))
    chosen = dict.fromkeys([*order[:: max(1, len(order) // ROWS)][:ROWS], *beyond(loaded, data)])
    return loaded, [data[row] for row in chosen], forward


def _stir(loaded: Loaded) -> None:
    """Move trained weights that are all zero, such as LoRA's B: gradients through zeros would prove nothing."""
    import torch

    torch.manual_seed(0)
    for weight in loaded.model.parameters():
        if weight.requires_grad and not bool(weight.any()):
            torch.nn.init.normal_(weight, std=0.02)


@contextmanager
def _exact(loaded: Loaded) -> Iterator[float]:
    """The model in fp64 if it is small enough, and what gradients may then differ by."""
    import torch

    small = loaded.device.type != "mps" and sum(w.numel() for w in loaded.model.parameters()) <= DOUBLE
    if not small:
        yield FP32
        return
    before = loaded.model.dtype
    loaded.model.to(torch.float64)
    try:
        with _double():
            yield FP64
    finally:
        loaded.model.to(before)


def _double() -> Any:
    """Norms and softmaxes of the library ask for fp32 by name, which would round: here they get fp64."""
    import torch
    from torch.overrides import TorchFunctionMode

    def raised(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    class Double(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            func = torch.Tensor.double if func is torch.Tensor.float else func
            return func(*map(raised, args), **{name: raised(value) for name, value in (kwargs or {}).items()})

    return Double()


def _gradient(
    loaded: Loaded, forward: Forward, data: Sequence[Tokens], cuts: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """The gradient of the mean loss of all rows, by tensor, summed over micro-batches."""
    loaded.model.zero_grad(set_to_none=True)
    weight = sum(sum(data[row].weights) for cut in cuts for row in cut)
    with forward.on(loaded):
        for cut in _pieces(forward, cuts):
            one = forward.batch(loaded, data, cut)
            forward.loss(loaded, replace(one, weights_N=one.weights_N / weight)).backward()  # type: ignore[no-untyped-call]
    found = {name: w.grad.clone() for name, w in loaded.model.named_parameters() if w.grad is not None}
    loaded.model.zero_grad(set_to_none=True)
    return found


def _pieces(forward: Forward, cuts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The batches as they are computed."""
    return [[row] for cut in cuts for row in cut] if forward.alone else [list(cut) for cut in cuts]


def _apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of two gradients, relative to the norm of each tensor."""
    if a.keys() != b.keys():
        return math.inf
    largest = max((float(gradient.norm()) for gradient in b.values()), default=0.0)
    gaps = [float((a[name] - b[name]).norm()) / max(float(b[name].norm()), 1e-7 * largest) for name in b]
    return _largest(gaps) if gaps else math.inf


def _largest(values: Sequence[float]) -> float:
    """The largest number; infinity where one is none, which `max` would pass over."""
    return max(values) if all(map(math.isfinite, values)) else math.inf


def _bits(tolerance: float) -> str:
    return "fp64" if tolerance == FP64 else "fp32"

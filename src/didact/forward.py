"""The forward pass of training: logits where a loss is read, in the precision that is faster, and the loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.pack import Batch

Precision = Literal["fp32", "bf16"]
Head = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]  # ids_BT, chosen_BT -> logits_NV
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BF16_MUST_GAIN = 1.15  # below this, rounding is not worth the speed


def head(loaded: Loaded, sample: Batch, say: Callable[[str], None]) -> Head:
    """The forward pass with the head at supervised positions only, if it proves equal to the full one here."""
    import torch

    model = loaded.model

    def full(ids_BT: torch.Tensor, chosen_BT: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids_BT, use_cache=False).logits[chosen_BT]
        return logits

    body, output = getattr(model, "base_model", None), model.get_output_embeddings()
    if body is None or body is model or output is None:
        say("the head is computed at every position: the model does not name its body and head")
        return full

    def chosen(ids_BT: torch.Tensor, chosen_BT: torch.Tensor) -> torch.Tensor:
        hidden_NC = body(input_ids=ids_BT, use_cache=False).last_hidden_state[chosen_BT]
        logits: torch.Tensor = output(hidden_NC)
        return logits

    ids_BT, targets_BT = sample.ids_BT[:4].to(loaded.device), _targets(sample)[:4].to(loaded.device)
    model.eval()
    with torch.no_grad():
        try:
            a, b = full(ids_BT, targets_BT).float(), chosen(ids_BT, targets_BT).float()
            equal = torch.allclose(a, b, rtol=1e-5, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError):
            equal = False
    if not equal:
        say("the head is computed at every position: at supervised ones alone it gives other logits for this model")
    return chosen if equal else full


def measure(
    loaded: Loaded, head: Head, sample: Batch, trained: list[torch.nn.Parameter], say: Callable[[str], None]
) -> Precision:
    """fp32 or bf16: the faster one over a few real forwards and backwards."""
    seconds = {}
    for precision in PRECISIONS:
        times = []
        for _ in range(3):  # the first is a warm-up
            tick = time.perf_counter()
            loss_sum(head, sample, loaded.device, precision).backward()  # type: ignore[no-untyped-call]
            if loaded.device.type == "cuda":
                import torch

                torch.cuda.synchronize()
            times.append(time.perf_counter() - tick)
        seconds[precision] = min(times[1:])
    for weight in trained:
        weight.grad = None
    gain = seconds["fp32"] / seconds["bf16"]
    faster: Precision = "bf16" if gain >= BF16_MUST_GAIN else "fp32"
    say(f"computes in {faster}: bf16 is {gain:.2f} times as fast as fp32 here")
    return faster


def _targets(one: Batch) -> torch.Tensor:
    """Positions whose next token is supervised, as a mask."""
    import torch

    return torch.nn.functional.pad(one.weights_BT[:, 1:] != 0, (0, 1))


def loss_sum(head: Head, one: Batch, device: torch.device, precision: Precision) -> torch.Tensor:
    """Weighted sum of the cross-entropy of supervised tokens, in nats."""
    import torch

    targets_BT = _targets(one)
    labels_N = one.ids_BT[:, 1:][targets_BT[:, :-1]].to(device)
    weights_N = one.weights_BT[:, 1:][targets_BT[:, :-1]].to(device)
    # right padding needs no mask: a causal model never looks to the right
    with _cast(device, precision):
        logits_NV = head(one.ids_BT.to(device), targets_BT.to(device))
    losses_N = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    return (losses_N * weights_N).sum()


def _cast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

"""The forward pass of training: logits where a loss is read, in the precision that is faster, and the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.pack import Batch

Precision = Literal["fp32", "bf16"]
Head = Callable[..., "torch.Tensor"]  # ids_BT, chosen_BT, other inputs of the model -> logits_NV
MUST_GAIN = 1.5  # one shape flatters bf16, whose kernels are prepared anew for each; and rounding must pay
PLAIN_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Way:
    """A way to compute: the precision of products, and the attention ("" is the model's own)."""

    precision: Precision
    attention: str = ""

    @property
    def call_cost(self) -> int:
        """What one more forward and backward costs, in tokens of a small model: autocast casts all weights in each."""
        return 400 if self.precision == "bf16" else 96

    def __str__(self) -> str:
        return f"{self.precision} with plain attention" if self.attention else self.precision

    @contextmanager
    def on(self, loaded: Loaded) -> Iterator[None]:
        """The model computing this way, and as before afterwards."""
        before = loaded.model.config._attn_implementation
        if self.attention:
            loaded.model.set_attn_implementation(self.attention)
        try:
            yield
        finally:
            if self.attention:
                loaded.model.set_attn_implementation(before)


def head(loaded: Loaded, ids_BT: torch.Tensor, chosen_BT: torch.Tensor, say: Callable[[str], None]) -> Head:
    """The forward pass with the head at chosen positions only, if it proves equal to the full one on these rows."""
    import torch

    model = loaded.model

    def full(ids_BT: torch.Tensor, chosen_BT: torch.Tensor, **inputs: Any) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids_BT, use_cache=False, **inputs).logits[chosen_BT]
        return logits

    body, output = getattr(model, "base_model", None), model.get_output_embeddings()
    if body is None or body is model or output is None:
        say("the head is computed at every position: the model does not name its body and head")
        return full

    def chosen(ids_BT: torch.Tensor, chosen_BT: torch.Tensor, **inputs: Any) -> torch.Tensor:
        hidden_NC = body(input_ids=ids_BT, use_cache=False, **inputs).last_hidden_state[chosen_BT]
        logits: torch.Tensor = output(hidden_NC)
        return logits

    ids_BT, chosen_BT = ids_BT[:4].to(loaded.device), chosen_BT[:4].to(loaded.device)
    model.eval()
    with torch.no_grad():
        try:
            a, b = full(ids_BT, chosen_BT).float(), chosen(ids_BT, chosen_BT).float()
            equal = torch.allclose(a, b, rtol=1e-5, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError):
            equal = False
    if not equal:
        say("the head is computed at every position: at supervised ones alone it gives other logits for this model")
    return chosen if equal else full


def measure(
    loaded: Loaded, head: Head, sample: Batch, ways: Sequence[Way], trained: Sequence[torch.nn.Parameter]
) -> tuple[Way, str]:
    """The fastest of some ways to compute, over a few real forwards and backwards, and what to say of it.

    The first is the exact one and wins unless another is clearly faster.
    """
    import torch

    seconds = {}
    clock = time.process_time if loaded.device.type == "cpu" else time.perf_counter  # other programs do not count
    threads = torch.get_num_threads() if loaded.device.type == "cpu" else 1
    for way in ways:
        times = []
        with way.on(loaded):
            for _ in range(4):  # the first is a warm-up
                tick = clock()
                loss_sum(head, sample, loaded.device, way.precision).backward()  # type: ignore[no-untyped-call]
                if loaded.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(clock() - tick)
        seconds[way] = min(times[1:]) / threads
    for weight in trained:
        weight.grad = None
    fastest = min(ways, key=lambda way: seconds[way] * (1 if way is ways[0] else MUST_GAIN))
    rates = ", ".join(f"{way} {len(sample.rows) / seconds[way]:.0f}" for way in ways)
    return fastest, f"computes in {fastest} (instances a second: {rates})"


def ways(loaded: Loaded, precision: Precision | Literal["auto"], longest: int) -> list[Way]:
    """What is worth trying on this device for rows up to `longest` tokens."""
    found = [Way("fp32", "")] if precision != "bf16" else []
    if precision != "fp32":
        found.append(Way("bf16", ""))
        # CPU flash attention is slow in bf16 at short lengths; plain attention holds length x length scores
        if loaded.device.type == "cpu" and longest <= PLAIN_LONGEST:
            found.append(Way("bf16", "eager"))
    return found


def targets(one: Batch) -> torch.Tensor:
    """Positions whose next token is supervised, as a mask."""
    import torch

    return torch.nn.functional.pad(one.weights_BT[:, 1:] != 0, (0, 1))


def loss_sum(head: Head, one: Batch, device: torch.device, precision: Precision) -> torch.Tensor:
    """Weighted sum of the cross-entropy of supervised tokens, in nats."""
    import torch

    targets_BT = targets(one)
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

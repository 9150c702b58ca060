"""Which forward pass is taken: the cheapest that gives the logits of one row at a time on rows of the data.

A model may read long rows otherwise: through a window, in chunks, with stretched positions. Where the data has rows
beyond such a length, one of them is in the proof.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from didact.forward import FAULTS, WAYS, Forward, Precision
from didact.pack import shared_beginnings, told_apart

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.render import Tokens

PROOF_TOKENS, PROOF_READS = 40, 8  # of each row on which a pass is proved
LOUD = 10.0  # largest logit of a proof, if it is not larger by itself
NEAR = 3e-5  # largest difference of equal logits in fp32, of the largest logit
MUST_GAIN = 1.3  # bf16 rounds: it must pay
SAMPLE_TOKENS = 512
OTHERWISE = ("window", "window_size", "chunk_size", "original_max_position_embeddings")  # how such settings end


def settle(
    loaded: Loaded, data: Sequence[Tokens], packing: bool | Literal["auto"], say: Callable[[str], None]
) -> Forward:
    """The cheapest pass that gives the logits of one row at a time on rows of the data.

    Packed, no gradient may pass from row to row either: what little a state carries over need not show in the logits.
    If not even a padded batch gives these logits, each row is a batch of its own.
    """
    import torch

    from didact import tail

    if loaded.kind != "causal":
        say("one sequence per row: packing is for models that write from left to right")
        return Forward()
    data = [*(_short(data[row]) for row in sample(data)), *(_late(data[row]) for row in beyond(loaded, data))]
    plain, rows = Forward(), range(len(data))
    # computed again in the backward, the last layer would be that of every position
    again = any(getattr(module, "gradient_checkpointing", False) for module in loaded.model.modules())
    again = again and getattr(tail.last(loaded.model), "gradient_checkpointing", True)
    ways = [way for way in (*WAYS, plain) if (packing is not False or not way.packed) and not (again and way.tail)]
    with _still(loaded), _loud(loaded, plain.logits(loaded, plain.batch(loaded, data, [0]))):
        expected = torch.cat([plain.logits(loaded, plain.batch(loaded, data, [row])) for row in rows])
        equal = (way for way in ways if _gives(way, loaded, data, rows, expected))
        found = next((way for way in equal if not way.packed or _apart(way, loaded, data)), None)
    if found is None:
        say("each row is computed alone: in a batch with others this model gives other logits")
        return replace(plain, alone=True)
    if packing is not False and not found.packed:
        say("one sequence per row, grouped by length: packed, this model gives other logits")
    if found.head == "all":
        say("the head is computed at every position: at supervised ones alone this model gives other logits")
    if found.packed and found.head == "reads" and not found.tail and not again:
        say("the last layer is computed at every position: its end was not found, or gives other logits")
    if found.share and dropout(loaded):
        found = replace(found, share=False)  # rows would share one draw of what is dropped
        say("shared beginnings are computed for each row: with dropout each draws for itself")
    return found


def sample(data: Sequence[Tokens], n: int = 3) -> list[int]:
    """Rather short rows for proofs and measurements, two of which begin alike if any do."""
    order = sorted(range(len(data)), key=lambda row: len(data[row].ids))
    some = order[len(order) // 6 :][:64]
    families = shared_beginnings(told_apart(data, some))
    alike = max(families, key=lambda family: family[1] * (len(family[0]) > 1))[0][:2]
    chosen = [some[i] for i in alike] + [row for i, row in enumerate(some) if i not in alike]
    return chosen[:n]


def beyond(loaded: Loaded, data: Sequence[Tokens]) -> list[int]:
    """For each length beyond which the model reads a row otherwise the shortest row that is longer, if there is one."""
    lengths = [len(tokens.ids) for tokens in data]
    settings = loaded.model.config.get_text_config().to_dict()
    limits = {limit for limit in _limits(settings) if PROOF_TOKENS <= limit < max(lengths)}
    shortest = (min((n, row) for row, n in enumerate(lengths) if n > limit)[1] for limit in sorted(limits))
    return list(dict.fromkeys(shortest))


def _limits(settings: Any) -> Iterator[int]:
    for name, value in settings.items() if isinstance(settings, dict) else ():
        yield from _limits(value)
        if str(name).endswith(OTHERWISE) and isinstance(value, int) and value > 0:
            yield value


def _short(tokens: Tokens) -> Tokens:
    """The beginning of a row, with tokens that are read: it tells as well whether rows see each other."""
    if len(tokens.ids) <= PROOF_TOKENS or tokens.media:
        return tokens
    weights = [0.0] * (PROOF_TOKENS - PROOF_READS) + [1.0] * PROOF_READS
    return replace(tokens, ids=tokens.ids[:PROOF_TOKENS], weights=weights)


def _late(tokens: Tokens) -> Tokens:
    """A long row of which only the end is read."""
    return replace(tokens, weights=[0.0] * (len(tokens.ids) - PROOF_READS) + [1.0] * PROOF_READS)


def _apart(way: Forward, loaded: Loaded, data: Sequence[Tokens]) -> bool:
    """Whether the gradient of a packed row's logits at the inputs of all other rows is exactly zero."""
    import torch

    way, seen = replace(way, share=False), list[torch.Tensor]()

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen[:] = [output.detach().requires_grad_(True)]
        return seen[0]

    one = way.batch(loaded, data, range(len(data)))
    place_T = torch.cat([torch.full((len(span),), i) for i, span in enumerate(one.spans)]).to(one.reads_N.device)
    handle = loaded.model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad(), way.on(loaded):
            logits = way.logits(loaded, one).float()
            for target in {0, len(data) - 1}:
                read = logits[place_T[one.reads_N] == target].square().sum()
                (found,) = torch.autograd.grad(read, seen[0], retain_graph=True)
                size_T = found.abs().amax(-1).flatten()
                if not bool(size_T[place_T == target].any()) or bool(size_T[place_T != target].any()):
                    return False
    except FAULTS:
        return False
    finally:
        handle.remove()
    return True


def dropout(loaded: Loaded) -> bool:
    """Whether anything is dropped at random in training."""
    import torch

    settings = loaded.model.config.get_text_config().to_dict()
    names = [name for name in settings if "drop" in name and not name.startswith(("summary", "classifier"))]
    drawn = any(isinstance(settings[name], float) and settings[name] > 0 for name in names)
    return drawn or any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in loaded.model.modules())


@contextmanager
def _still(loaded: Loaded) -> Iterator[None]:
    """No dropout and no gradient."""
    import torch

    was = loaded.model.training
    loaded.model.eval()
    with torch.no_grad():
        yield
    loaded.model.train(was)


@contextmanager
def _loud(loaded: Loaded, logits: torch.Tensor) -> Iterator[None]:
    """A head that gives logits of a size that training reaches: what a model does to large ones alone shows too."""
    head, largest = loaded.model.get_output_embeddings(), float(logits.abs().max())
    if head is None or not 0 < largest < LOUD:
        yield
        return
    handle = head.register_forward_hook(lambda module, inputs, out: out * (LOUD / largest))
    try:
        yield
    finally:
        handle.remove()


def _gives(way: Forward, loaded: Loaded, data: Sequence[Tokens], rows: Sequence[int], expected: torch.Tensor) -> bool:
    """Whether this pass gives the logits of some rows that were computed alone."""
    try:
        with way.on(loaded):
            found = way.logits(loaded, way.batch(loaded, data, rows)).float()
    except FAULTS:
        return False
    if found.shape != expected.shape:
        return False
    return bool((found - expected.float()).abs().max() <= NEAR * expected.abs().max().clamp(min=1.0))


def measure(
    loaded: Loaded, way: Forward, data: Sequence[Tokens], trained: Sequence[torch.nn.Parameter]
) -> tuple[Precision, str]:
    """The faster precision over a few real forwards and backwards, and what to say of it; fp32 unless bf16 pays."""
    import torch

    from didact.precision import bf16

    rows, tokens = list[int](), 0
    for row in sample(data, 32):
        tokens += len(data[row].ids)
        if rows and tokens > SAMPLE_TOKENS:
            break
        rows.append(row)
    one = way.batch(loaded, data, rows)
    clock = time.process_time if loaded.device.type == "cpu" else time.perf_counter  # other programs do not count

    def seconds() -> float:
        times = []
        for _ in range(3):  # the first is a warm-up
            tick = clock()
            way.loss(loaded, one).backward()  # type: ignore[no-untyped-call]
            if loaded.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(clock() - tick)
        return min(times[1:])

    with way.on(loaded):
        exact = seconds()
        try:
            with bf16(loaded.model):
                rounded = seconds()
        except RuntimeError:  # a model that insists on fp32 somewhere
            rounded = float("inf")
    for weight in trained:
        weight.grad = None
    fastest: Precision = "bf16" if rounded * MUST_GAIN < exact else "fp32"
    return fastest, f"computes in {fastest} (bf16 is {exact / rounded:.1f} times as fast)"

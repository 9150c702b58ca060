"""What frozen layers make of each row, computed once for all epochs.

Below the lowest layer that anything trained reaches, a row gives the same hidden states in every epoch. They are
computed once, before the first step and in an order of their own, so that a run that is killed and goes on has the same
bits; later steps begin at that layer. No model code is copied: the layers below are passed over, and the first that is
not gets what was kept. Equal logits are proved, or nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from didact import memory, tail
from didact.forward import FAULTS, Forward
from didact.settle import NEAR, dropout, sample

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded
    from didact.pack import Batch
    from didact.render import Tokens

SHARE = 0.25  # of the free memory may be taken
MOST = 0.8  # by a run that goes on, and had taken it before


@dataclass(frozen=True, slots=True)
class Frozen:
    """Hidden states (tokens of the row, C) of every row before layer number `first`."""

    first: int
    kept: Sequence[torch.Tensor]

    def hidden(self, one: Batch, hidden_BTC: torch.Tensor) -> torch.Tensor:
        """What was kept, laid out as this batch is; padding gets zeros."""
        import torch

        if one.spans:
            pieces = [self.kept[row][start:end] for row, start, end in one.pieces]
            return torch.cat(pieces).to(hidden_BTC)[None]
        found = torch.zeros_like(hidden_BTC)
        for i, row in enumerate(one.rows):
            found[i, : len(self.kept[row])] = self.kept[row]
        return found

    @contextmanager
    def given(self, loaded: Loaded, one: Batch) -> Iterator[None]:
        """A forward pass in here begins at the first layer that is not frozen."""
        layers = tail.stack(loaded.model)
        with ExitStack() as undo:
            for layer in layers[: self.first]:
                undo.enter_context(_passed_over(layer))
            undo.enter_context(_entered(layers[self.first], lambda hidden_BTC: self.hidden(one, hidden_BTC)))
            yield


def keep(
    loaded: Loaded,
    way: Forward,
    data: Sequence[Tokens],
    lengths: Sequence[int],
    max_tokens: int,
    epochs: float,
    say: Callable[[str], None],
    before: bool | None = None,
) -> Forward:
    """The same pass with what frozen layers give kept, where there are such layers and it is read more than once.

    before: whether a run that goes on had kept it. What is kept may differ from what is computed anew in the last
    bits, so that its choice stands whatever memory is free by now.
    """
    import torch

    if loaded.kind != "causal" or way.objective is not None or epochs <= 1 or dropout(loaded) or before is False:
        return way
    model = loaded.model
    with way.on(loaded):
        first = _lowest(loaded, way, data)
        if not first:
            return way
        layers, width = tail.stack(model), model.config.get_text_config().hidden_size
        value = next(layers[first].parameters()).element_size()
        size, free = sum(lengths) * width * value, memory.available()
        if free is not None and size > (MOST if before else SHARE) * free:
            say(_too_much(first, len(layers), size, before))
            return way
        was = model.training
        model.eval()
        with torch.no_grad():
            kept: list[Any] = [None] * len(data)
            try:
                for rows in way.cut(range(len(data)), lengths, max_tokens):
                    _fill(loaded, way, data, rows, first, kept)
            except (RuntimeError, MemoryError) as error:
                if not memory.exhausted(error):
                    raise
                kept.clear()
            frozen = Frozen(first, kept)
            proved = bool(kept) and _proved(loaded, way, replace(way, frozen=frozen), data)
        model.train(was)
    if not kept:
        say(_too_much(first, len(layers), size, before))
        return way
    if not proved:
        say(f"{first} of {len(layers)} layers are frozen, but begun after them this model gives other logits")
        return way
    say(f"{first} of {len(layers)} layers are frozen: computed once, not in every epoch ({size / (1 << 20):.1f} MiB)")
    return replace(way, frozen=frozen)


def _too_much(first: int, layers: int, size: int, before: bool | None) -> str:
    told = f"{first} of {layers} layers are frozen, but what they give would take {size / memory.GIB:.2g} GiB: "
    rest = "; they were kept before it stopped, so the last bits may differ" if before else ""
    return told + "computed in every epoch" + rest


def _lowest(loaded: Loaded, way: Forward, data: Sequence[Tokens]) -> int:
    """How many layers from the bottom nothing that is trained reaches: their input asks for no gradient."""
    asks = list[bool]()

    def look(hidden_BTC: torch.Tensor) -> torch.Tensor:
        asks.append(hidden_BTC.requires_grad)
        return hidden_BTC

    with ExitStack() as undo:
        for layer in tail.stack(loaded.model):
            undo.enter_context(_entered(layer, look))
        try:
            way.logits(loaded, way.batch(loaded, data, sample(data, 1)))
        except (*FAULTS, LookupError):
            return 0
    return max(0, asks.count(False) - 1) if asks == sorted(asks) else 0


def _fill(
    loaded: Loaded, way: Forward, data: Sequence[Tokens], rows: Sequence[int], first: int, kept: list[Any]
) -> None:
    """Run some rows up to a layer and keep what comes there; the pass ends at that layer."""
    one = replace(way, share=False, tail=False).batch(loaded, data, rows)

    def take(hidden_BTC: torch.Tensor) -> torch.Tensor:
        states_BTC = hidden_BTC.detach().cpu()
        if one.spans:
            for row, span in zip(one.rows, one.spans, strict=True):
                kept[row] = states_BTC[0, span.start : span.end].clone()
        else:
            for i, row in enumerate(one.rows):
                kept[row] = states_BTC[i, : len(data[row].ids)].clone()
        raise _Enough

    with _entered(tail.stack(loaded.model)[first], take):
        try:
            replace(way, tail=False).logits(loaded, one)
        except _Enough:
            return
    raise AssertionError("the layer was not reached")


def _proved(loaded: Loaded, way: Forward, with_kept: Forward, data: Sequence[Tokens]) -> bool:
    import torch

    rows = sample(data)
    one = way.batch(loaded, data, rows)
    try:
        expected = way.logits(loaded, one).float()
        way.logits(loaded, way.batch(loaded, data, rows[:1]))  # so that nothing a layer remembers is of these rows
        found = with_kept.logits(loaded, one).float()
    except FAULTS:
        return False
    near = NEAR if next(loaded.model.parameters()).dtype == torch.float32 else 2.0**-7  # bf16 rounds by 2**-8
    return bool((found - expected).abs().max() <= near * expected.abs().max().clamp(min=1.0))


class _Enough(Exception):
    """The layer was reached: nothing after it is wanted."""


@contextmanager
def _entered(layer: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """The hidden states on their way into a layer seen, and changed."""

    def before(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "hidden_states": change(named["hidden_states"])}

    handle = layer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _passed_over(layer: torch.nn.Module) -> Iterator[None]:
    """A layer that hands on what it gets."""

    def forward(*inputs: Any, **named: Any) -> Any:
        return inputs[0] if inputs else named["hidden_states"]

    was = layer.__dict__.get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if was is None:
            del layer.__dict__["forward"]
        else:
            layer.forward = was

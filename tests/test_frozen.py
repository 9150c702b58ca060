"""Layers that nothing trained reaches are computed once: the same loss and gradients, fewer passes, the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attention import ALONE, PACKED, loaded, rows

from didact import memory, tail
from didact.forward import Forward
from didact.frozen import keep
from didact.settle import settle


def _top(some: Any, first: int) -> Any:
    """Only layers from `first` on, and what stands after them, are trained."""
    some.model.requires_grad_(False)
    for layer in tail.stack(some.model)[first:]:
        layer.requires_grad_(True)
    return some


def _gradients(some: Any, way: Forward, data: Any, chosen: Any) -> tuple[float, dict[str, torch.Tensor]]:
    some.model.zero_grad()
    with way.on(some):
        loss = way.loss(some, way.batch(some, data, chosen))
        loss.backward()
    weights = some.model.named_parameters()
    return float(loss.detach()), {name: weight.grad.clone() for name, weight in weights if weight.grad is not None}


def _kept(some: Any, way: Forward, data: Any, epochs: float = 3.0, say: Any = print) -> Forward:
    return keep(some, way, data, [len(row.ids) for row in data], 200, epochs, say)


@pytest.mark.parametrize("packing", ["auto", False])
@pytest.mark.parametrize("kind", sorted(PACKED))
def test_loss_and_gradients_are_the_same(kind: str, packing: Any) -> None:
    exact = "gemma" not in kind  # whose norms go through fp32
    near = 1e-9 if exact else 1e-4
    some, data, notes = _top(loaded(PACKED[kind](), exact=exact), 1), rows(9), list[str]()
    plain = settle(some, data, packing, notes.append)
    way = _kept(some, plain, data, say=notes.append)
    assert way.frozen is not None, notes
    assert "1 of 2 layers are frozen: computed once, not in every epoch" in notes[-1]
    chosen = [7, 2, 5, 0, 4]
    expected, found = _gradients(some, plain, data, chosen), _gradients(some, way, data, chosen)
    assert found[0] == pytest.approx(expected[0], rel=near)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        assert (found[1][name] - grad).norm() <= near * grad.norm().clamp(min=1e-5), name


@pytest.mark.parametrize("kind", sorted(ALONE))
def test_models_of_another_kind_keep_their_logits(kind: str) -> None:
    some, data = _top(loaded(ALONE[kind]()), 1), rows(6)
    plain = settle(some, data, "auto", print)
    way = _kept(some, plain, data)
    expected, found = _gradients(some, plain, data, [3, 1]), _gradients(some, way, data, [3, 1])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)


def test_the_frozen_layers_are_not_computed_again() -> None:
    some, data, calls = _top(loaded(PACKED["llama"]()), 1), rows(6), list[int]()
    way = _kept(some, settle(some, data, "auto", print), data)
    tail.stack(some.model)[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    _gradients(some, way, data, [0, 1])
    assert not calls
    plain = replace(way, frozen=None)
    _gradients(some, plain, data, [0, 1])
    assert calls == [1]  # and the layer works again


@pytest.mark.parametrize("what", ["one epoch", "embeddings", "lowest layer", "dropout", "objective", "memory"])
def test_nothing_is_kept_where_it_would_not_pay_or_not_be_true(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some, data, notes = _top(loaded(PACKED["llama"]()), 1), rows(6), list[str]()
    way = settle(some, data, "auto", print)
    if what == "embeddings":
        some.model.get_input_embeddings().requires_grad_(True)
    if what == "lowest layer":
        tail.stack(some.model)[0].mlp.up_proj.bias.requires_grad_(True)
    if what == "dropout":
        some.model.config.attention_dropout = 0.1
    if what == "objective":
        way = replace(way, objective=object())  # type: ignore[arg-type]
    if what == "memory":
        monkeypatch.setattr(memory, "available", lambda: 1000.0)
    assert _kept(some, way, data, 1.0 if what == "one epoch" else 3.0, notes.append).frozen is None
    assert (what == "memory") == any("would take" in note for note in notes)


def test_a_model_that_looks_back_past_the_layers_is_computed_whole() -> None:
    some, data, notes = _top(loaded(PACKED["llama"]()), 1), rows(6), list[str]()
    first, second = tail.stack(some.model)
    seen: dict[str, torch.Tensor] = {}
    first.mlp.register_forward_hook(lambda module, inputs, out: seen.update(it=out))
    second.mlp.register_forward_hook(lambda module, inputs, out: out + seen["it"].sum())
    way = replace(settle(some, data, False, print), tail=False)
    assert _kept(some, way, data, say=notes.append).frozen is None
    assert "begun after them this model gives other logits" in notes[-1]


def test_bits_do_not_depend_on_where_a_run_goes_on() -> None:
    data = rows(12)
    some, other = _top(loaded(PACKED["qwen3"]()), 1), _top(loaded(PACKED["qwen3"]()), 1)
    way = _kept(some, settle(some, data, "auto", print), data)
    _gradients(some, way, data, [1, 2, 3])
    again = _kept(other, settle(other, data, "auto", print), data)
    first, second = _gradients(some, way, data, [4, 5]), _gradients(other, again, data, [4, 5])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_the_loop_keeps_them_and_learns_the_same(tiny_llama: Path) -> None:
    from didact.methods.full import FullConfig
    from didact.methods.lora import LoraConfig
    from didact.model import load
    from didact.tune import TuneConfig, tune

    config = TuneConfig(epochs=3, batch_size=4, learning_rate=1e-3, precision="fp32")
    for method in (FullConfig(layers=1), LoraConfig(layers=1)):
        found = []
        for keeps in (True, False):
            model = load(str(tiny_llama))
            size = model.model.config.vocab_size
            data = [replace(row, ids=[i % size for i in row.ids]) for row in rows(10)]
            notes = list[str]()
            with pytest.MonkeyPatch.context() as patch:
                if not keeps:
                    patch.setattr("didact.frozen.keep", lambda loaded, way, *others: way)
                result = tune(model, method, data, config, note=notes.append)
            assert any("layers are frozen: computed once" in note for note in notes) == keeps, notes
            found.append(result.loss)
        assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("free", "later"), [(1e9, 1e9), (1e9, 2e5), (9e4, 1e9), (1e9, 9e4)])
def test_a_stopped_run_goes_on_with_the_same_bits(
    free: float, later: float, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are kept was chosen once: memory that is free by the time it goes on does not change it."""
    from didact.errors import Interrupted
    from didact.methods.full import FullConfig
    from didact.model import load
    from didact.tune import TuneConfig, tune

    config = TuneConfig(epochs=3, batch_size=4, learning_rate=1e-3, precision="fp32")

    notes = list[str]()

    def run(folder: Path, stop: Any, memory_free: float) -> Any:
        monkeypatch.setattr(memory, "available", lambda: memory_free)
        model = load(str(tiny_llama))
        size = model.model.config.vocab_size
        data = [replace(row, ids=[i % size for i in row.ids]) for row in rows(10)]
        tune(model, FullConfig(layers=1), data, config, folder=folder, stop=stop, note=notes.append)
        return model.model.state_dict()

    steps = iter(range(100))
    whole = run(tmp_path / "a", lambda: False, free)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", lambda: next(steps) == 4, free)
    notes.clear()
    mended = run(tmp_path / "b", lambda: False, later)
    told = [note for note in notes if "layers are frozen" in note]
    if (free, later) == (1e9, 9e4):  # 82 kB are to be kept, of which four fifths of this would not be enough
        assert "they were kept before it stopped, so the last bits may differ" in told[-1]
        return
    assert all(torch.equal(whole[name], mended[name]) for name in whole)
    assert any("computed once" in note for note in told) == (free == 1e9), notes


def test_memory_that_ends_while_they_are_computed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    some, data, notes = _top(loaded(PACKED["llama"]()), 1), rows(9), list[str]()
    way = settle(some, data, "auto", print)

    def full(*others: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("didact.frozen._fill", full)
    assert _kept(some, way, data, say=notes.append).frozen is None
    assert "computed in every epoch" in notes[-1]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_more_layers_than_there_are_is_refused(kind: str, tiny_llama: Path) -> None:
    from didact.errors import UsageError
    from didact.methods import METHODS
    from didact.methods.attached import attach
    from didact.model import load

    with pytest.raises(UsageError, match="the model has 2 layers, not 7 - use at most 2"):
        attach(load(str(tiny_llama)), METHODS[kind].config(layers=7))

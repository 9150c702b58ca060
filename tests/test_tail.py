"""The end of the last layer at some positions: fewer are computed, the same is read."""

from __future__ import annotations

import pytest
import torch
from test_attention import PACKED, loaded, rows

from didact import tail
from didact.forward import Forward
from didact.settle import settle


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
def test_only_what_is_read_is_computed(kind: str) -> None:
    some, data = loaded(PACKED[kind]()), rows(8)
    way = Forward("reads", packed=True, share=True, tail=True)
    one = way.batch(some, data, range(8))
    seen: list[int] = []
    for part in tail.parts(some.model.base_model):
        inner = next(m for m in part.modules() if not list(m.children()))
        inner.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].shape[1]))
    with way.on(some):
        found = way.hidden(some, one)
        assert seen == [len(torch.unique(one.reads_N))] * 2
        assert torch.allclose(found, Forward("reads", packed=True, share=True).hidden(some, one), atol=1e-6)
    assert seen[-1] == one.ids_BT.shape[1]  # the hooks are gone


def test_where_another_position_has_a_say_it_stays_whole_and_says_so() -> None:
    some, notes = loaded(PACKED["llama"]()), list[str]()
    block = some.model.model.layers[-1].mlp
    plain = block.forward
    block.forward = lambda x: plain(x) + plain(x).cumsum(1)
    way = settle(some, rows(6), False, notes.append)
    assert not way.tail
    way = settle(some, rows(1), "auto", notes.append)
    assert way.packed
    assert not way.tail
    assert "the last layer is computed at every position" in notes[-1]


def test_with_activations_computed_again_it_is_off() -> None:
    some = loaded(PACKED["llama"]())
    some.model.gradient_checkpointing_enable()
    assert not settle(some, rows(6), "auto", print).tail

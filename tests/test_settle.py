"""Which pass is taken: proofs see what a model does to long rows only, and to large logits only."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from didact.forward import Forward
from didact.model import Loaded
from didact.render import Tokens
from didact.settle import NEAR, beyond, settle

LONG = 50  # from here on these models read a row otherwise
SHARED = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 1}
STRETCHED = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
KINDS: dict[str, Any] = {
    "mistral": lambda: transformers.MistralConfig(**SHARED, sliding_window=LONG),
    # the window is a mask that the model makes, and the attention is not told of it
    "phimoe": lambda: transformers.PhimoeConfig(**SHARED, **EXPERTS, num_local_experts=2, sliding_window=LONG),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **SHARED, **EXPERTS, num_experts=2, moe_intermediate_size=32, shared_expert_intermediate_size=32,
        use_sliding_window=True, sliding_window=LONG, max_window_layers=2,
    ),
    "llama4": lambda: transformers.Llama4TextConfig(
        **SHARED, **EXPERTS, head_dim=8, attention_chunk_size=LONG, num_local_experts=2, intermediate_size_mlp=64,
        no_rope_layers=[1, 0], moe_layers=[],
    ),
    # its positions are stretched for a whole batch as soon as one row of it is long
    "phi3": lambda: transformers.Phi3Config(
        **SHARED, original_max_position_embeddings=LONG, rope_parameters={**STRETCHED, "rope_theta": 1e4}
    ),
}  # fmt: skip


def loaded(config: Any, spread: float = 0.15) -> Loaded:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=spread)
    return Loaded(model, None, None, "", "", None)  # type: ignore[arg-type]


def rows(*lengths: int) -> list[Tokens]:
    rng = random.Random(0)
    made = [[rng.randrange(3, 300) for _ in range(n)] for n in lengths]
    return [Tokens(ids, [0.0] * 4 + [1.0] * (len(ids) - 4), [None] * len(ids), str(i)) for i, ids in enumerate(made)]


def farthest(some: Loaded, way: Forward, data: list[Tokens]) -> float:
    """The largest difference of the logits of a pass from those of each row alone."""
    plain, numbers, gaps = Forward(), [len(tokens.ids) for tokens in data], list[float]()
    with torch.no_grad():
        for cut in way.cut(range(len(data)), numbers, 1 << 20):
            alone = torch.cat([plain.logits(some, plain.batch(some, data, [row])) for row in cut])
            with way.on(some):
                found = way.logits(some, way.batch(some, data, cut))
            gaps.append(float((found - alone).abs().max() / alone.abs().max()))
    return max(gaps)


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_long_rows_show_is_seen_where_there_are_such(kind: str) -> None:
    some, notes = loaded(KINDS[kind]()), list[str]()
    data = rows(12, 20, 31, 33, 45, 46, 90, 90)
    way = settle(some, data, "auto", notes.append)
    assert farthest(some, way, data) < 1e-5
    assert (way.packed, way.alone) == {"mistral": (True, False), "phi3": (False, True)}.get(kind, (False, False))
    assert bool(notes) == (kind != "mistral")
    short = settle(some, data[:6], "auto", notes.append)
    assert short.packed
    assert farthest(some, short, data[:6]) < 1e-5


def test_the_shortest_row_beyond_each_limit_is_looked_at() -> None:
    some = loaded(KINDS["mistral"]())
    assert beyond(some, rows(40, 90, LONG + 1, LONG)) == [2]
    assert beyond(some, rows(40, LONG)) == []


def test_what_a_head_does_to_large_logits_shows_on_small_ones() -> None:
    config = transformers.Gemma2Config(**SHARED, head_dim=8, final_logit_softcapping=30.0)
    some, data = loaded(config, spread=0.001), rows(20, 20, 30, 30)
    assert settle(some, data, "auto", lambda text: None).head == "kept"
    assert not some.model.get_output_embeddings()._forward_hooks


def test_a_state_that_carries_too_little_to_show_in_the_logits_is_seen_by_its_gradient() -> None:
    config = transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8)
    some, data, notes = loaded(config, spread=0.002), rows(20, 20, 30, 30), list[str]()
    packed = Forward("reads", packed=True)
    assert farthest(some, packed, data) < NEAR
    assert not settle(some, data, "auto", notes.append).packed
    assert notes == ["one sequence per row, grouped by length: packed, this model gives other logits"]
    assert not some.model.get_input_embeddings()._forward_hooks

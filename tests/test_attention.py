"""Sequences on one axis: the same numbers as one at a time, nothing from one to another, on many architectures."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from didact import attention
from didact.attention import PLAIN_LONGEST, isolated, plan
from didact.forward import Forward
from didact.model import Loaded
from didact.pack import Span, flat
from didact.render import Tokens
from didact.settle import settle

SIZE = 300
SHAPE = {"vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "max_position_embeddings": 512}
SHARED = {**SHAPE, **HEADS, "num_key_value_heads": 2}
OLD = {"vocab_size": SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
DROPLESS = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
STOPS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
PACKED: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SHARED, attention_bias=True, mlp_bias=True),
    "qwen3": lambda: transformers.Qwen3Config(**SHARED, head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(**OLD, **DROPLESS),
    "neox": lambda: transformers.GPTNeoXConfig(**SHAPE, **HEADS),
    "opt": lambda: transformers.OPTConfig(**SHAPE, **HEADS, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0),
    "phi": lambda: transformers.PhiConfig(**SHAPE, **HEADS),
    "phi3": lambda: transformers.Phi3Config(**SHAPE, **HEADS, **STOPS),
    "mistral": lambda: transformers.MistralConfig(**SHARED, sliding_window=20),
    "gemma2": lambda: transformers.Gemma2Config(
        **SHARED, head_dim=8, sliding_window=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SHARED, head_dim=8, sliding_window=16),
    "olmo2": lambda: transformers.Olmo2Config(**SHARED),
}
ALONE: dict[str, Any] = {
    "bloom": lambda: transformers.BloomConfig(vocab_size=SIZE, hidden_size=32, n_layer=2, n_head=4),  # ALiBi
    "mamba": lambda: transformers.MambaConfig(vocab_size=SIZE, hidden_size=32, num_hidden_layers=2, state_size=8),
    "gptj": lambda: transformers.GPTJConfig(**OLD, **DROPLESS, rotary_dim=8),  # an attention of its own
    "gpt_oss": lambda: transformers.GptOssConfig(**SHARED, head_dim=8, num_local_experts=4),  # sinks
}


def rows(n: int = 10, seed: int = 0, supervised: int = 3) -> list[Tokens]:
    """Rows of which the even ones begin with 20 common tokens and the odd ones with 40."""
    rng, data = random.Random(seed), []
    head = [rng.randrange(3, SIZE) for _ in range(40)]
    for i in range(n):
        ids = head[: 40 if i % 2 else 20] + [rng.randrange(3, SIZE) for _ in range(rng.randrange(5, 60))]
        weights = [0.0] * (len(ids) - supervised) + [1.0, 0.5, 1.0][:supervised]
        data.append(Tokens(ids, weights, [None] * len(ids), str(i)))
    return data


def loaded(config: Any, exact: bool = False) -> Loaded:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(3)  # so that attention has a say
    if exact:
        _in_double(model)
    return Loaded(model, None, None, "", "", None)  # type: ignore[arg-type]


def _in_double(model: torch.nn.Module) -> None:
    """fp64 throughout: the library's RMSNorm would go through fp32."""
    model.double()
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(len(module.weight), module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            model.set_submodule(name, norm)


def gradients(way: Forward, some: Loaded, data: list[Tokens], cuts: list[list[int]]) -> dict[str, torch.Tensor]:
    some.model.zero_grad()
    with way.on(some):
        for cut in cuts:
            way.loss(some, way.batch(some, data, cut)).backward()
    return {name: weight.grad.clone() for name, weight in some.model.named_parameters() if weight.grad is not None}


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor relative to its norm; what is zero but for rounding is left out."""
    assert a.keys() == b.keys()
    largest = max(float(x.norm()) for x in a.values())
    return max(float((a[n] - b[n]).norm() / a[n].norm()) for n in a if a[n].norm() > 1e-6 * largest)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_logits_are_proved_and_gradients_are_the_same(kind: str) -> None:
    some, data, notes = loaded(PACKED[kind]()), rows(), list[str]()
    way = settle(some, data, "auto", notes.append)
    assert way.packed
    assert way.share
    assert way.head == ("kept" if kind == "gemma2" else "reads")
    assert way.tail == (way.head == "reads")
    assert notes == []
    alone = gradients(Forward(), some, data, [[i] for i in range(10)])
    assert gap(alone, gradients(way, some, data, [list(range(10))])) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("share", [True, False])
def test_in_fp64_every_cut_gives_the_gradients_of_one_at_a_time(kind: str, share: bool) -> None:
    some, data = loaded(PACKED[kind](), exact=True), rows(12)
    way = Forward("reads", packed=True, share=share, tail=True)
    alone = gradients(Forward(), some, data, [[i] for i in range(12)])
    for size in (12, 6, 5, 1):
        cuts = [list(range(12))[start : start + size] for start in range(0, 12, size)]
        assert gap(alone, gradients(way, some, data, cuts)) < 1e-10


@pytest.mark.parametrize("kind", ALONE)
def test_what_cannot_keep_sequences_apart_runs_one_per_row_and_says_so(kind: str) -> None:
    some, data, notes = loaded(ALONE[kind]()), rows(6), list[str]()
    before = some.model.config._attn_implementation
    way = settle(some, data, "auto", notes.append)
    assert not way.packed
    assert notes == ["one sequence per row, grouped by length: packed, this model gives other logits"]
    assert some.model.config._attn_implementation == before


def test_a_leak_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With spans laid as one sequence the proof must fail."""
    real = attention.plan
    monkeypatch.setattr(attention, "plan", lambda spans, *rest: real([Span(0, spans[-1].end)], *rest))
    notes = list[str]()
    assert not settle(loaded(PACKED["llama"]()), rows(6), "auto", notes.append).packed
    assert "other logits" in notes[0]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral"])
def test_no_gradient_reaches_another_sequence(kind: str, share: bool) -> None:
    some, data = loaded(PACKED[kind]()), rows(6)
    way = Forward("all", packed=True, share=share)
    one = way.batch(some, data, range(6))
    embedded = some.model.get_input_embeddings()(one.ids_BT).detach().requires_grad_()
    inputs = {"inputs_embeds": embedded, "position_ids": one.positions_BT, "packing": plan(one.spans, 32)}
    with way.on(some):
        logits = some.model(**inputs, use_cache=False).logits[0]
    offset = 0
    for i in range(6):
        read_N = one.reads_N[offset : offset + 3]
        offset += 3
        (gradient,) = torch.autograd.grad(logits[read_N].logsumexp(-1).sum(), embedded, retain_graph=True)
        touched = set(gradient[0].norm(dim=-1).nonzero().flatten().tolist())
        (own,) = [span for span in one.spans if span.start <= int(read_N[0]) < span.end]
        allowed = set(range(own.start, own.end))
        allowed |= set(range(one.spans[own.trunk].start, one.spans[own.trunk].end)) if own.trunk >= 0 else set()
        assert touched
        assert touched <= allowed, i


def spans(data: list[Tokens], share: bool = True) -> tuple[Span, ...]:
    return flat(data, range(len(data)), share).spans


def attend(some: tuple[Span, ...], heads: int, kv_heads: int, **how: Any) -> list[torch.Tensor]:
    """Output and the three gradients of the attention itself, in fp64."""
    torch.manual_seed(1)
    tokens = some[-1].end
    q = torch.randn(1, heads, tokens, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, kv_heads, tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out, _ = isolated(None, q, k, v, None, packing=plan(some, heads * 8), **how)
    weight = torch.randn(out.shape, dtype=torch.float64)
    (out * weight).sum().backward()
    return [out, *(x.grad for x in (q, k, v) if x.grad is not None)]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("window", [None, 7])
def test_the_short_way_equals_the_one_torch_differentiates(
    heads: int, kv_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = spans(rows(9))
    assert any(span.trunk >= 0 for span in some)
    short = attend(some, heads, kv_heads, sliding_window=window)
    monkeypatch.setattr(attention, "PLAIN_LONGEST", 0)
    long = attend(some, heads, kv_heads, sliding_window=window)
    assert len(short) == len(long) == 4
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(short, long, strict=True))
    huge = attend(some, heads, kv_heads, sliding_window=window, softcap=1e6)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-8) for a, b in zip(short, huge, strict=True))


def test_long_sequences_stand_alone() -> None:
    lengths = [PLAIN_LONGEST + 5, PLAIN_LONGEST + 9, 4, 5]
    ends = [sum(lengths[: i + 1]) for i in range(4)]
    groups = plan([Span(end - length, end) for end, length in zip(ends, lengths, strict=True)], 64).groups
    assert sorted((group.spans, group.length) for group in groups) == [(1, lengths[0]), (1, lengths[1]), (2, 5)]


def test_attention_dropout_is_drawn() -> None:
    some = spans(rows(4))
    assert not torch.equal(attend(some, 4, 4, dropout=0.5)[0], attend(some, 4, 4)[0])


@pytest.mark.parametrize("window", [None, 9])
def test_the_kernel_of_gpus_gives_the_same(window: int | None) -> None:
    """Its forward, which a CPU can run too."""
    some, torch_ = spans(rows(8)), torch.float32
    made = plan(some, 32)
    torch.manual_seed(2)
    q = torch.randn(4, some[-1].end, 8, dtype=torch_)
    k, v = torch.randn(2, some[-1].end, 8, dtype=torch_), torch.randn(2, some[-1].end, 8, dtype=torch_)
    expected, _ = isolated(None, q[None], k[None], v[None], None, packing=made, sliding_window=window)
    found = attention.flex(q, k, v, made, (8**-0.5, window, None)).transpose(0, 1)
    assert torch.allclose(found, expected[0], atol=1e-5)


def test_what_it_does_not_know_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 8)
    for how in ({}, {"packing": plan([Span(0, 4)], 8), "s_aux": x}):
        with pytest.raises(NotImplementedError):
            isolated(None, x, x, x, None, **how)
    with pytest.raises(NotImplementedError):
        isolated(None, x, x, x, torch.zeros(4, 4), packing=plan([Span(0, 4)], 8))

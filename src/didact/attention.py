"""Attention over a flat token axis on which many sequences lie end to end and none sees another.

Registered in the attention interface of transformers, so that no model code is copied: a model that takes its attention
from there is packed, and `forward` proves on real rows that it is the same as one sequence at a time.
Sequences of like length are multiplied together; a prompt that several continue is computed once (its gradient is their
sum). Short groups have a backward of their own, which in bf16 on a CPU costs less than half of flash attention's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from didact.pack import Span

NAME = "didact_isolated"
PLAIN_LONGEST = 1024  # beyond it keeping the scores takes too much memory, and fused kernels win
CALL_AREA = 1_000_000  # one more group costs as many scores as this, divided by the width of all heads


@dataclass(frozen=True, slots=True)
class Group:
    """Spans multiplied together. index_N: their tokens, each span padded on the right to `length` with its last one.

    padding_N: places of the padding in index_N; trunk: where the tokens lie that all of the spans continue.
    """

    index_N: torch.Tensor
    padding_N: torch.Tensor
    spans: int
    length: int
    trunk: slice | None

    @property
    def keys(self) -> int:
        return self.length + (0 if self.trunk is None else self.trunk.stop - self.trunk.start)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the attention of a packed batch is computed, the same in each layer.

    inverse_T: place of each token in the groups laid end to end; span_T, trunk_T: the span of a token and the one it
    continues (itself if none).
    """

    groups: tuple[Group, ...]
    inverse_T: torch.Tensor
    span_T: torch.Tensor
    trunk_T: torch.Tensor
    made: dict[Any, Any] = field(default_factory=dict)

    def mask(self, group: Group, window: int | None) -> torch.Tensor:
        """Which keys (trunk, then own) each query of a span sees."""
        import torch

        key = ("mask", group.length, group.keys, window)
        if key not in self.made:
            device = group.index_N.device
            query_Q = torch.arange(group.keys - group.length, group.keys, device=device)[:, None]
            key_K = torch.arange(group.keys, device=device)
            mask_QK = key_K <= query_Q
            self.made[key] = mask_QK if window is None else mask_QK & (key_K > query_Q - window)
        found: torch.Tensor = self.made[key]
        return found

    def bias(self, group: Group, window: int | None, repeats: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask as 0 and minus infinity, the queries `repeats` times."""
        import torch

        key = ("bias", group.length, group.keys, window, repeats, dtype)
        if key not in self.made:
            hidden_QK = ~self.mask(group, window)
            bias_QK = torch.zeros(hidden_QK.shape, dtype=dtype, device=hidden_QK.device)
            self.made[key] = bias_QK.masked_fill_(hidden_QK, -torch.inf).repeat(repeats, 1)[None]
        found: torch.Tensor = self.made[key]
        return found


def plan(spans: Sequence[Span], width: int, device: torch.device | str = "cpu") -> Plan:
    """Group the spans of a batch so that padding and calls together cost least. width: of all heads together."""
    import torch

    groups, order = [], list[torch.Tensor]()
    for trunk in sorted({span.trunk for span in spans}):
        some = sorted((span for span in spans if span.trunk == trunk), key=lambda span: (len(span), span.start))
        place = None if trunk < 0 else slice(spans[trunk].start, spans[trunk].end)
        for members in _cut(some, len(spans[trunk]) if trunk >= 0 else 0, CALL_AREA // max(1, width)):
            length = len(members[-1])
            step_L = torch.arange(length)
            index_N = torch.cat([span.start + step_L.clamp(max=len(span) - 1) for span in members])
            real_N = torch.cat([step_L < len(span) for span in members])
            order.append(torch.where(real_N, index_N, -1))
            padding_N = (~real_N).nonzero().flatten()
            groups.append(Group(index_N.to(device), padding_N.to(device), len(members), length, place))
    order_N = torch.cat(order)
    inverse_T = torch.empty(sum(map(len, spans)), dtype=torch.long)
    inverse_T[order_N[order_N >= 0]] = (order_N >= 0).nonzero().flatten()
    span_T = torch.arange(len(spans)).repeat_interleave(torch.tensor([len(span) for span in spans]))
    trunk_T = torch.tensor([i if span.trunk < 0 else span.trunk for i, span in enumerate(spans)])[span_T]
    return Plan(tuple(groups), inverse_T.to(device), span_T.to(device), trunk_T.to(device))


def _cut(spans: Sequence[Span], ahead: int, call: int) -> list[list[Span]]:
    """Runs of the sorted spans, exact by dynamic programming; long ones stand alone."""
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(spans) + 1):
        length = len(spans[end - 1])
        area, first = length * (length + ahead), 0 if length + ahead <= PLAIN_LONGEST else end - 1
        best.append(min((best[start][0] + (end - start) * area + call, start) for start in range(first, end)))
    groups, end = list[list[Any]](), len(spans)
    while end:
        groups.append(list(spans[best[end][1] : end]))
        end = best[end][1]
    return groups[::-1]


def register(function: Callable[..., Any] | None = None) -> str:
    """Make the attention known to transformers; gives its name for `set_attn_implementation`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function or isolated)
    return NAME


def implementation(model: Any) -> str:
    """The attention by which a model's language part computes."""
    found: str = model.config.get_text_config()._attn_implementation
    return found


def switch(model: Any, name: str) -> None:
    """Let a model compute its attention by a function known to transformers; a tower that sees keeps its own."""
    seeing = "vision_config" in getattr(model.config, "sub_configs", ())
    model.set_attn_implementation({"text_config": name} if seeing else name)


def isolated(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of one layer: query, key and value (1, heads, tokens, size) -> (1, tokens, heads, size).

    Raises NotImplementedError for what it cannot isolate: masks of the model's own, biases, sinks.
    """
    import torch

    packing: Plan | None = others.get("packing")
    odd = sorted(name for name in ("position_bias", "s_aux", "sinks") if others.get(name) is not None)
    if packing is None or attention_mask is not None or odd:
        raise NotImplementedError(f"isolated attention cannot honour {', '.join(odd) or 'a mask of the model'}")
    scale = others.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    window, softcap, dropout = others.get("sliding_window"), others.get("softcap"), others.get("dropout", 0.0)
    q, k, v = query[0], key[0], value[0]
    if query.is_cuda and not dropout:
        out = flex(q, k, v, packing, (scale, window, softcap))
    elif dropout or softcap is not None or any(group.keys > PLAIN_LONGEST for group in packing.groups):
        outs = [_one(q, k, v, packing, group, (scale, window, softcap, dropout)) for group in packing.groups]
        out = torch.cat(outs, 1).index_select(1, packing.inverse_T)
    else:
        out = _attend()(q, k, v, packing, scale, window)
    return out.transpose(0, 1)[None], None


# ---- groups, on a CPU


@cache
def _attend() -> Callable[..., torch.Tensor]:
    """Attention of short groups by batched products; the scores are kept, and only what is not padded otherwise."""
    import torch
    from torch.autograd.function import once_differentiable

    class Attend(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *how: Any) -> torch.Tensor:
            packing, scale, window = how
            outs, kept = [], []
            for group in packing.groups:
                query, key, value = _queries(q, len(k), group), _keys(k, group), _keys(v, group)
                bias = packing.bias(group, window, len(q) // len(k), q.dtype)
                shares = torch.softmax(torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale), -1)
                outs.append(_by_head(torch.bmm(shares, value), len(q), len(k), group))
                kept.append(shares)
            ctx.how = how
            ctx.save_for_backward(q, k, v, *kept)
            return torch.cat(outs, 1).index_select(1, packing.inverse_T)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            q, k, v, *kept = ctx.saved_tensors
            packing, scale, _ = ctx.how
            dqs, dks, dvs = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
            for group, shares in zip(packing.groups, kept, strict=True):
                query, key, value = _queries(q, len(k), group), _keys(k, group), _keys(v, group)
                out = _queries(grad, len(k), group, blank=True)  # padding asks for nothing, so it moves nothing
                wanted = torch.bmm(out, value.transpose(1, 2))
                moved = torch._softmax_backward_data(wanted, shares, -1, shares.dtype).mul_(scale)
                dqs.append(_by_head(torch.bmm(moved, key), len(q), len(k), group))
                dks.append(torch.bmm(moved.transpose(1, 2), query))
                dvs.append(torch.bmm(shares.transpose(1, 2), out))
            dq = torch.cat(dqs, 1).index_select(1, packing.inverse_T)
            return dq, _to_keys(dks, packing, len(k)), _to_keys(dvs, packing, len(k)), None, None, None

    return Attend.apply


def _queries(q_HTD: torch.Tensor, kv_heads: int, group: Group, blank: bool = False) -> torch.Tensor:
    """(kv heads x spans, heads of each x length, size), so that heads with one key are one product."""
    heads, _, size = q_HTD.shape
    x = q_HTD.index_select(1, group.index_N)
    if blank and len(group.padding_N):
        x.index_fill_(1, group.padding_N, 0)
    if heads == kv_heads:
        return x.view(heads * group.spans, group.length, size)
    x = x.view(kv_heads, heads // kv_heads, group.spans, group.length, size).transpose(1, 2)
    return x.reshape(kv_heads * group.spans, -1, size)


def _by_head(x: torch.Tensor, heads: int, kv_heads: int, group: Group) -> torch.Tensor:
    """The inverse of `_queries`: (heads, spans x length, size)."""
    size = x.shape[-1]
    if heads != kv_heads:
        x = x.view(kv_heads, group.spans, heads // kv_heads, group.length, size).transpose(1, 2)
    return x.reshape(heads, -1, size)


def _keys(x_HTD: torch.Tensor, group: Group) -> torch.Tensor:
    """(kv heads x spans, keys, size): the trunk in front of each span."""
    import torch

    heads, _, size = x_HTD.shape
    own = x_HTD.index_select(1, group.index_N).view(heads, group.spans, group.length, size)
    if group.trunk is not None:
        own = torch.cat((x_HTD[:, None, group.trunk].expand(-1, group.spans, -1, -1), own), 2)
    return own.view(heads * group.spans, -1, size)


def _to_keys(parts: Sequence[torch.Tensor], packing: Plan, heads: int) -> torch.Tensor:
    """The inverse of `_keys`, over all groups: what several spans send to one trunk is summed."""
    import torch

    size = parts[0].shape[-1]
    split = [x.view(heads, g.spans, g.keys, size) for x, g in zip(parts, packing.groups, strict=True)]
    own = [x[:, :, g.keys - g.length :].reshape(heads, -1, size) for x, g in zip(split, packing.groups, strict=True)]
    flat = torch.cat(own, 1).index_select(1, packing.inverse_T)
    for x, group in zip(split, packing.groups, strict=True):
        if group.trunk is not None:
            flat[:, group.trunk] += x[:, :, : group.keys - group.length].sum(1)
    return flat


def _one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: Plan, group: Group, how: tuple[Any, ...]
) -> torch.Tensor:
    """One group by what torch differentiates itself: long ones, and what the short way does not know."""
    import torch

    scale, window, softcap, dropout = how
    repeats = len(q) // len(k)
    query = _queries(q, len(k), group)
    key, value = _keys(k, group), _keys(v, group)
    if softcap is None:
        causal = group.trunk is None and window is None and repeats == 1
        mask = None if causal else packing.mask(group, window).repeat(repeats, 1)[None]
        out = torch.nn.functional.scaled_dot_product_attention(
            query[None], key[None], value[None], mask, dropout, is_causal=causal, scale=scale
        )[0]
    else:
        scores = softcap * torch.tanh(torch.bmm(query, key.transpose(1, 2)) * (scale / softcap))
        shares = torch.softmax(scores + packing.bias(group, window, repeats, scores.dtype), -1)
        out = torch.bmm(torch.nn.functional.dropout(shares, dropout), value)
    return _by_head(out, len(q), len(k), group)


# ---- on a GPU: one kernel over the flat axis


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packing: Plan, how: tuple[Any, ...]) -> torch.Tensor:
    """FlexAttention (Dong 2024, arXiv 2412.05496) with the isolation as its block mask; compiled on CUDA.

    A trunk lies before what continues it, so that on the flat axis too nothing later is ever seen. With a sliding
    window the distance is taken between positions, which a trunk makes another thing than the distance on the axis.
    """
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    scale, window, softcap = how
    span_T, trunk_T, place_T = packing.span_T, packing.trunk_T, _positions(packing)

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        same = (span_T[key] == span_T[query]) | (span_T[key] == trunk_T[query])
        seen = same & (key <= query)
        return seen if window is None else seen & (place_T[query] - place_T[key] < window)

    def capped(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return softcap * torch.tanh(score / softcap)

    key = ("block mask", window)
    if key not in packing.made:
        tokens = len(span_T)
        packing.made[key] = create_block_mask(sees, None, None, tokens, tokens, device=str(q.device))
    run = _compiled(flex_attention) if q.is_cuda else flex_attention
    modify = None if softcap is None else capped
    out: torch.Tensor = run(
        q[None], k[None], v[None], modify, packing.made[key], scale=scale, enable_gqa=len(q) != len(k)
    )
    return out[0]


@cache
def _compiled(function: Any) -> Any:
    import torch

    return torch.compile(function, dynamic=True)


def _positions(packing: Plan) -> torch.Tensor:
    """Position of each token in its own sequence."""
    import torch

    sizes = torch.bincount(packing.span_T)
    first = (sizes.cumsum(0) - sizes)[packing.span_T]
    place_T = torch.arange(len(packing.span_T), device=first.device) - first
    continues = packing.trunk_T != packing.span_T
    return torch.where(continues, place_T + sizes[packing.trunk_T], place_T)

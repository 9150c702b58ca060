"""Models that do not write from left to right in one sequence: masked (BERT) and encoder-decoder (T5, BART).

A row is the same Tokens: prompt, answer, stop. An encoder-decoder reads the prompt and is taught answer and stop. A
masked model is shown what stands before a token with a mask in its place, one sequence for each token that is taught,
and it is asked in the same way. Nothing is packed; padding is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from didact.errors import UsageError

if TYPE_CHECKING:
    import torch

    from didact.render import Tokens

Kind = Literal["causal", "masked", "encoder-decoder"]
KINDS: tuple[Kind, ...] = ("causal", "masked", "encoder-decoder")
STRIDE = 7  # of a plain text a masked model is asked for every seventh token at a time, about the share of BERT


@dataclass(frozen=True, slots=True)
class Shown:
    """One sequence as the model gets it. ids: of the decoder if there is a source, which is for the encoder.

    reads: places of ids where a prediction is read; labels: the tokens that are right there.
    """

    ids: list[int]
    reads: list[int]
    labels: list[int]
    source: list[int] | None = None


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """What a config.json describes; None if transformers knows no language model of it."""
    from transformers.models.auto import modeling_auto as auto

    kind, classes = config.get("model_type"), [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        return "encoder-decoder" if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or sees(config)
    told = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes) and not config.get("is_decoder")
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and (told or not causal):
        return "masked"
    return "causal" if causal else None


def sees(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a model of pictures and text that writes from left to right."""
    from transformers.models.auto import modeling_auto as auto

    kind, classes = config.get("model_type"), [str(name) for name in config.get("architectures") or ()]
    known = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(str(kind))
    plain = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(kind))
    if known is None or config.get("is_encoder_decoder") or "vision_config" not in config:
        return False
    return known == plain or plain is None or plain not in classes


def decoder_start(model: Any) -> list[int]:
    """What stands before the answer in the decoder: T5's pad; BART's end, and the BOS that it is made to write."""
    start = model.config.decoder_start_token_id
    if start is None:
        raise UsageError(
            "the model does not say how its decoder starts", "add decoder_start_token_id to its config.json"
        )
    forced = getattr(model.generation_config, "forced_bos_token_id", None)
    return [int(start)] if forced is None else [int(start), int(forced)]


def cost(kind: Kind, tokens: Tokens) -> int:
    """How many tokens a row takes in a forward pass."""
    return len(tokens.ids) * (max(1, tokens.supervised) if kind == "masked" else 1)


def taught(loaded: Any, ids: Sequence[int], start: int, end: int) -> Iterator[Shown]:
    """The sequences that predict ids start..end-1 from all that stands before each."""
    ids = list(ids)
    if loaded.kind == "masked":
        for k in range(start, end):
            yield Shown([*ids[:k], loaded.mask_id], [k], [ids[k]])
        return
    first = decoder_start(loaded.model)
    reads = [len(first) - 1 + k for k in range(end - start)]
    yield Shown([*first, *ids[start : end - 1]], reads, ids[start:end], ids[:start])


def plain(loaded: Any, ids: Sequence[int]) -> Iterator[Shown]:
    """The sequences that predict a plain text: every seventh token at a time; of an encoder-decoder, its later half."""
    ids = list(ids)
    if loaded.kind == "masked":
        offset = int(loaded.renderer.bos is not None)
        for first in range(offset, min(len(ids), offset + STRIDE)):
            reads = list(range(first, len(ids), STRIDE))
            hidden = [loaded.mask_id if i in set(reads) else id_ for i, id_ in enumerate(ids)]
            yield Shown([*hidden, loaded.renderer.stop_ids[0]], reads, [ids[i] for i in reads])
    elif len(ids) > 1:
        half = len(ids) // 2
        first_ids = decoder_start(loaded.model)
        reads = [len(first_ids) - 1 + k for k in range(len(ids) - half)]
        yield Shown([*first_ids, *ids[half:-1]], reads, ids[half:], [*ids[:half], loaded.renderer.stop_ids[0]])


def tensors(loaded: Any, shown: Sequence[Shown]) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The padded ids (B, T), the places of the flat axis that are read (N), and the other inputs of the model."""
    import torch

    ids_BT, seen_BT = _padded([one.ids for one in shown], loaded.pad_id)
    reads_N = torch.tensor([i * ids_BT.shape[1] + place for i, one in enumerate(shown) for place in one.reads])
    if loaded.kind == "masked":
        return ids_BT, reads_N, {"attention_mask": seen_BT}
    source_BS, seen_BS = _padded([one.source or [] for one in shown], loaded.pad_id)
    inputs = {"input_ids": source_BS, "attention_mask": seen_BS, "decoder_input_ids": ids_BT}
    return ids_BT, reads_N, inputs


def logits(loaded: Any, shown: Sequence[Shown]) -> torch.Tensor:
    """Logits at what is read of some sequences (N, V), fp32."""
    ids_BT, reads_N, inputs = tensors(loaded, shown)
    inputs = {name: value.to(loaded.device) for name, value in ({"input_ids": ids_BT} | inputs).items()}
    found: torch.Tensor = loaded.model(**inputs).logits.flatten(0, 1)[reads_N.to(loaded.device)].float()
    return found


def nats(loaded: Any, groups: Sequence[Sequence[Shown]], max_tokens: int = 8192) -> list[float]:
    """Summed negative log-likelihood (nats) of the labels of each group of sequences."""
    import torch

    alone = sorted(((i, one) for i, group in enumerate(groups) for one in group), key=lambda pair: -_length(pair[1]))
    sums = torch.zeros(len(groups), dtype=torch.double)
    loaded.model.eval()
    while alone:
        size = max(1, max_tokens // _length(alone[0][1]))
        some, alone = alone[:size], alone[size:]
        labels_N = torch.tensor([label for _, one in some for label in one.labels], device=loaded.device)
        owners_N = torch.tensor([i for i, one in some for _ in one.labels])
        with torch.inference_mode():
            found_NV = logits(loaded, [one for _, one in some])
            nats_N = torch.nn.functional.cross_entropy(found_NV, labels_N, reduction="none")
        sums.index_add_(0, owners_N, nats_N.double().cpu())
    values: list[float] = sums.tolist()
    return values


def steps(loaded: Any, prompts: Sequence[list[int]], limit: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Greedy next ids and whose they are, step by step, until all rows have stopped or made `limit` tokens."""
    import torch

    stops, done = set(loaded.renderer.stop_ids), [list[int]() for _ in prompts]
    rows, cache = list(range(len(prompts))), _Cache()
    for _ in range(limit):
        with torch.inference_mode():
            if loaded.kind == "masked":
                next_ids = logits(
                    loaded, [Shown([*prompts[i], *done[i], loaded.mask_id], [len(prompts[i]) + len(done[i])], [0])
                             for i in rows]
                ).argmax(-1)  # fmt: skip
            else:
                next_ids = cache.next(loaded, [prompts[i] for i in rows], [done[i] for i in rows])
        yield next_ids, list(rows)
        for i, id_ in zip(rows, next_ids.tolist(), strict=True):
            done[i].append(id_)
        kept = [n for n, i in enumerate(rows) if done[i][-1] not in stops]
        if not kept:
            return
        if len(kept) < len(rows):
            cache.keep(kept)
            rows = [rows[n] for n in kept]


class _Cache:
    """What the encoder said and the decoder has seen, of the rows that go on."""

    def __init__(self) -> None:
        self.past: Any = None
        self.states: Any = None
        self.seen_BS: torch.Tensor | None = None

    def next(self, loaded: Any, prompts: Sequence[list[int]], done: Sequence[list[int]]) -> torch.Tensor:
        import torch
        from transformers import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        model = loaded.model.eval()
        if self.past is None:
            source_BS, seen_BS = _padded(prompts, loaded.pad_id)
            self.seen_BS = seen_BS.to(loaded.device)
            found = model.get_encoder()(input_ids=source_BS.to(loaded.device), attention_mask=self.seen_BS)
            self.states = found.last_hidden_state
            self.past = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
            new = [decoder_start(model) for _ in prompts]
        else:
            new = [ids[-1:] for ids in done]
        logits_BTV = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states),
            attention_mask=self.seen_BS,
            decoder_input_ids=torch.tensor(new, device=loaded.device),
            past_key_values=self.past,
            use_cache=True,
        ).logits
        ids_B: torch.Tensor = logits_BTV[:, -1].argmax(-1)
        return ids_B

    def keep(self, rows: list[int]) -> None:
        import torch

        if self.past is not None:
            assert self.seen_BS is not None
            chosen = torch.tensor(rows, device=self.seen_BS.device)
            self.past.batch_select_indices(chosen)
            self.states, self.seen_BS = self.states[chosen], self.seen_BS[chosen]


def _length(one: Shown) -> int:
    return len(one.ids) + len(one.source or ())


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, and where they are."""
    import torch

    length = max(map(len, rows))
    ids, seen = torch.full((len(rows), length), pad), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        seen[i, : len(row)] = 1
    return ids, seen

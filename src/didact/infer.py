"""Ask a model: greedy answers, ranked choices, loss of plain text, a stream for chat. One renderer with training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from didact import kinds
from didact.errors import UsageError
from didact.forward import FAULTS, Head, head
from didact.instance import Instance, Message, Origin
from didact.render import pictures
from didact.trees import Tree, flatten, lay, regroup, tree_of
from didact.vision import following, positions

if TYPE_CHECKING:
    import torch

    from didact.model import Loaded


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer. stopped: it ended with a stop token, not at the limit; tokens: generated, stop included."""

    text: str
    stopped: bool
    tokens: int


class Answerer:
    """Answers instances with a loaded model; all results are in the order of the instances.

    temperature: 0 is greedy, else answers are drawn at it from `seed`.
    """

    def __init__(
        self,
        loaded: Loaded,
        max_new_tokens: int = 64,
        batch_size: int = 128,
        max_tokens: int = 8192,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.temperature, self.seed = temperature, seed  # 0: greedy
        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self._generator: torch.Generator | None = None
        self._trees: bool | None = None if loaded.kind == "causal" else False
        self._head: Head | None = None
        self._shown: dict[int, list[str]] = {}  # the pictures of instances that are ranked

    # ---- generation

    def answer(self, instances: Sequence[Instance]) -> list[Answer]:
        """Greedy answers, or drawn ones. Raises UsageError for a prompt that fills the model's positions."""
        prompts = self.loaded.renderer.prompt_all(instances)
        self._fit(instances, prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Answer] = {}
        longest = max(map(len, prompts), default=0) + self.max_new_tokens
        size = max(1, min(self.batch_size, 8 * self.max_tokens // max(longest, 1)))  # a cached token costs less
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            seen = [pictures(instances[i].context) for i in rows]
            for row, ids in zip(rows, self.generate([prompts[i] for i in rows], seen), strict=True):
                answers[row] = self._answer(ids)
        return [answers[i] for i in range(len(prompts))]

    def generate(self, prompts: Sequence[list[int]], images: Sequence[Sequence[str]] = ()) -> list[list[int]]:
        """Greedy continuations of some prompts in one batch, each with its stop token if it reached one.

        images: the pictures of each prompt.
        """
        done: list[list[int]] = [[] for _ in prompts]
        for ids_B, rows in self._steps(prompts, images):
            for row, id_ in zip(rows, ids_B.tolist(), strict=True):
                done[row].append(id_)
        return done

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Pieces of the greedy answer to a conversation as they are generated."""
        instance = Instance.of((*messages, Message("assistant", ())), Origin("chat", 0))
        prompt = self.loaded.renderer.prompt(instance)
        self._fit([instance], [prompt])
        ids: list[int] = []
        shown = ""
        for ids_B, _ in self._steps([prompt], [pictures(instance.context)]):
            ids.append(int(ids_B[0]))
            text = self.loaded.renderer.decode(ids)
            if (
                text.startswith(shown) and text != shown and not text.endswith("\ufffd")
            ):  # half a character waits for its other half
                yield text[len(shown) :]
                shown = text
        rest = self.loaded.renderer.decode(ids)[len(shown) :]
        if rest:
            yield rest

    def _answer(self, ids: list[int]) -> Answer:
        stopped = bool(ids) and ids[-1] in self.loaded.renderer.stop_ids
        return Answer(self.loaded.renderer.decode(ids[:-1] if stopped else ids).strip(), stopped, len(ids))

    def _steps(
        self, prompts: Sequence[list[int]], images: Sequence[Sequence[str]] = ()
    ) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Next ids and whose they are, step by step. Finished rows leave the batch when they are half of it."""
        import torch
        from transformers import DynamicCache

        if self.loaded.kind != "causal":
            room = (self.loaded.max_positions or 1 << 30) - (
                max(map(len, prompts)) if self.loaded.kind == "masked" else 2
            )
            yield from kinds.steps(self.loaded, prompts, min(self.max_new_tokens, room))
            return
        model, device = self.loaded.model.eval(), self.loaded.device
        stops = torch.tensor(self.loaded.renderer.stop_ids, device=device)
        longest = max(len(prompt) for prompt in prompts)
        limit = min(self.max_new_tokens, (self.loaded.max_positions or 1 << 30) - longest)
        prompts, longest = [self.loaded.virtual + prompt for prompt in prompts], longest + len(self.loaded.virtual)
        ids_BT = torch.full((len(prompts), longest), self.loaded.pad_id, dtype=torch.long)
        seen_BT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for i, prompt in enumerate(prompts):  # padding on the left, so that all rows end together
            ids_BT[i, longest - len(prompt) :] = torch.tensor(prompt)
            seen_BT[i, longest - len(prompt) :] = 1
        ids_BT, seen_BT = ids_BT.to(device), seen_BT.to(device)
        uneven = bool((seen_BT == 0).any())
        given = self._seen(images, ids_BT, [(longest - len(prompt), longest) for prompt in prompts])
        positions_BT = positions(model, ids_BT, seen_BT, given)
        rows, alive_B = list(range(len(prompts))), torch.ones(len(prompts), dtype=torch.bool, device=device)
        cache = DynamicCache(config=model.config)
        for _ in range(limit):
            with torch.inference_mode():
                logits_BV = model(
                    input_ids=ids_BT,
                    attention_mask=seen_BT if uneven else None,
                    position_ids=positions_BT,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                    **given,
                ).logits[:, -1]
            given = {} if self.loaded.vision is None else self.loaded.vision.later(given)
            ids_B = self._next(logits_BV)
            current = alive_B.tolist()
            yield ids_B[alive_B], [row for row, living in zip(rows, current, strict=True) if living]
            alive_B = alive_B & ~torch.isin(ids_B, stops)
            left = int(alive_B.sum())
            if left == 0:
                return
            positions_BT, ids_BT = following(positions_BT), ids_B[:, None]
            seen_BT = torch.nn.functional.pad(seen_BT, (0, 1), value=1)
            if left <= len(rows) // 2:
                kept = alive_B.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                ids_BT, seen_BT, alive_B = ids_BT[kept], seen_BT[kept], alive_B[kept]
                positions_BT, given = positions_BT[..., kept, :], {name: given[name][kept] for name in given}
                rows = [rows[i] for i in kept.tolist()]

    def _seen(
        self, images: Sequence[Sequence[str]], ids_BT: torch.Tensor, prompts: Sequence[tuple[int, int]]
    ) -> dict[str, torch.Tensor]:
        """What the model is given of the pictures of some rows. prompts: where these begin and end."""
        vision = self.loaded.vision
        return {} if vision is None else vision.inputs([one for some in images for one in some], ids_BT, prompts)

    def _next(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The likeliest next ids, or with a temperature ids drawn by their probabilities."""
        import torch

        if self.temperature == 0:
            return logits_BV.argmax(-1)
        if self._generator is None:
            self._generator = torch.Generator(logits_BV.device).manual_seed(self.seed)
        shares_BV = torch.softmax(logits_BV.float() / self.temperature, dim=-1)
        return torch.multinomial(shares_BV, 1, generator=self._generator)[:, 0]

    def _fit(self, instances: Sequence[Instance], prompts: Sequence[list[int]]) -> None:
        limit = self.loaded.max_positions
        for instance, prompt in zip(instances, prompts, strict=True):
            if limit is not None and len(prompt) >= limit:
                raise UsageError(
                    f"the prompt has {len(prompt)} tokens, but the model reads at most {limit}",
                    "shorten or drop it",
                    file=instance.origin.source or None,
                    line=instance.origin.row or None,
                )

    # ---- ranking

    def rank(self, instances: Sequence[Instance]) -> list[list[float]]:
        """Summed log-probability (nats) of each choice and its stop token; [] for an instance without choices."""
        renderer = self.loaded.renderer
        spread = [(i, choice) for i, instance in enumerate(instances) for choice in instance.choices]
        rendered = renderer.render_all([renderer.complete(instances[i], choice) for i, choice in spread])
        scores: list[list[float]] = [[0.0] * len(instance.choices) for instance in instances]
        trees: dict[int, list[tuple[list[int], int]]] = {}
        for (i, _), tokens in zip(spread, rendered, strict=True):
            start, end = tokens.turns[-1]
            trees.setdefault(i, []).append((tokens.ids[:end], start))
        forest = [tree_of(i, group) for i, group in trees.items()]
        self._shown = {tree.number: pictures(instances[tree.number].context) for tree in forest}
        longest = [tree.prompt + max(tree.branches, key=len)[:-1] for tree in forest]
        self._fit([instances[tree.number] for tree in forest], longest)
        for group in self._groups(forest):
            for tree, values in zip(group, self._score(group), strict=True):
                scores[tree.number] = values
        return scores

    def _groups(self, forest: list[Tree]) -> Iterator[list[Tree]]:
        group: list[Tree] = []
        for tree in sorted(forest, key=lambda tree: tree.length):
            if group and (len(group) + 1) * tree.length > self.max_tokens:
                yield group
                group = []
            group.append(tree)
        if group:
            yield group

    def _score(self, group: list[Tree]) -> list[list[float]]:
        """Together where the model takes an attention mask of our own and proves it, else choice by choice."""
        if self._trees is None:
            limited = [tree for tree in group if len(tree.branches) > 1][:2]
            if limited:
                flat = flatten(self._score_rows(limited))
                try:
                    tall = flatten(self._score_trees(limited))
                except FAULTS:
                    tall = [math.inf] * len(flat)
                self._trees = all(abs(a - b) <= 1e-3 * max(1.0, abs(a)) for a, b in zip(flat, tall, strict=True))
        return self._score_trees(group) if self._trees else self._score_rows(group)

    def _score_rows(self, group: list[Tree]) -> list[list[float]]:

        rows = [(tree.prompt, branch) for tree in group for branch in tree.branches]
        images = [self._shown[tree.number] for tree in group for _ in tree.branches]
        values: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            spans = [(len(prompt) - 1, len(prompt) + len(branch) - 1) for prompt, branch in some]
            whole, seen = [prompt + branch for prompt, branch in some], images[start : start + self.batch_size]
            values += [-nats for nats in self._nats(whole, spans, seen)]
        return regroup(values, group)

    def _score_trees(self, group: list[Tree]) -> list[list[float]]:
        """One row per instance: the prompt once, then the branches, each seeing the prompt and itself."""
        import torch

        laid = lay(
            [Tree(tree.number, self.loaded.virtual + tree.prompt, tree.branches) for tree in group],
            self.loaded.pad_id,
            self.loaded.device,
        )
        given = self._seen(
            [self._shown[tree.number] for tree in group], laid.ids_BT, [(0, len(t.prompt)) for t in group]
        )
        logits_NV = self._logits(
            laid.ids_BT, laid.chosen_BT, attention_mask=laid.mask_B1TT, position_ids=laid.positions_BT, **given
        )
        nats_N = torch.nn.functional.cross_entropy(logits_NV[laid.place_N], laid.targets_N, reduction="none")
        return regroup(laid.sums(-nats_N.double()), group)

    # ---- plain text

    def text_loss(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Summed negative log-likelihood (nats) and number of predicted tokens of each text, without any template.

        The first token is predicted only where the tokenizer puts BOS before it. Longer texts are read in windows.
        """

        renderer = self.loaded.renderer
        limit = self.loaded.max_positions or 4096
        if self.loaded.kind != "causal":
            return self._other_text_loss(texts, limit - 2)
        windows: list[tuple[int, list[int]]] = []
        for i, text in enumerate(texts):
            ids = renderer.plain(text)
            windows += [(i, ids[start : start + limit]) for start in range(0, max(len(ids) - 1, 0), limit - 1)]
        sums, counts = [0.0] * len(texts), [0] * len(texts)
        windows.sort(key=lambda window: len(window[1]))
        for start in range(0, len(windows), self.batch_size):
            some = windows[start : start + self.batch_size]
            nats = self._nats([ids for _, ids in some], [(0, len(ids) - 1) for _, ids in some])
            for (i, ids), value in zip(some, nats, strict=True):
                sums[i] += value
                counts[i] += len(ids) - 1
        return list(zip(sums, counts, strict=True))

    def _other_text_loss(self, texts: Sequence[str], limit: int) -> list[tuple[float, int]]:
        """A masked model is asked for every token between its neighbours, an encoder-decoder for the later half."""
        groups: list[list[kinds.Shown]] = []
        for text in texts:
            ids = self.loaded.renderer.plain(text)
            windows = [ids[start : start + limit] for start in range(0, len(ids), limit)]
            groups.append([one for window in windows for one in kinds.plain(self.loaded, window)])
        nats = kinds.nats(self.loaded, groups, self.max_tokens)
        return [(value, sum(len(one.labels) for one in group)) for value, group in zip(nats, groups, strict=True)]

    def answer_loss(self, instances: Sequence[Instance]) -> list[float]:
        """Mean nats per token of each instance's last answer and its stop; NaN if none of it fits the model."""
        limit = self.loaded.max_positions or 1 << 30
        rows: list[tuple[int, list[int], int]] = []
        for number, tokens in enumerate(self.loaded.renderer.render_all(instances)):
            start, end = tokens.turns[-1] if tokens.turns else (0, 0)
            if max(start, 1) < min(end, limit):  # pictures stand before the answer, so none is cut
                rows.append((number, tokens.ids[: min(end, limit)], max(start, 1)))
        rows.sort(key=lambda row: len(row[1]))
        losses = [math.nan] * len(instances)
        while rows:
            size = max(1, self.max_tokens // len(rows[-1][1]))
            some, rows = rows[-size:], rows[:-size]
            spans = [(start - 1, len(ids) - 1) for _, ids, start in some]
            seen = [pictures(instances[number].context) for number, _, _ in some]
            nats = self._nats([ids for _, ids, _ in some], spans, seen)
            for (number, ids, start), value in zip(some, nats, strict=True):
                losses[number] = value / (len(ids) - start)
        return losses

    def _nats(
        self, rows: list[list[int]], spans: list[tuple[int, int]], images: Sequence[Sequence[str]] = ()
    ) -> list[float]:
        """Summed nats of each row over the positions a..b-1 whose next tokens are asked for; images: of each row."""
        import torch

        if self.loaded.kind != "causal":
            some = [list(kinds.taught(self.loaded, ids, a + 1, b + 1)) for ids, (a, b) in zip(rows, spans, strict=True)]
            return kinds.nats(self.loaded, some, self.max_tokens)
        ahead = len(self.loaded.virtual)
        rows, spans = [self.loaded.virtual + row for row in rows], [(a + ahead, b + ahead) for a, b in spans]
        device, length = self.loaded.device, max(map(len, rows)) - 1
        ids_BT = torch.full((len(rows), length + 1), self.loaded.pad_id, dtype=torch.long)
        chosen_BT = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, (ids, (a, b)) in enumerate(zip(rows, spans, strict=True)):
            ids_BT[i, : len(ids)] = torch.tensor(ids)
            chosen_BT[i, a:b] = True
        ids_BT = ids_BT.to(device)
        given = self._seen(images, ids_BT[:, :-1], [(0, a + 1) for a, _ in spans])
        logits_NV = self._logits(ids_BT[:, :-1], chosen_BT.to(device), **given)
        targets_N = ids_BT[:, 1:][chosen_BT.to(device)]
        nats_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none").double()
        row_N = chosen_BT.nonzero()[:, 0].to(device)
        sums: list[float] = nats_N.new_zeros(len(rows)).index_add(0, row_N, nats_N).tolist()
        return sums

    def _logits(self, ids_BT: torch.Tensor, chosen_BT: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        import torch

        model = self.loaded.model.eval()
        if self.loaded.vision is not None and self.loaded.vision.reader and not inputs:
            with torch.inference_mode():  # text alone: such a model is called only with a picture
                bare: torch.Tensor = model.language_model(input_ids=ids_BT, use_cache=False).logits[chosen_BT]
            return bare.float()
        if self._head is None:
            self._head = head(self.loaded, ids_BT, chosen_BT, lambda text: None)
        with torch.inference_mode():
            return self._head(ids_BT, chosen_BT, **inputs).float()
